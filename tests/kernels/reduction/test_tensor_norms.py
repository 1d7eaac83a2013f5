"""Norms of whole tensors: the tree that the design fixes, to the bit, its rounding bound, and the factor that clips."""

import math

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.rules.table import RULES
from support.bits import unaligned
from support.covering import usual
from support.references import (
    CHUNK,
    DTYPES,
    WIDTH,
    assert_same_bits,
    joint_squares,
    longest_path,
    run_two_phases,
    samples,
    squares,
    sums_of,
    two_product,
)

ITEM = 32 * CHUNK  # elements of a node of the tree's lowest level
SIZES = (0, 1, WIDTH - 1, WIDTH, WIDTH + 1, CHUNK - 1, CHUNK, CHUNK + 1, ITEM, ITEM + 1, 33 * ITEM + 5)
COUNTS = (1, 31, 32, 33, 1025)
C = 0.7


def clipped(grads, clip_norm=C):
    """(weights, 0 before a step of gradient descent with these gradients; the sum of squares; the factor)."""
    params = [np.zeros_like(g) for g in grads]
    optimizer = gdgpu.SGD(params, 1.0)
    optimizer.step(grads, clip_norm=clip_norm)
    clip = optimizer._engine.launches.laid_out["clip"]
    [root] = clip.tree.roots
    return params, clip.sums_of_squares[root], clip.factor[0]


def assert_clipped(grads, clip_norm=C):
    """As the tree has it, and every weight is then the gradient times C / norm, rounded once."""
    params, total, factor = clipped(grads, clip_norm)
    sums = sums_of(grads[0].dtype.name).type
    expected = joint_squares([g.reshape(-1) for g in grads])
    assert_same_bits(total, expected)
    n, limit = np.sqrt(expected), sums(clip_norm)
    assert_same_bits(factor, sums(1) if n <= limit else limit / n)
    for w, g in zip(params, grads, strict=True):
        assert_same_bits(w, (0 - g.astype(sums) * factor).astype(w.dtype))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_is_the_tree(dtype, size):
    assert_clipped([samples((size,), dtype)])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tensors_are_one_more_level(dtype, count):
    assert_clipped([samples((k % 5,), dtype, k) for k in range(count)])


def test_large_and_small_tensors_together():
    """Items of one are not added to those of the next, wherever the levels end."""
    assert_clipped([samples((size,), "float32", size) for size in (5, 2 * ITEM, 0, 40 * ITEM, 33 * ITEM + 1, 1)])


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_gradients_of_several_dtypes_are_one_norm(dtype):
    """Launches by dtype, but places by tensor."""
    grads = [samples((300 + k,), dtype if k % 2 else "float32", k) for k in range(70)]
    expected = np.sqrt(joint_squares([g.astype("float32") for g in grads]))
    params = [np.zeros(g.shape, np.float32) for g in grads]
    gdgpu.SGD(params, 1.0).step(grads, clip_norm=C)
    for w, g in zip(params, grads, strict=True):
        assert_same_bits(w, 0 - g.astype("float32") * (np.float32(C) / expected))


@pytest.mark.parametrize("threads", (1, 2, 3))
def test_threads_share_the_work_and_not_the_sums(threads, use_threads):
    use_threads(threads)
    assert_clipped([samples((7 * ITEM + 5,), "float32"), samples((9,), "float32")])


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_a_gradient_lies_does_not_matter(dtype):
    grads = [samples((size,), dtype, size) for size in (1025, 3000)]
    assert_clipped([unaligned(g) for g in grads])


@pytest.mark.parametrize("size", SIZES[1:-1])
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_a_norm_is_near_the_true_one(dtype, size):
    """Each square meets the adds of its lane, of the halving and of the tree, with a rounding each."""
    g = samples((size,), dtype, 1)
    exact = math.fsum(part for x in two_product(g.astype("float64"), g.astype("float64")) for part in x)
    roundings = CHUNK // WIDTH + WIDTH.bit_length() - 1 + longest_path(-(-size // CHUNK))
    unit = np.finfo(dtype).eps / 2
    _, total, _ = clipped([g])
    assert abs(float(total) - exact) <= roundings * unit / (1 - roundings * unit) * exact


# What a rule with norms reads and writes, in both phases

RULE_SIZES = (0, 1, WIDTH + 1, CHUNK + 1)


