"""What an optimizer stores in 16 and 8 bits: rounded to nearest, or at random and right in the mean."""

import numpy as np
import pytest

import gdgpu
from support.quantised import BLOCK, grid_of, neighbours, scale_of
from support.references import assert_same_bits, dtype_of

N = 1_000_000
SHORT = ("float16", "bfloat16")
# 16 bits: ordinary values, and some where steps are even (1e-8 is below float16's first). 8 bits: of blocks up to 1.
VALUES = {
    "float16": (0.1, -1000.3, 3.3e-7, 1e-8),
    "bfloat16": (0.1, -1000.3, 1e30, 3.3e-39),
    "signed8": (0.9, -0.1, 0.003, 1e-4),
    "positive8": (0.9, 0.1, 0.003),
    "unsigned8": (0.9, 0.1, 0.003, 1.1e-5),
}
QUANTIZED = ("signed8", "positive8", "unsigned8")


@gdgpu.rule(state=QUANTIZED, nonnegative=("positive8",), squares=("unsigned8",))
def hand_on(w, g, signed8, positive8, unsigned8, lr):
    return w, g, g, g


def stored(kind, values, rounding="stochastic", seed=0, steps=0):
    """float32 values as an optimizer stores them, by a rule that hands them on."""
    common = {"rounding": rounding, "seed": seed}
    if kind in SHORT:
        w = np.zeros(len(values), dtype_of(kind))
        optimizer = gdgpu.SGD(w, lr=1.0, **common)
    else:
        w = np.zeros(len(values), np.float32)
        optimizer = hand_on(w, lr=0, state_dtype="uint8", **common)
    optimizer.steps = steps
    optimizer.step(-values if kind in SHORT else values)
    return w.astype(np.float32) if kind in SHORT else optimizer.state_dict()["state"][kind]


def grid_for(kind):
    """All values of a kind; of codes, of a block up to 1."""
    if kind in SHORT:
        return grid_of(kind)
    grid = grid_of(kind, scale_of(1.0, kind))
    return grid[np.abs(grid) <= 1]


@pytest.mark.parametrize(("kind", "x"), [(kind, x) for kind, some in VALUES.items() for x in some])
def test_random_rounding_is_right_in_the_mean(kind, x):
    values = np.full(N, x, np.float32)
    where = slice(None)
    if kind in QUANTIZED:  # others of the block say what its scale is
        values[::BLOCK], where = 1, np.arange(N) % BLOCK > 0
    x = np.float64(np.float32(x))
    found = stored(kind, values)[where].astype(np.float64)
    low, high = neighbours(x, grid_for(kind))
    assert set(found) == {low, high}
    up = (x - low) / (high - low)
    assert abs(found.mean() - x) <= 4 * (high - low) * np.sqrt(up * (1 - up) / len(found))


@pytest.mark.parametrize("rounding", ("nearest", "stochastic"))
@pytest.mark.parametrize("kind", VALUES)
def test_values_that_there_are_stay(kind, rounding):
    grid = grid_for(kind).astype(np.float32)
    values = np.concatenate([np.ones(1, np.float32), grid])
    assert len(values) <= BLOCK or kind in SHORT
    np.testing.assert_array_equal(stored(kind, values, rounding), values)


def hard_to_round(kind):
    """Values of all sizes, and the middles between neighbours."""
    grid = grid_for(kind)
    grid = grid[np.isfinite(grid)]
    rng = np.random.default_rng(1)
    some = rng.choice(grid, 20_000) * rng.uniform(0.9, 1.0, 20_000)
    return np.concatenate([(grid[1:] + grid[:-1]) / 2, some]).astype(np.float32)


@pytest.mark.parametrize("dtype", SHORT)
def test_to_nearest_as_numpy_has_it(dtype):
    values = hard_to_round(dtype)
    np.testing.assert_array_equal(stored(dtype, values, "nearest"), values.astype(dtype_of(dtype)))


@pytest.mark.parametrize("kind", VALUES)
def test_random_rounding_gives_a_neighbour(kind):
    values = hard_to_round(kind)
    if kind in QUANTIZED:
        values = np.resize(values, (len(values) // BLOCK, BLOCK))
        values[:, 0] = 1
        values = values.reshape(-1)
    found = stored(kind, values)
    low, high = neighbours(values.astype(np.float64), grid_for(kind))
    if kind in ("positive8", "unsigned8"):  # what is not 0 stays so
        low = np.where((values > 0) & (low == 0), high, low)
    assert ((found == low) | (found == high)).all()
    assert 0.4 < (found == high)[low < high].mean() < 0.6


@pytest.mark.parametrize("rounding", ("nearest", "stochastic"))
def test_what_is_not_finite(rounding):
    bad = np.array([np.inf, -np.inf, np.nan], np.float32)
    for kind in SHORT:
        assert_same_bits(stored(kind, bad, rounding), bad)
    for kind in QUANTIZED:
        for x in bad:
            values = np.ones(3 * BLOCK, np.float32)
            values[BLOCK + 5] = x
            found = stored(kind, values, rounding).reshape(3, BLOCK)
            assert np.isnan(found[1]).all() and (found[::2] == 1).all()


@pytest.mark.parametrize("kind", VALUES)
def test_random_bits_come_from_the_seed_and_the_step(kind):
    values = np.random.default_rng(0).uniform(0.5, 1, 1000).astype(np.float32)
    found = stored(kind, values, seed=3, steps=7)
    assert_same_bits(stored(kind, values, seed=3, steps=7), found)
    for seed, steps in ((4, 7), (3, 8), (3, 7 + (1 << 32))):
        assert 0.2 < (stored(kind, values, seed=seed, steps=steps) != found).mean() < 0.8


def test_every_tensor_and_every_array_has_its_own():
    w, values = np.ones((2, 1000), dtype_of("bfloat16")), np.random.default_rng(0).uniform(0.5, 1, 1000)
    optimizer = gdgpu.Momentum(list(w), 1.0, state_dtype="bfloat16", rounding="stochastic")
    w[...] = 0
    optimizer.step([-values.astype(np.float32)] * 2)
    found = [*w.astype(np.float32), *optimizer.state_dict()["state"]["velocity"]]  # all four were to hold values
    for k, one in enumerate(found):
        for other in found[:k]:
            assert 0.2 < (one != other).mean() < 0.8


def test_small_steps_add_up_at_random_where_the_nearest_stands_still():
    """bfloat16 has no value within 0.002 of 1, and no step is larger than 0.0005."""
    w = {rounding: np.ones(2000, dtype_of("bfloat16")) for rounding in ("nearest", "stochastic")}
    for rounding, weights in w.items():
        optimizer = gdgpu.SGD(weights, lr=1e-3, rounding=rounding)
        for _ in range(6000):  # towards 0.5, to e^-6 of the distance
            optimizer.step(weights.astype(np.float32) - np.float32(0.5))
    assert (w["nearest"] == 1).all()
    assert abs(w["stochastic"].astype(np.float64).mean() - 0.5) < 0.005
