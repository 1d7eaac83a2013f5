"""reduce_samples: the right value within the tree's error bound, and the tree's bits whatever the layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gdgpu
from gdgpu.core.batches import REDUCTIONS
from support.covering import usual
from support.layouts import LAYOUTS
from support.references import DTYPES, assert_same_bits, dtype_of, error_bound, exact, samples, sums_of, tree

ROWS = (0, 1, 31, 32, 33, 1024, 1025, 33000)
COLUMNS = (0, 1, 3, 4, 127, 4099)
SIZES = [(B, P) for B in ROWS for P in COLUMNS if B * P <= 4_300_000]


def weights_for(B, dtype="float64"):
    return np.random.default_rng(B).standard_normal(B).astype(dtype)


def of_sizes(sizes, large):
    """Every size with every dtype; by default those of more than so many elements with one, each size with another."""
    cases = [(*size, DTYPES[(k + n) % 4], n == 0) for k, size in enumerate(sizes) for n in range(4)]
    chosen = [case[:3] for case in cases if case[3] or case[0] * case[1] <= large]
    return pytest.mark.parametrize(("B", "P", "dtype"), usual([case[:3] for case in cases], chosen))


@of_sizes(SIZES, 500_000)
def test_bits_of_the_tree(B, P, dtype):
    G = samples((B, P), dtype)
    for weights in (None, weights_for(B)):
        for reduction in REDUCTIONS:
            expected = tree(G, weights, reduction)
            assert_same_bits(gdgpu.reduce_samples(G, weights, reduction), expected)


@of_sizes([s for s in SIZES if s[0] * s[1] <= 150_000], 90_000)
def test_error_bound(B, P, dtype):
    G, sums = samples((B, P), dtype), sums_of(dtype)
    for weights in (None, weights_for(B, sums)):
        for reduction in REDUCTIONS:
            expected, magnitude = exact(G, weights, reduction)
            error = np.abs(gdgpu.reduce_samples(G, weights, reduction) - expected)
            assert (error <= error_bound(B, magnitude, sums)).all()


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_error_bound_with_exponents_far_apart(dtype):
    rng = np.random.default_rng(5)
    G = (rng.standard_normal((5000, 6)) * np.exp2(rng.integers(-60, 60, (5000, 6)))).astype(dtype)
    G[1::2] = -G[::2] * (1 + 2.0**-20)
    expected, magnitude = exact(G, None, "sum")
    error = np.abs(gdgpu.reduce_samples(G, reduction="sum") - expected)
    assert (error <= error_bound(5000, magnitude, np.dtype(dtype))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("B", "P"), [(33, 127), (1025, 4), (1100, 1), (40, 3000)])
def test_layouts(B, P, layout, dtype):
    G = samples((B, P), dtype)
    moved = LAYOUTS[layout](G)
    np.testing.assert_array_equal(moved, G)
    for weights in (None, weights_for(B)):
        assert_same_bits(gdgpu.reduce_samples(moved, weights), tree(G, weights))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", (1, 33, 1025))
def test_broadcast_rows(B, dtype):
    row = samples((1, 100), dtype)
    repeated = np.broadcast_to(row, (B, 100))
    assert repeated.strides[0] == 0 or B == 1
    assert_same_bits(gdgpu.reduce_samples(repeated), tree(repeated))


SHARED = [(B, P, n) for B, P in ((40, 9000), (1025, 127), (33000, 3), (4000, 1500), (1, 70_000)) for n in (1, 2, 3, 5)]


@pytest.mark.parametrize(
    ("B", "P", "threads"), usual(SHARED, [case for case in SHARED if case[1] != 1500 or case[2] == 3])
)
def test_the_number_of_threads_changes_nothing(B, P, threads, use_threads):
    use_threads(threads)
    for dtype in ("float32", "bfloat16"):
        G = samples((B, P), dtype)
        for weights in (None, weights_for(B)):
            assert_same_bits(gdgpu.reduce_samples(G, weights), tree(G, weights))


@pytest.mark.parametrize("shape", [(70,), (70, 1), (70, 3, 5), (70, 2, 0, 3), (0, 2, 2), (0,)])
def test_shapes(shape):
    G = samples(shape, "float32")
    result = gdgpu.reduce_samples(G)
    assert type(result) is np.ndarray
    assert_same_bits(result, tree(G.reshape(shape[0], int(np.prod(shape[1:])))).reshape(shape[1:]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_filled_and_returned(dtype):
    G = samples((33, 2, 50), dtype)
    out = np.full((2, 50), np.nan, sums_of(dtype))
    assert gdgpu.reduce_samples(G, out=out) is out
    assert_same_bits(out, gdgpu.reduce_samples(G))
    buffer = np.full(102, 7, sums_of(dtype))
    gdgpu.reduce_samples(G, out=buffer[1:-1].reshape(2, 50))
    assert_same_bits(buffer[1:-1], out.ravel())
    assert buffer[0] == buffer[-1] == 7


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_samples_give_positive_zero(dtype, reduction):
    for weights in (None, np.empty(0)):
        result = gdgpu.reduce_samples(samples((0, 5), dtype), weights, reduction)
        assert_same_bits(result, np.zeros(5, sums_of(dtype)))


@pytest.mark.parametrize("B", (1, 32, 33, 1025))
def test_signs_of_zero(B):
    """Folds begin at +0: a sum of -0 is +0. A product that vanishes in a first node's fma may leave -0."""
    G = np.full((B, 40), -0.0, np.float32)
    assert_same_bits(gdgpu.reduce_samples(G), np.zeros(40, np.float32))
    G[:] = -1e-30
    weights = np.full(B, 1e-30)
    expected = np.full(40, -0.0 if B <= 32 else 0.0, np.float32)
    assert_same_bits(gdgpu.reduce_samples(G, weights), expected)
    assert_same_bits(expected, tree(G, weights))