def rule_scalars(name, t):
    """Hyperparameters of the optimizer, and what its rule reads in step t = 1, 2, …."""
    if name == "lars":
        hyper = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "trust_coefficient": 0.02, "eps": 1e-3}
        return hyper, hyper
    common = {"lr": 0.1, "weight_decay": 0.01, "eps": 1e-6}
    power1, power2 = math.prod([0.9] * t), math.prod([0.99] * t)
    made = {"correction": 1 / (1 - power1), "root": 1 / math.sqrt(1 - power2)}
    betas = {"beta1": 0.9, "beta2": 0.99, "rest1": 1 - 0.9, "rest2": 1 - 0.99}
    return common | {"betas": (0.9, 0.99)}, common | made | betas


TWO_PHASES = [(rule.name, dtype) for rule in RULES.values() if rule.norm for dtype in DTYPES]
IN_TURN = [("lars", "float16"), ("lamb", "bfloat16"), ("lamb", "float32"), ("lars", "float64")]


@pytest.mark.parametrize(("name", "dtype"), usual(TWO_PHASES, IN_TURN))
def test_rules_with_norms_to_the_bit(name, dtype):
    """Both phases of several tensors at once, in plain Python over the rule's two functions."""
    rule = RULES[name]
    flags, (hyper, _) = dict.fromkeys(rule.flags, False), rule_scalars(name, 1)
    params = [samples((size,), dtype, size) for size in RULE_SIZES]
    expected = [[w.copy(), *(np.zeros(len(w), sums_of(dtype)) for _ in rule.state)] for w in params]
    optimizer = getattr(gdgpu, name.upper())(params, **hyper)
    for t in (1, 2):
        grads = [unaligned(samples((size,), dtype, size + t)) for size in RULE_SIZES]
        optimizer.step(grads)
        for (w, *state), g in zip(expected, grads, strict=True):
            run_two_phases(rule, flags, w, g, state, rule_scalars(name, t)[1])
    state = optimizer.state_dict()["state"]
    for k, (w, *arrays) in enumerate(expected):
        assert_same_bits(params[k], w)
        for key, array in zip(rule.state, arrays, strict=True):
            assert_same_bits(state[key][k], array)


@pytest.mark.parametrize("size", (ITEM + 1, 33 * ITEM + 5))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_norms_of_a_rule_have_as_many_levels_as_they_need(dtype, size):
    """LARS with a rate of |w| / |g| alone: its buffer is that ratio times g."""
    w, g = (samples((size,), dtype, k) for k in range(2))
    ratio = np.sqrt(squares(w)) / np.sqrt(squares(g))
    params = [w, samples((3,), dtype)]
    optimizer = gdgpu.LARS(params, 1.0, momentum=0, trust_coefficient=1)
    optimizer.step([g, samples((3,), dtype, 5)])
    assert_same_bits(optimizer.state_dict()["state"]["momentum_buffer"][0], ratio * g)


# min(1, C / n)

THREE = np.array([3.0, 0.0, -4.0])


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize(
    ("clip_norm", "scale", "factor"),
    [
        (0, 1, 0),
        (0, 0, 1),
        (5, 1, 1),
        (2.5, 1, 0.5),
        (np.nextafter(np.float32(5), 6), 1, 1),
        (1e-30, 1, 2e-31),
        (1e30, 1, 1),
        (1, 0, 1),
    ],
)
def test_the_factor(clip_norm, scale, factor, dtype):
    """clip_norm = 0 makes the gradient 0; a gradient of 0 stays, whatever clip_norm."""
    g = (scale * THREE).astype(dtype)
    [w], _, found = clipped([g], float(clip_norm))
    assert_same_bits(
        found, np.dtype(dtype).type(clip_norm) / np.dtype(dtype).type(5) if factor < 1 else g.dtype.type(1)
    )
    np.testing.assert_allclose(w, -factor * g, rtol=1e-6)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("bad", ("infinite", "negative infinite", "nan", "overflows"))
@pytest.mark.parametrize("clip_norm", (0.0, 1.0, 1e30))
def test_a_norm_that_is_not_finite_gives_weights_that_are_not(bad, clip_norm, dtype):
    """As `step` says: not a step that looks like any other."""
    g = [THREE.astype(dtype), THREE.astype(dtype)]
    largest = np.sqrt(np.finfo(dtype).max) * 2
    g[0][1] = {"infinite": np.inf, "negative infinite": -np.inf, "nan": np.nan, "overflows": largest}[bad]
    params, *_ = clipped(g, clip_norm)
    assert not any(np.isfinite(w).any() for w in params)
