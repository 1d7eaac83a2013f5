"""sample_statistics: the tree to the bit, values within stated bounds on data that cancel, and the noise scale."""

import math
import tracemalloc

import numpy as np
import pytest

import gdgpu
from support.layouts import LAYOUTS
from support.references import DTYPES, RADIX, assert_same_bits, fma, longest_path, samples, sums_of, tree

ROWS = (2, 3, 31, 32, 33, 1024, 1025, 2100)
COLUMNS = (0, 1, 31, 784)


def spread(G):
    """sum_n (g_n - mean)^2 by the formulas that kernels/samples/moments.py states, one child at a time."""
    sums = sums_of(G.dtype.name).type
    nodes = [(row, np.zeros_like(row), 1) for row in G.astype(sums)]
    while True:
        nodes = [_node(nodes[k : k + RADIX], sums) for k in range(0, len(nodes), RADIX)]
        if len(nodes) == 1:
            return nodes[0][1]


def _node(children, sums):
    S, M, N = np.zeros_like(children[0][0]), np.zeros_like(children[0][0]), 0
    for s, m, n in children:
        S = S + s
        r = sums(N + n) / sums(n)
        c = 1 / (sums(N) * r) if N else sums(0)
        d = fma(r, s, -S)
        M, N = fma(d * c, d, M + m), N + n
    return S, M, N


def bound(G, variance):
    """What the roundings of the sums and of the spreads may add up to (Chan, Golub and LeVeque 1983)."""
    B, sums = len(G), np.finfo(sums_of(G.dtype.name))
    values = G.astype(np.float64)
    condition = np.sqrt(
        (values**2).sum(0) / (variance * (B - 1))
    )  # 1 without a mean, |mean| / deviation with a large one
    error = (longest_path(B) + 8) * sums.eps / 2 * condition
    return error * (1 + error) * variance + B * float(sums.smallest_subnormal)


def assert_close_to_numpy(G):
    mean, variance, _ = gdgpu.sample_statistics(G)
    exact = np.var(G.astype(np.longdouble), axis=0, ddof=1).astype(np.float64)
    varies = exact > 0
    assert (variance[~varies] == 0).all()
    assert (np.abs(variance - exact)[varies] <= bound(G[:, varies], exact[varies])).all()
    assert_same_bits(mean, gdgpu.reduce_samples(G))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", ROWS)
def test_bits_of_the_tree(B, dtype):
    for P in (1, 31, 130):
        G = samples((B, P), dtype)
        mean, variance, _ = gdgpu.sample_statistics(G)
        assert_same_bits(mean, tree(G))
        assert_same_bits(variance, spread(G) / sums_of(dtype).type(B - 1))


