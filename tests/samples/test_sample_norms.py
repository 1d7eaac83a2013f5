"""Norms of samples, to the bit of the documented tree and near the true ones, and the factors that clip them."""

import math
from fractions import Fraction

import numpy as np
import pytest

import gdgpu
from support.checks import refused
from support.layouts import VIEWS
from support.references import CHUNK, DTYPES, WIDTH, assert_same_bits, dtype_of, nearest, samples, sums_of, two_product
from support.sample_norms import MIXED, batch, norms_of, roundings_of

GROUP = 32 * CHUNK  # elements below a node of the tree of chunks
COLUMNS = [(P,) for P in (0, 1, WIDTH - 1, WIDTH, WIDTH + 1, CHUNK - 1, CHUNK, CHUNK + 1, GROUP, GROUP + 1)]
COLUMNS += [(5, 0, 1300, GROUP + 700), (0, 0), tuple(k % 5 for k in range(40))]
NAN, INF = math.nan, math.inf


# sample_norms


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS, ids=lambda columns: f"{len(columns)} to {max(columns)}")
def test_norms_are_the_tree(columns, dtype):
    for B in (0, 1, 5):
        G = batch(B, columns, dtype)
        assert_same_bits(gdgpu.sample_norms(G), norms_of(G))


@pytest.mark.parametrize(
    ("B", "columns", "dtypes"),
    [(2, (33 * GROUP + 5, 3), "bfloat16"), (2, (33 * GROUP + 5,), "float64"), (40, (300, 7, 1025, 0), MIXED)],
)
def test_three_levels_of_chunks_and_dtypes_side_by_side(B, columns, dtypes):
    G = batch(B, columns, dtypes)
    assert_same_bits(gdgpu.sample_norms(G), norms_of(G))


SPREADS = {"float16": 12, "bfloat16": 40, "float32": 40, "float64": 400}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [c for c in COLUMNS if sum(c) < 5000], ids=str)
def test_norms_are_near_the_true_ones(columns, dtype):
    """A root has half of its sum's error, and a rounding more; squares may lose what is below the least number."""
    rng, spread = np.random.default_rng(1), SPREADS[dtype]
    exponents = [rng.integers(-spread, spread, (4, P)) for P in columns]
    exponents += [np.broadcast_to([[-spread], [0], [1], [spread]], (4, P)) for P in columns]  # rows far apart
    G = [(rng.uniform(-1, 1, e.shape) * np.exp2(e)).astype(dtype_of(dtype)) for e in exponents]
    unit, least = np.finfo(sums_of(dtype)).eps / 2, float(np.finfo(sums_of(dtype)).smallest_subnormal)
    for some in (G[: len(columns)], G[len(columns) :]):
        for n, norm in enumerate(gdgpu.sample_norms(some)):
            values = np.concatenate([g[n].astype(np.float64) for g in some])
            true = math.sqrt(math.fsum(part for product in two_product(values, values) for part in product))
            error = (roundings_of(columns) / 2 + 3) * unit * true + math.sqrt(len(values) * least)
            assert abs(float(norm) - true) <= error


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_norms_of_every_16_bit_value(dtype):
    """Each has itself for a norm, but where float32 has no room for its square."""
    values = np.arange(1 << 16, dtype=np.uint16).view(dtype_of(dtype))[:, None]
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = np.abs(values[:, 0].astype(np.float32))
    norms = gdgpu.sample_norms(values)
    in_range = (wide > 1e-18) & (wide < 1.8e19)
    assert in_range.sum() > 30_000
    np.testing.assert_array_equal(norms[in_range], wide[in_range])
    np.testing.assert_array_equal(norms[wide > 1.9e19], INF)
    np.testing.assert_array_equal(norms[wide < 2e-23], 0)
    assert np.isnan(norms[np.isnan(wide)]).all()


