"""median_samples and trimmed_mean_samples, against sorted columns and the tree of what stays."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdgpu
from support.bits.statistics import troubled
from support.layouts import LAYOUTS
from support.references import DTYPES, assert_same_bits, dtype_of, longest_path, samples, sums_of, tree

ROWS = (1, 2, 3, 31, 32, 33, 64, 1024, 1025, 3000)
FRACTIONS = (0, 0.01, 0.1, 0.25, 0.5 - 2**-12)


def median(G):
    """Of sorted columns, in the accumulator's dtype."""
    sums = sums_of(G.dtype.name)
    rows = np.sort(G.astype(sums), axis=0) + sums.type(0)
    low, high = rows[(len(G) - 1) // 2], rows[len(G) // 2]
    with np.errstate(invalid="ignore", over="ignore"):
        middle = low if len(G) % 2 else (low + high) * sums.type(0.5)
    return np.where(np.isnan(rows[-1]), sums.type(np.nan), middle)


def cut(B, fraction):
    return math.floor(fraction * B)


def trimmed_mean(G, fraction):
    """(mean, mean of magnitudes) of sorted columns without the ends, in more than float64."""
    rows, k = np.sort(G.astype(np.longdouble), axis=0), cut(len(G), fraction)
    stay = rows[k : len(G) - k]
    with np.errstate(invalid="ignore"):
        mean, magnitude = stay.mean(0), np.abs(stay).mean(0)
    missing = np.isnan(rows[-1])
    return np.where(missing, np.nan, mean), np.where(missing, np.nan, magnitude)


def by_the_text(G, fraction):
    """The trimmed mean as its docstring has it: a tree of what lies strictly inside, then both ends by multiplicity."""
    sums, B, k = sums_of(G.dtype.name), len(G), cut(len(G), fraction)
    values = G.astype(sums) + sums.type(0)
    rows = np.sort(values, axis=0)
    low, high = rows[k], rows[B - 1 - k]
    inside = tree(np.where((values > low) & (values < high), values, sums.type(0)), reduction="sum")
    wide = np.float64 if sums == np.float32 else np.longdouble  # holds a product and its sum well enough to round once

    def add(rows_of_it, value, total):
        return (rows_of_it.astype(wide) * value + total).astype(sums)

    stays = rows[k : B - k]
    total = add((stays == high).sum(0), high, inside)
    total = add((stays == low).sum(0), low, total)
    return np.where(low == high, low, total * sums.type(1 / (B - 2 * k)))


def assert_trimmed(G, fraction):
    expected, magnitude = trimmed_mean(G, fraction)
    found = gdgpu.trimmed_mean_samples(G, fraction)
    assert (found.dtype, found.shape) == (sums_of(G.dtype.name), G.shape[1:])
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite].astype(found.dtype))
    unit = np.finfo(found.dtype).eps / 2
    least = np.finfo(found.dtype).smallest_subnormal
    error = np.abs(found[finite] - expected[finite])
    assert (error <= (longest_path(len(G)) + 5) * unit * magnitude[finite] + least).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", ROWS)
def test_median(B, dtype):
    for P in (0, 1, 31, 200):
        for G in (samples((B, P), dtype), troubled(B, P, dtype)):
            assert_same_bits(gdgpu.median_samples(G), median(G))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_trimmed_mean(fraction, dtype):
    for B in ROWS:
        for P in (0, 1, 31, 70):
            assert_trimmed(samples((B, P), dtype), fraction)
            assert_trimmed(troubled(B, P, dtype), fraction)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
@pytest.mark.parametrize("B", (3, 33, 100, 1025, 3000))
def test_trimmed_mean_is_the_tree_of_what_stays(B, dtype):
    for G in (samples((B, 40), dtype), np.round(samples((B, 40), dtype, wide=False))):
        assert_same_bits(gdgpu.trimmed_mean_samples(G, 0.34), by_the_text(G, 0.34))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", (1, 9, 33, 1025))
def test_nothing_cut_is_the_mean(B, dtype):
    G = samples((B, 50), dtype)
    assert_same_bits(gdgpu.trimmed_mean_samples(G, 0.9 / B / 2), gdgpu.reduce_samples(G))


def test_as_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: pip install scikit-learn")
    G = np.random.default_rng(0).standard_normal((101, 30))
    for fraction in (0.0, 0.1, 0.2, 0.29, 0.45):
        np.testing.assert_allclose(
            gdgpu.trimmed_mean_samples(G, fraction), stats.trim_mean(G, fraction), rtol=0, atol=1e-14
        )


