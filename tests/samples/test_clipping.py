"""Clipped steps: weighted steps to the bit, read once or twice, in pieces or whole, and near the true gradients."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdgpu
from gdgpu.core.batches import REDUCTIONS
from gdgpu.kernels.samples import clip_reduce as kernels
from gdgpu.kernels.samples.clip_reduce import Clipped
from support.checks import optimizer_and_inputs, refused
from support.covering import usual
from support.layouts import VIEWS
from support.memory import peak_of
from support.optimizers import OPTIMIZERS, snapshot
from support.pairs import assert_same_optimizers, gradients, two_of
from support.references import DTYPES, assert_same_bits, dtype_of, error_bound, exact, samples, sums_of, tree
from support.sample_norms import MIXED, batch, factors_of, norms_of, roundings_of

NAN, INF = math.nan, math.inf


def median_of(norms):
    """A norm to clip to, which is below that of half of the samples, or more."""
    return 0.9 * float(np.median(norms)) if len(norms) else 1.0


def weights_for(B, dtype="float32"):
    return np.random.default_rng(B).uniform(-1, 2, B).astype(sums_of(dtype))


def clipped(G, C, weights=None, reduction="mean"):
    """The gradients of a step of descent: params, 0 before it, are then 0 minus them."""
    params = [np.zeros(g.shape[1:], sums_of(g.dtype.name)) for g in G]
    gdgpu.SGD(params, 1.0).step_samples(G, weights, reduction, C)
    return [0 - w for w in params]


def expected_of(G, C, weights=None, reduction="mean"):
    """The same by the references, a sum of -0 as +0."""
    c = factors_of(norms_of(G), C) * (1 if weights is None else weights)
    return [tree(g, c, reduction) + 0 for g in G]


def assert_all_same(actual, expected):
    for one, two in zip(actual, expected, strict=True):
        assert_same_bits(one, two)


# step_samples and bind_samples

OVERRIDES = {
    "SGD-dampening": {"weight_decay": 0.1, "maximize": True},
    "Momentum": {"nesterov": True},
    "LARS": {"trust_coefficient": 0.1},
}
KINDS = [(label, OVERRIDES.get(label, {})) for label in OPTIMIZERS] + [
    ("Momentum", {"state_dtype": "uint8"}),
    ("Momentum", {"ema": 0.9}),
    ("Adam", {"state_dtype": "uint8", "rounding": "stochastic", "seed": 3}),
    ("AdamW", {"state_dtype": "bfloat16", "rounding": "stochastic", "seed": 3}),
]
# Of each number of states one, a rule of two phases, and each way to hold state: a step is clipped before its rule.
FEW = ("SGD", "Momentum", "SGD-dampening", "Adam-amsgrad", "LARS", "AdamW")
USUAL = [(label, hyper) for label, hyper in KINDS if label in FEW and (label != "AdamW" or hyper)]


def documented(G, C, weights=None):
    """What a step to C is documented to take for weights, by the library's own norms."""
    factors = gdgpu.clip_weights(gdgpu.sample_norms(G), C)
    return factors if weights is None else factors * weights.astype(factors.dtype)


def compare(clips, apart, G, weights=None, reduction="mean"):
    """A clipped step of the one is a weighted step of the other."""
    C = median_of(gdgpu.sample_norms(G))
    clips.step_samples(G, weights, reduction, C)
    apart.step_samples(G, documented(G, C, weights), reduction)
    assert_same_optimizers(clips, apart)


@pytest.mark.parametrize("threads", (1, 3))  # which read 40 and 64 samples once, and twice
@pytest.mark.parametrize(("label", "hyper"), usual(KINDS, USUAL), ids=str)
def test_every_optimizer(label, hyper, threads, use_threads):
    use_threads(threads)
    clips, apart = two_of(label, ["float32"] * 4, hyper)
    for step, B in enumerate((40, 0, 1, 64)):
        compare(clips, apart, gradients(B, ["float32"] * 4, step), reduction=REDUCTIONS[step % 2])