def test_a_node_of_the_third_level_and_part_of_another():
    G = samples((33_000, 2), "float32")
    mean, variance, _ = gdgpu.sample_statistics(G)
    assert_same_bits(mean, tree(G))
    assert_same_bits(variance, spread(G) / np.float32(len(G) - 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("P", COLUMNS)
def test_variance(P, dtype):
    for B in ROWS:
        assert_close_to_numpy(samples((B, P), dtype))


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_a_mean_far_from_zero(dtype):
    """Where E[g^2] - E[g]^2 has no figure left, the variance keeps most of them."""
    rng = np.random.default_rng(4)
    far = {"float32": 1e4, "float64": 1e9}[dtype]
    for B in (20, 1000, 5000):
        G = (rng.standard_normal((B, 50)) + far).astype(dtype)
        assert_close_to_numpy(G)
        exact = np.var(G.astype(np.longdouble), axis=0, ddof=1)
        naive = ((G * G).mean(0) - G.mean(0) ** 2) * G.dtype.type(B / (B - 1))
        error = np.abs(gdgpu.sample_statistics(G)[1] / exact - 1).max()
        assert error < 1e-2 < np.abs(naive / exact - 1).max()


def test_exponents_far_apart():
    rng = np.random.default_rng(5)
    assert_close_to_numpy(
        (rng.standard_normal((3000, 40)) * np.exp2(rng.integers(-40, 40, (3000, 40)))).astype("float32")
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B", (1, 7, 32, 1025, 5000))
def test_equal_samples_do_not_vary(B, dtype):
    row = samples((1, 60), dtype)
    mean, variance, _ = gdgpu.sample_statistics(np.broadcast_to(row, (B, 60)))
    assert np.isnan(variance).all() if B == 1 else (np.abs(variance) <= bound_of_equal(row, B)).all()
    assert_same_bits(mean, gdgpu.reduce_samples(np.broadcast_to(row, (B, 60))))


def bound_of_equal(row, B):
    """Each sum may be wrong by as many units in the last place as it has additions."""
    unit = np.finfo(sums_of(row.dtype.name)).eps / 2
    return B / (B - 1) * (longest_path(B) * unit * np.abs(row[0].astype(np.float64))) ** 2


@pytest.mark.parametrize("B", (0, 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_fewer_than_two_samples_have_a_mean_only(B, dtype):
    G = samples((B, 5), dtype)
    mean, variance, scale = gdgpu.sample_statistics(G)
    assert_same_bits(mean, gdgpu.reduce_samples(G))
    assert np.isnan(variance).all() and np.isnan(scale)
    assert variance.dtype == scale.dtype == sums_of(dtype) and scale.shape == ()


def test_nan_and_infinity_stay_in_their_column():
    G = samples((40, 5), "float32")
    expected = gdgpu.sample_statistics(G)[1]
    G[7, 1], G[8, 3] = np.nan, -np.inf
    mean, variance, scale = gdgpu.sample_statistics(G)
    assert np.isnan([mean[1], variance[1], variance[3], scale]).all() and mean[3] == -np.inf
    assert_same_bits(variance[[0, 2, 4]], expected[[0, 2, 4]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype):
    G = samples((70, 5000), dtype)
    for moved, expected in zip(gdgpu.sample_statistics(LAYOUTS[layout](G)), gdgpu.sample_statistics(G), strict=True):
        assert_same_bits(moved, expected)


@pytest.mark.parametrize("shape", [(40, 9000), (4000, 300)])
def test_the_number_of_threads_changes_nothing(shape, use_threads):
    G, found = samples(shape, "float32"), []
    for threads in (1, 2, 5):
        use_threads(threads)
        found.append(gdgpu.sample_statistics(G))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_same_bits(a, b)


SHAPES = {"w": (40, 33), "b": (3,), "empty": (0,), "scalar": (), "large": (40_000,)}


def batch(B, dtype, seed=0, mean=0.2):
    """Normal gradients of several tensors, with this mean."""
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal((B, *shape)) + mean).astype(dtype) for name, shape in SHAPES.items()}


def estimates(G):
    """(tr, |g|^2) from the norms of the samples and of their mean, in float64."""
    rows = np.concatenate([g.reshape(len(g), -1).astype(np.float64) for g in G], axis=1)
    B, mean_norm, norm_of_mean = len(rows), (rows**2).sum(1).mean(), (rows.mean(0) ** 2).sum()
    return (mean_norm - norm_of_mean) * B / (B - 1), (B * norm_of_mean - mean_norm) / (B - 1)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("mean", (0.2, 3.0, 0.01))
def test_noise_scale(mean, dtype):
    """As its estimators in float64 have it; negative where noise drowns the gradient."""
    G = batch(64, dtype, mean=mean)
    _, _, scale = gdgpu.sample_statistics(G)
    assert (scale.shape, scale.dtype) == ((), np.dtype(dtype))
    trace, square = estimates(G.values())
    # the difference |mean|^2 - tr / B loses what its terms have in common
    tolerance = 40 * np.finfo(dtype).eps * (1 + (abs(square) + trace / 64) / abs(square))
    assert abs(scale / (trace / square) - 1) <= tolerance


def test_noise_scale_of_many_batches_is_right():
    """tr and |g|^2, averaged apart, give the scale of the distribution: 1 / mean^2 for a deviation of 1."""
    traces, squares = [], []
    for seed in range(200):
        G = {"b": np.random.default_rng(seed).standard_normal((8, 100)).astype("float32") + np.float32(0.5)}
        mean, variance, scale = gdgpu.sample_statistics(G)
        trace = variance["b"].sum(dtype=np.float64)
        squares.append((mean["b"].astype(np.float64) ** 2).sum() - trace / 8)
        traces.append(trace)
        assert math.isclose(scale, trace / squares[-1], rel_tol=1e-5)
    assert math.isclose(np.mean(traces) / np.mean(squares), 4, rel_tol=0.05)


def test_noise_without_gradient_and_gradient_without_noise():
    still = np.full((4, 3), 2, "float32")
    assert gdgpu.sample_statistics(still)[2] == 0
    assert gdgpu.sample_statistics(np.float32([[1], [-1]]))[2] == -2  # tr 2, |g|^2 0 - 2 / 2
    assert gdgpu.sample_statistics(np.float32([[0], [2]]))[2] == np.inf  # tr 2, |g|^2 1 - 2 / 2
    assert np.isnan(gdgpu.sample_statistics(np.zeros((4, 3), "float32"))[2])


@pytest.mark.parametrize("structure", (list, tuple, dict))
def test_structures(structure):
    G = batch(33, "bfloat16" if structure is tuple else "float32")
    given = G if structure is dict else structure(G.values())
    means, variances, _ = gdgpu.sample_statistics(given)
    for results in (means, variances):
        assert isinstance(results, dict if structure is dict else list)
    if structure is dict:
        means, variances = means.values(), variances.values()
    for g, mean, variance in zip(G.values(), means, variances, strict=True):
        alone = gdgpu.sample_statistics(g)
        assert_same_bits(mean, alone[0])
        assert_same_bits(variance, alone[1])


def test_no_second_matrix_is_made():
    G = np.ones((3000, 4000), "float32")
    gdgpu.sample_statistics(G[:, :5])
    tracemalloc.start()
    try:
        gdgpu.sample_statistics(G)
        assert tracemalloc.get_traced_memory()[1] < G.nbytes / 50
    finally:
        tracemalloc.stop()


BAD = {
    "scalar": (np.ones(()), ValueError, "G: expected an array with samples along its first axis"),
    "int": (np.ones((3, 2), "int32"), TypeError, "G: expected dtype float16"),
    "other numbers of samples": ([np.ones((3, 2)), np.ones((4, 2))], ValueError, r"G: .* same number .* got \[3, 4\]"),
    "columns apart": (np.ones((3, 8))[:, ::2], ValueError, "G: every sample must be C-contiguous"),
    "in a dict": ({"w": np.ones((3, 8)), "b": 1}, TypeError, r"G\['b'\]: expected a NumPy or CuPy array"),
    "two precisions": (
        [np.ones((3, 2)), np.ones((3, 2), "float16")],
        TypeError,
        "G: expected dtypes that are computed in one precision, got float16, float64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    G, error, message = BAD[case]
    with pytest.raises(error, match=f"^{message}") as raised:
        gdgpu.sample_statistics(G)
    assert "\n" not in str(raised.value)