@pytest.mark.parametrize("B", (3, 40, 2000))
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_in_its_column(dtype, B):
    G = samples((B, 6), dtype)
    G[B - 1, 0], G[0, 1], G[1, 2], G[2, 3] = np.nan, np.inf, -np.inf, np.inf
    G[0, 3] = -np.inf
    result = gdgpu.reduce_samples(G)
    np.testing.assert_array_equal(result[:4], [np.nan, np.inf, -np.inf, np.nan])
    assert_same_bits(result[4:], tree(G[:, 4:]))
    # A weight of 0 does not hide a NaN or an infinity: 0 * inf is NaN.
    assert np.isnan(gdgpu.reduce_samples(G, np.zeros(B))[:4]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_that_overflow_16_bits(dtype):
    G = np.full((3000, 2), 60000, dtype_of(dtype))
    assert (gdgpu.reduce_samples(G, reduction="sum") == 3000 * float(G[0, 0])).all()


@pytest.mark.parametrize("kind", (np.int32, np.bool_, np.float16, np.float32, np.float64))
def test_weights_are_cast(kind):
    G = samples((50, 20), "float32")
    weights = (np.arange(50) % 3).astype(kind)
    assert_same_bits(gdgpu.reduce_samples(G, weights), tree(G, weights.astype(np.float32)))
    assert_same_bits(gdgpu.reduce_samples(G, weights.tolist()), tree(G, weights.astype(np.float32)))
    strided = np.repeat(weights, 2)[::2]
    assert_same_bits(gdgpu.reduce_samples(G, strided), tree(G, weights.astype(np.float32)))


def test_weights_do_not_change_the_divisor():
    G = np.ones((10, 3), np.float64)
    assert (gdgpu.reduce_samples(G, np.full(10, 3.0)) == 3).all()
    assert (gdgpu.reduce_samples(G, np.full(10, 3.0), "sum") == 30).all()


@settings(max_examples=150, deadline=None)
@given(
    B=st.integers(0, 2100),
    P=st.integers(0, 70),
    dtype=st.sampled_from(DTYPES),
    weighted=st.booleans(),
    reduction=st.sampled_from(REDUCTIONS),
    offset=st.integers(0, 9),
    pad=st.integers(0, 9),
    step=st.sampled_from([1, 2, -1, -3]),
    seed=st.integers(0, 99),
)
def test_any_view(B, P, dtype, weighted, reduction, offset, pad, step, seed):
    rows = B * abs(step)
    flat = samples((offset + rows * (P + pad),), dtype, seed)
    G = flat[offset:].reshape(rows, P + pad)[::step, :P]
    weights = weights_for(B) if weighted else None
    assert_same_bits(gdgpu.reduce_samples(G, weights, reduction), tree(G, weights, reduction))
