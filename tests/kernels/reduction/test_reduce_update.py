"""step_samples is reduce_samples and step in one pass: the same bits, for every optimizer and layout."""

import numpy as np
import pytest

import gdgpu
from support.covering import usual
from support.optimizers import OPTIMIZERS
from support.pairs import assert_same_optimizers, gradients, two_of
from support.references import DTYPES, assert_same_bits, dtype_of, samples, sums_of

# Every optimizer, and hyperparameters that take other branches of a rule.
KINDS = [(label, {}) for label in OPTIMIZERS] + [
    ("SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD-momentum", {"maximize": True}),
    ("SGD-dampening", {"weight_decay": 0.1}),
    ("SGD-nesterov", {"weight_decay": 0.1}),
    ("SGD-nesterov", {"maximize": True}),
    ("Momentum", {"momentum": 0.0}),
    ("Momentum", {"nesterov": True}),
    ("Momentum", {"weight_decay": 0.1, "maximize": True}),
    ("Momentum", {"nesterov": True, "weight_decay": 0.1, "maximize": True}),
]
FEW_KINDS = [kind for kind in KINDS if not {"nesterov", "maximize"} & {*kind[1]}] + KINDS[-1:]  # flags are compiled in


def compare(fused, apart, G, weights=None, reduction="mean"):
    fused.step_samples(G, weights, reduction)
    apart.step({k: gdgpu.reduce_samples(g, weights, reduction) for k, g in G.items()})
    assert_same_optimizers(fused, apart)


@pytest.mark.parametrize(("label", "hyper"), usual(KINDS, FEW_KINDS), ids=str)
def test_every_optimizer(label, hyper):
    dtypes = ["float32"] * 4
    fused, apart = two_of(label, dtypes, hyper)
    for step, B in enumerate((1, 40, 0, 32, 1100)):
        compare(fused, apart, gradients(B, dtypes, step), reduction="sum" if step % 2 else "mean")


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype, weighted):
    fused, apart = two_of("Momentum", [dtype] * 4, {})
    for step, B in enumerate((1, 40, 0, 1100)):
        weights = np.random.default_rng(B).standard_normal(B) if weighted else None
        compare(fused, apart, gradients(B, [dtype] * 4, step), weights)


def test_dtypes_side_by_side():
    """One optimizer over all dtypes, each gradient in its own or, for 16 bits, another that adds up in float32."""
    fused, apart = two_of("Momentum", DTYPES, {"weight_decay": 0.1})
    for step, g_dtypes in enumerate([DTYPES, ("bfloat16", "float32", "float16", "float64")]):
        compare(fused, apart, gradients(50, g_dtypes, step), np.linspace(-1, 2, 50))


@pytest.fixture(scope="module", params=(3, 1100))
def large(request):
    """(parameters, per-sample gradients, what the parameters are after a step with their means)."""
    params = [samples((1, 30_000), "float32")[0], samples((1, 5), "float32")[0]]
    some = samples((request.param, 997), "float32", 4)  # again and again: no tile begins where these do
    G = [np.ascontiguousarray(np.tile(some, 31)[:, : len(p)]) for p in params]
    expected = [p.copy() for p in params]
    gdgpu.Momentum(expected, 0.1).step([gdgpu.reduce_samples(g) for g in G])
    return params, G, expected


@pytest.mark.parametrize("threads", (1, 2, 3, 5))
def test_the_number_of_threads_changes_nothing(large, threads, use_threads):
    params, G, expected = large
    params = [p.copy() for p in params]
    use_threads(threads)
    gdgpu.Momentum(params, 0.1).step_samples(G)
    for actual, wanted in zip(params, expected, strict=True):
        assert_same_bits(actual, wanted)


def wide(G):
    buffer = np.full((G.shape[0], G[0].size + 3), np.nan, G.dtype)
    buffer[:, 1:-2] = G.reshape(G.shape[0], -1)
    view = buffer[:, 1:-2]
    shape, strides = G.shape, (view.strides[0], *G.strides[1:])
    return np.lib.stride_tricks.as_strided(view, shape, strides)


VIEWS = {
    "padded rows": wide,
    "reversed": lambda G: np.ascontiguousarray(G[::-1])[::-1],
    "repeated": lambda G: np.broadcast_to(G[:1], G.shape),
    "every second": lambda G: np.repeat(G, 2, axis=0)[::2],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("B", (40, 1100))
def test_views(view, B):
    fused, apart = two_of("Momentum", ["float32"] * 4, {})
    G = {k: VIEWS[view](g) if g[0].size > 1 else g for k, g in gradients(B, ["float32"] * 4, 0).items()}
    compare(fused, apart, G)


def test_one_array_and_unaligned_parameters():
    raw = np.zeros(1000, np.float32)
    params = raw[1:]
    assert params.ctypes.data % 16 != 0 or raw.ctypes.data % 16 != 0
    G = samples((33, 999), "float32")
    gdgpu.SGD(params, 1.0).step_samples(G)
    assert_same_bits(params, -gdgpu.reduce_samples(G))
    assert raw[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_batch_still_takes_its_step(dtype):
    w = np.ones(5, dtype_of(dtype))
    optimizer = gdgpu.Momentum(w, 0.5, momentum=0.5)
    optimizer.step(np.full(5, 1, dtype_of(dtype)))  # velocity -0.5
    optimizer.step_samples(np.empty((0, 5), dtype_of(dtype)))  # velocity -0.25
    assert (w == 0.25).all() and optimizer.steps == 2
    assert (optimizer.state_dict()["state"]["velocity"] == np.full(5, -0.25, sums_of(dtype))).all()