@pytest.mark.parametrize(("dtype", "large", "small"), [("float32", 2e19, 2e-23), ("float64", 2e154, 1e-162)])
def test_squares_overflow_and_vanish(dtype, large, small):
    G = np.ones((4, 400), dtype)
    G[0, 399], G[1], G[2, 0] = large, small, NAN
    assert_same_bits(gdgpu.sample_norms(G), np.array([INF, 0, NAN, 20], dtype))
    full = np.full((2, 4096), 2.0**15, np.float16)  # whose squares float16 could not hold
    assert_same_bits(gdgpu.sample_norms(full), np.full(2, 2.0**21, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_views(view, dtype):
    G = [VIEWS[view](g) for g in batch(35, (1, 129, 3000), dtype)]
    assert_same_bits(gdgpu.sample_norms(G), norms_of(G))


def test_structures():
    G = {"a": samples((6, 3, 4), "float32"), "b": samples((6,), "float32", 1), "c": samples((6, 2, 0), "float32")}
    for given_as in (G, list(G.values()), tuple(G.values())):
        assert_same_bits(gdgpu.sample_norms(given_as), norms_of(G.values()))
    assert_same_bits(gdgpu.sample_norms(G["a"]), norms_of([G["a"]]))


@pytest.mark.parametrize("threads", (1, 2, 3, 5))
@pytest.mark.parametrize(("B", "columns"), [(3, (2 * GROUP + 9, 700)), (70, (5, 130)), (1100, (1, 0))])
def test_the_number_of_threads_changes_nothing(B, columns, threads, use_threads):
    use_threads(threads)
    for dtypes in ("float64", ("float16", "float32")):
        G = batch(B, columns, dtypes)
        assert_same_bits(gdgpu.sample_norms(G), norms_of(G))


BAD_SAMPLES = {
    "a scalar": np.ones(()),
    "integers": np.ones((3, 2), int),
    "no arrays": [],
    "a list of numbers": [1.0, 2.0],
    "none": None,
    "other numbers of samples": [np.ones((3, 2)), np.ones((4, 2))],
    "every second column": np.ones((3, 8))[:, ::2],
    "two precisions": {"a": np.ones((3, 2)), "b": np.ones((3, 2), np.float32)},
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_samples_that_are_refused(case):
    with refused("G"):
        gdgpu.sample_norms(BAD_SAMPLES[case])


# clip_weights

FACTORS = {
    2: [1, 1, 1, 0.5, NAN, NAN],
    0: [1, 0, 0, 0, NAN, NAN],
    Fraction(1, 4): [1, 0.25, 0.125, 0.0625, NAN, NAN],
    1e30: [1, 1, 1, 1, NAN, NAN],
    INF: [1] * 6,
    None: [1] * 6,
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", FACTORS, ids=str)
def test_factors(max_norm, dtype):
    norms, expected = np.array([0, 1, 2, 4, INF, NAN], dtype_of(dtype)), np.array(FACTORS[max_norm], sums_of(dtype))
    assert_same_bits(gdgpu.clip_weights(norms, max_norm), expected)
    assert_same_bits(gdgpu.clip_weights(norms[::-2].reshape(3, 1), max_norm), expected[::-2].reshape(3, 1))
    assert_same_bits(gdgpu.clip_weights(norms[3:4].reshape(()), max_norm), expected[3:4].reshape(()))
    assert_same_bits(gdgpu.clip_weights(norms[:0], max_norm), expected[:0])


@pytest.mark.parametrize("kind", (np.float32, np.float64))
def test_a_factor_is_rounded_once(kind):
    norms, max_norm = np.exp2(np.random.default_rng(0).uniform(-20, 20, 300)).astype(kind), Fraction(float(kind(0.1)))
    expected = [nearest(min(Fraction(1), max_norm / Fraction(float(n))), kind) for n in norms]
    assert_same_bits(gdgpu.clip_weights(norms, 0.1), np.array(expected, kind))


def test_factors_of_bfloat16_tensors(torch):
    norms = torch.tensor([0, 1, 3, 8], dtype=torch.bfloat16)
    assert_same_bits(gdgpu.clip_weights(norms, 2.0), np.float32([1, 1, np.float32(2) / np.float32(3), 0.25]))


@pytest.mark.parametrize("bad", (3.0, [1.0, 2.0], np.ones(3, int), None), ids=str)
def test_norms_that_are_refused(bad):
    with refused("norms", TypeError):
        gdgpu.clip_weights(bad, 1.0)