DTYPE_SETS = [("Momentum", {}, dtypes) for dtypes in (*([d] * 4 for d in DTYPES), MIXED)]
DTYPE_SETS += [("LAMB", {}, MIXED), ("Adam", {"master": True}, ["float16", "bfloat16"] * 2)]


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize(("label", "hyper", "dtypes"), usual(DTYPE_SETS, DTYPE_SETS[:5]), ids=str)
def test_every_dtype_and_several_side_by_side(label, hyper, dtypes, weighted):
    clips, apart = two_of(label, dtypes, hyper)
    for step, B in enumerate((1, 40, 0, 1100)):
        weights = weights_for(B).astype(np.float64) * 1.1 if weighted else None  # which are cast first
        for g_dtypes in {tuple(dtypes), tuple(dtypes[::-1])}:
            compare(clips, apart, gradients(B, g_dtypes, step), weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_views(view, dtype, use_threads):
    use_threads(1)
    G = [VIEWS[view](g) for g in batch(35, (1, 129, 3000), dtype)]
    C = median_of(norms_of(G))
    assert_all_same(clipped(G, C), expected_of(G, C))


def test_groups_share_a_samples_norm_and_rules_too():
    G = batch(50, (30, 7, 300), "float32")
    C, pair = median_of(norms_of(G)), [[samples((g.shape[1],), "float32", 9) for g in G] for _ in range(2)]
    for params, weights, max_norm in zip(pair, (None, documented(G, C)), (C, None), strict=True):
        groups = [{"params": params[:1]}, {"params": params[1:], "nesterov": True, "lr": 0.5}]
        gdgpu.Momentum(groups, 0.1).step_samples([G[:1], G[1:]], weights, max_norm=max_norm)
    assert_all_same(*pair)


def test_tensors_are_added_up_in_the_order_of_params():
    params = {k: np.zeros(P, np.float32) for k, P in {"a": 900, "b": 1, "c": 70}.items()}
    G = {k: samples((40, len(w)), "float32", w.size) for k, w in params.items()}
    other, C = {k: G[k] for k in ("c", "a", "b")}, median_of(norms_of(G.values()))
    assert (norms_of(G.values()) != norms_of(other.values())).any()
    gdgpu.SGD(params, 1.0).step_samples(other, max_norm=C)
    assert_all_same([0 - w for w in params.values()], expected_of(G.values(), C))


SIZES = {
    "few rows": (7, (40, 1)),
    "two nodes": (33, (5,)),
    "21 rows in the cache at a time": (70, (3000, 0, 7)),
    "a row larger than it": (40, (70_000,)),
    "three levels": (1100, (17, 3)),
    "pieces of three": (33_000, (2,)),
    "no columns": (40, (0,)),
    "many tensors": (40, tuple(k % 3 for k in range(35))),
}


@pytest.mark.parametrize("size", SIZES)
def test_read_once_or_twice_on_any_threads(size, use_threads, monkeypatch):
    (B, columns), dtypes = SIZES[size], ("bfloat16", "float64")
    monkeypatch.setattr(kernels, "CPU_PIECES", 1)  # fewer are larger
    batches = [batch(B, columns, dtype) for dtype in dtypes]
    limits = [median_of(norms_of(G)) for G in batches]
    expected = [expected_of(G, C, weights_for(B, d), "sum") for G, C, d in zip(batches, limits, dtypes, strict=True)]
    for choose in (Clipped.segment, lambda self, rows: None):
        monkeypatch.setattr(Clipped, "segment", choose)
        for threads in (1, 2, 5):
            use_threads(threads)
            for G, C, d, wanted in zip(batches, limits, dtypes, expected, strict=True):
                assert_all_same(clipped(G, C, weights_for(B, d), "sum"), wanted)


@pytest.mark.parametrize(
    ("B", "threads", "once"), [(32, 1, False), (33, 1, True), (64, 2, True), (64, 3, False), (1100, 5, True)]
)
def test_samples_are_read_once_where_there_are_nodes_for_all_threads(B, threads, once, use_threads, monkeypatch):
    """So that the sizes and threads above mean both."""
    prepare, taken = Clipped.prepare, []
    monkeypatch.setattr(Clipped, "prepare", lambda self, *job: taken.append(self) or prepare(self, *job))
    use_threads(threads)
    clipped(batch(B, (3,), "float32"), 1.0)
    assert len(taken) == once


@pytest.mark.parametrize("B", (4, 32, 33, 70))
@pytest.mark.parametrize("threads", (1, 2, 5))
def test_a_sum_of_minus_zero(threads, B, use_threads):
    """What vanishes below 0 is -0 in a root that is a first node, and +0 in others; -0 - -0 is +0 in turn."""
    use_threads(threads)
    w = np.full(3, -0.0, np.float32)
    gdgpu.SGD(w, 1.0).step_samples(np.full((B, 3), -1e-30, np.float32), np.full(B, 1e-30), "sum", 1.0)
    assert_same_bits(w, np.full(3, 0.0 if B <= 32 else -0.0, np.float32))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", (1, 20, 100))
def test_gradients_are_near_those_of_numpy(B, dtype, reduction):
    columns = (3, 40)
    G, weights = batch(B, columns, dtype), weights_for(B, dtype)
    norms = np.sqrt(sum((g.astype(np.float64) ** 2).sum(1) for g in G))
    C = float(np.float32(median_of(norms)))
    factors = np.minimum(1, C / norms)
    unit = np.finfo(sums_of(dtype)).eps / 2
    for found, g in zip(clipped(G, C, weights, reduction), G, strict=True):
        true, magnitude = exact(g, weights * factors, reduction)
        more = (roundings_of(columns) / 2 + 5) * unit * magnitude  # of the norm, the factor, and its product
        assert (np.abs(found - true) <= error_bound(B, magnitude, sums_of(dtype)) + more).all()


@pytest.mark.parametrize("threads", (1, 5))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", (5, 70))
def test_norms_to_clip_to(B, dtype, threads, use_threads):
    use_threads(threads)
    G, weights = batch(B, (3, 40), dtype), weights_for(B, dtype)
    for g in G:
        g[1:3] = 0  # which no norm clips
    assert all((g == 0).all() for g in clipped(G, 0, weights))
    unclipped = [gdgpu.reduce_samples(g, weights) + 0 for g in G]
    assert all((g != 0).any() for g in unclipped)
    for C in (INF, np.float32(INF), 1e30, *[1e300] * (dtype != "float64")):  # beyond all numbers of float32
        assert_all_same(clipped(G, C, weights), unclipped)
    C = median_of(norms_of(G)[3:])
    assert_all_same(clipped(G, C, weights), expected_of(G, C, weights))


@pytest.mark.parametrize("threads", (1, 5))
@pytest.mark.parametrize("bad", (NAN, INF, -INF, 2e19))
def test_a_norm_that_is_not_finite_makes_weights_nan(bad, threads, use_threads):
    """In all tensors, whatever the norm that is not inf; else it stays where it is."""
    use_threads(threads)
    G = batch(70, (3, 40), "float32")
    G[0][50, 1] = bad
    for C in (0.0, 1.0, 1e30):
        assert all(np.isnan(g).all() for g in clipped(G, C))
    with np.errstate(invalid="ignore"):
        for found, g in zip(clipped(G, INF), G, strict=True):
            assert_same_bits(found, gdgpu.reduce_samples(g) + 0)


@pytest.mark.parametrize("dtypes", (["float32"] * 4, MIXED))
@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize(("B", "threads"), [(0, (1, 1)), (33, (1, 3)), (33, (3, 1)), (1100, (2, 5))])
def test_bound_steps_clip_what_the_arrays_hold_then(B, threads, weighted, dtypes, use_threads):
    bound, plain = two_of("LARS", dtypes, {"trust_coefficient": 0.1})
    G, weights = gradients(B, dtypes, 1), weights_for(B) if weighted else None
    C = median_of(norms_of(G.values()))
    use_threads(threads[0])
    run = bound.bind_samples(G, weights, "sum", C)
    assert_same_optimizers(bound, plain)
    for seed in (2, 3):
        for k, g in gradients(B, dtypes, seed).items():
            G[k][...] = g
        if weighted:
            weights *= -0.5
        use_threads(threads[seed % 2])
        run()
        plain.step_samples(G, documented(G, C, weights), "sum")
        assert_same_optimizers(bound, plain)


# Accumulator


@settings(max_examples=80, deadline=None)
@given(
    cuts=st.lists(st.one_of(st.integers(0, 5), st.sampled_from([31, 32, 33, 64, 1024])), min_size=1, max_size=8),
    columns=st.lists(st.integers(0, 140), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
    reduction=st.sampled_from(REDUCTIONS),
    pad=st.integers(0, 3),
    step=st.sampled_from((1, 2, -1)),
)
def test_any_views_and_pieces(cuts, columns, dtype, weighted, reduction, pad, step):
    """A batch in pieces, or whole, is the weighted tree of the whole."""
    B = sum(cuts)
    G = [g[::step, : g.shape[1] - pad] for g in batch(B * abs(step), [P + pad for P in columns], dtype)]
    weights, C = weights_for(B, dtype) if weighted else None, median_of(norms_of(G))
    expected = expected_of(G, C, weights, reduction)
    assert_all_same(clipped(G, C, weights, reduction), expected)
    accumulator, first = gdgpu.Accumulator([np.zeros(P, dtype_of(dtype)) for P in columns]), 0
    for cut in cuts:
        piece = slice(first, first + cut)
        accumulator.add([g[piece] for g in G], None if weights is None else weights[piece], C)
        first += cut
    assert_all_same([g + 0 for g in accumulator.result(reduction)], expected)


def test_pieces_of_several_dtypes_clipped_or_not():
    """G may have other dtypes each time, and each piece its own norm."""
    wide = {k: np.zeros(P, np.float32) for k, P in {"a": 900, "b": 30}.items()}
    accumulator, leaves = gdgpu.Accumulator(wide), {"a": [], "b": []}
    for step, (C, dtypes) in enumerate([(1e3, MIXED[:2]), (None, MIXED[1:3]), (0.0, MIXED[:2]), (1e-3, MIXED[2:])]):
        G = batch(40 + step, (900, 30), dtypes, step)
        accumulator.add({"b": G[1], "a": G[0]}, max_norm=C)
        for k, g in zip("ab", G, strict=True):
            leaves[k].append((g.astype(np.float32), np.ones(len(g)) if C is None else factors_of(norms_of(G), C)))
    for k, found in accumulator.result().items():
        assert_same_bits(found, tree(*(np.concatenate(part) for part in zip(*leaves[k], strict=True))))


def test_a_ragged_last_batch_weighs_as_much_as_its_samples():
    values = np.repeat([1.0, 2.0, 12.0], [32, 32, 7])[:, None]
    accumulator = gdgpu.Accumulator(np.zeros(1))
    for piece in np.split(values, (32, 64)):
        accumulator.add(piece, max_norm=4.0)
    assert accumulator.count == 71
    np.testing.assert_allclose(accumulator.result(), (32 * 1 + 32 * 2 + 7 * 4) / 71, rtol=1e-14)


# Memory, and bad input


@pytest.mark.parametrize(("B", "P", "threads"), [(64, 100_000, 1), (64, 100_000, 3), (8000, 800, 2)])
@pytest.mark.parametrize("dtypes", [["float32"] * 2, ["bfloat16", "float32"]], ids="-".join)
def test_no_second_matrix_is_made(dtypes, B, P, threads, use_threads):
    use_threads(threads)

    def calls_on(G):
        params = [np.zeros(g.shape[1], np.float32) for g in G]
        optimizer, accumulator = gdgpu.LARS(params, 0.1), gdgpu.Accumulator(params)
        return lambda: optimizer.step_samples(G, max_norm=1.0), lambda: accumulator.add(G, max_norm=1.0)

    for call in calls_on(batch(64, (3, 3), dtypes)):
        call()  # compiles
    G = [np.ones((B, P), dtype_of(d)) for d in dtypes]
    for call in calls_on(G):
        assert peak_of(call) < G[0].nbytes / 4
    use_threads(1)  # of several, one may take part, and get its scratch, in the second step first
    step, _ = calls_on(G)
    step()
    assert peak_of(step) < 20_000  # all is there


BAD = (-1, -1e-9, NAN, -INF, "1", "", True, [1.0], 1j, 10**400, np.ones(2), np.full(1, INF))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad!s:.9}")
def test_a_max_norm_that_is_refused_changes_nothing(bad):
    with refused("max_norm"):
        gdgpu.clip_weights(np.ones(3), bad)
    w, G = np.arange(6.0), samples((7, 6), "float64")
    optimizer, accumulator = gdgpu.Momentum({"a": w}, 0.1), gdgpu.Accumulator({"a": w})
    optimizer.step_samples({"a": G}, max_norm=1.0)
    accumulator.add({"a": G}, max_norm=1.0)
    before, total = snapshot(optimizer), accumulator.result()["a"]
    for call in (optimizer.step_samples, optimizer.bind_samples, accumulator.add):
        with refused("max_norm"):
            call({"a": G}, max_norm=bad)
    assert snapshot(optimizer) == before and accumulator.count == 7
    assert_same_bits(accumulator.result()["a"], total)


@pytest.mark.parametrize("max_norm", (0.0, 1.0, INF))
def test_params_of_two_precisions_have_no_joint_norm(max_norm):
    optimizer, _, G = optimizer_and_inputs()
    before, accumulator = snapshot(optimizer), gdgpu.Accumulator(optimizer.params)
    for call in (optimizer.step_samples, optimizer.bind_samples, accumulator.add):
        with refused("max_norm", ValueError):
            call(G, max_norm=max_norm)
    assert snapshot(optimizer) == before and accumulator.count == 0


@pytest.mark.parametrize("dtypes", (["float32"] * 4, MIXED), ids="-".join)
def test_what_else_is_wrong_is_seen_before_anything_is_clipped(dtypes):
    one, other = two_of("Momentum", dtypes, {})
    G, accumulator = gradients(40, dtypes, 1), gdgpu.Accumulator(one.params)
    for call in (one.step_samples, one.bind_samples, accumulator.add):
        for bad in (G["wide"][:, 1:], G["wide"][:39], G["wide"].astype("float64")):
            with refused("G"):
                call(G | {"wide": bad}, max_norm=1.0)
        with refused("weights"):
            call(G, np.ones(39, np.float32), max_norm=1.0)
    assert_same_optimizers(one, other)
    assert accumulator.count == 0


def test_no_tensors_and_no_samples():
    optimizer, accumulator = gdgpu.SGD([], 0.1), gdgpu.Accumulator([])
    optimizer.step_samples([], [], max_norm=1.0)
    accumulator.add([], [], max_norm=1.0)
    assert optimizer.steps == 1 and accumulator.count == 0 and accumulator.result() == []