def floats(dtype):
    """Every bit pattern of a dtype."""
    info = np.iinfo(f"uint{8 * dtype_of(dtype).itemsize}")
    return st.integers(0, int(info.max))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bits(dtype, data):
    """Subnormals, both zeros, infinities and every NaN are ordered as NumPy orders them."""
    values = data.draw(st.lists(st.one_of(floats(dtype), st.sampled_from([0, 1])), min_size=1, max_size=12))
    kind = dtype_of(dtype)
    G = np.array(values, f"uint{8 * kind.itemsize}").view(kind).reshape(-1, 1)
    assert_same_bits(gdgpu.median_samples(G), median(G))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    G = samples((45, 2100), dtype)
    moved = LAYOUTS[layout](G)
    assert_same_bits(gdgpu.median_samples(moved), median(G))
    assert_same_bits(gdgpu.trimmed_mean_samples(moved, 0.2), gdgpu.trimmed_mean_samples(G, 0.2))


def test_more_rows_than_the_cache_holds():
    G = samples((40_000, 3), "float32")
    assert_same_bits(gdgpu.median_samples(G), median(G))
    assert_same_bits(gdgpu.trimmed_mean_samples(G, 0.1), by_the_text(G, 0.1))


def test_the_number_of_threads_changes_nothing(use_threads):
    G = samples((300, 3000), "float32")
    for threads in (1, 2, 5):
        use_threads(threads)
        assert_same_bits(gdgpu.median_samples(G), median(G))
        assert_same_bits(gdgpu.trimmed_mean_samples(G, 0.1), by_the_text(G, 0.1))


def test_outliers_do_not_move_them():
    G = np.random.default_rng(0).normal(1, 0.1, (101, 500)).astype("float32")
    G[:10] = 1e30
    assert np.abs(gdgpu.median_samples(G) - 1).max() < 0.1
    assert np.abs(gdgpu.trimmed_mean_samples(G, 0.1) - 1).max() < 0.1
    assert gdgpu.reduce_samples(G).min() > 1e28


@pytest.mark.parametrize("dtypes", (("float32",), ("float64", "bfloat16")))
def test_structures(dtypes):
    G = {k: samples((20, *shape), dtypes[k % len(dtypes)], k) for k, shape in enumerate([(3, 4), (), (0,), (900,)])}
    for function, arguments in ((gdgpu.median_samples, ()), (gdgpu.trimmed_mean_samples, (0.2,))):
        found = function(G, *arguments)
        assert list(found) == list(G)
        for k, g in G.items():
            assert_same_bits(found[k], function(g, *arguments))
            assert found[k].shape == g.shape[1:]
        for a, b in zip(function(list(G.values()), *arguments), found.values(), strict=True):
            assert_same_bits(a, b)


def test_no_second_matrix_is_made():
    G = samples((1, 4000), "float32").repeat(3000, axis=0)
    for function, arguments in ((gdgpu.median_samples, ()), (gdgpu.trimmed_mean_samples, (0.2,))):
        function(G[:3, :5], *arguments)
        tracemalloc.start()
        try:
            function(G, *arguments)
            assert tracemalloc.get_traced_memory()[1] < G.nbytes / 10
        finally:
            tracemalloc.stop()


ONES = np.ones((3, 2))
BAD = {
    "no samples": ("median_samples", (np.ones((0, 2)),), ValueError, "G: expected at least one sample, got none"),
    "none to trim": ("trimmed_mean_samples", ([np.ones((0, 2))], 0.1), ValueError, "G: expected at least one sample"),
    "int": ("median_samples", (np.ones((3, 2), int),), TypeError, "G: expected dtype float16"),
    "fraction of a half": ("trimmed_mean_samples", (ONES, 0.5), ValueError, "fraction: expected .* < 0.5, got 0.5"),
    "negative fraction": ("trimmed_mean_samples", (ONES, -0.1), ValueError, "fraction: expected .* >= 0 .*, got -0.1"),
    "nan": ("trimmed_mean_samples", (ONES, math.nan), ValueError, "fraction: expected a finite number .*, got nan"),
    "text": ("trimmed_mean_samples", (ONES, "0.1"), TypeError, "fraction: expected a number, got str"),
    "numbers of samples": ("median_samples", ({"a": ONES, "b": ONES[:2]},), ValueError, r"G: .* got \[2, 3\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    name, arguments, error, message = BAD[case]
    with pytest.raises(error, match=f"^{message}") as raised:
        getattr(gdgpu, name)(*arguments)
    assert "\n" not in str(raised.value)
