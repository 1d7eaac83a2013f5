"""8-bit codes and rounding at random: compiled code and its plain twin, to the bit, and both against the definition."""

import numpy as np
import pytest

from gdgpu.kernels.backend import quantize
from support.codes import run
from support.quantised import BLOCK, LEAST_SCALE, POSITIVE, VALUES, grid_of, nearest_codes, neighbours, scale_of
from support.references import assert_same_bits

LARGEST = np.finfo(np.float32).max
# Zeros, subnormals, the ends of float16, neighbours of powers of two, what is not finite.
ORDINARY = (0, -0.0, 1, -1.9375, 1.9375001, 2, 65504, 65519, 65520, -65535, 65536)
EXTREME = (1e-45, -1e-40, 2.0**-126, 1e-9, 6e-8, 3e38, -LARGEST, np.inf, -np.inf, np.nan)
SPECIAL = np.array([*ORDINARY, *EXTREME], np.float32)
TOPS = (1e-45, 1e-40, 2.0**-126, 1e-37, 1e-20, 0.3, 1.0, 1.9375, 1.9375001, 2.0, 31 * 2.0**50, 3e38)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def twins(name, *arrays):
    """Asserts that the plain twin has the same bits, with integers taken as unsigned; returns the compiled answer."""
    found = run(name)(*arrays)
    arguments = zip(*map(_unsigned, np.broadcast_arrays(*arrays)), strict=True)
    wanted = [quantize.plain(name)(*values) for values in arguments]
    assert_same_bits(_unsigned(found), np.array(wanted, _unsigned(found).dtype))
    return found


def _unsigned(array):
    return array.view(f"uint{8 * array.itemsize}") if array.dtype.kind == "i" else array


def some_bits(n, dtype="int32", seed=0):
    return np.random.default_rng(seed).integers(0, 256, n * np.dtype(dtype).itemsize, np.uint8).view(dtype)


def some_floats(n=3000):
    """Special values, values of every size, and ordinary ones."""
    some = SPECIAL, some_bits(n, "float32"), np.random.default_rng(0).standard_normal(n).astype(np.float32)
    return np.concatenate(some)


def scaled(top, kind, n=BLOCK):
    """n values up to `top`, with exponents far apart, the first of them `top` itself; unsigned: none negative."""
    rng = np.random.default_rng([len(kind), n])
    values = (top * rng.uniform(-1, 1, n) * np.exp2(-rng.integers(0, 24, n))).astype(np.float32)
    values[0] = top
    return values if kind == "signed8" else np.abs(values)


def scale(top, kind):
    return np.float32(run(f"scale_{kind}")(run("top")(np.int32(0), np.float32(top))))


def encode(values, scale, kind):
    return run(f"encode_{kind}")(values, np.float32(scale))


def decode(code, scale, kind):
    return run(f"decode_{kind}")(np.asarray(code, np.int32), np.float32(scale))


# Compiled and plain


@pytest.mark.parametrize("name", ("bfloat16_at_random", "float16_at_random"))
def test_rounding_at_random_and_its_twin(name):
    x = some_floats()
    twins(name, x, some_bits(len(x), seed=1))


def test_random_bits_and_their_twin():
    n = 3000
    key = twins("keyed", *(some_bits(n, "int64", seed) & mask for seed, mask in ((0, -1), (1, 2**40 - 1), (2, 7))))
    twins("random", key.view(np.int64), some_bits(n, "int64", 3) & (2**36 - 1))


def test_largest_values_and_their_twin():
    x = some_floats()
    tops = twins("top", np.roll(np.abs(x), 1).view(np.int32), x).view(np.int32)
    twins("larger", tops, tops[::-1].copy())
    x = x[~np.isnan(x)]
    running = np.int32(0)
    for value in x:
        running = run("top")(running, value)
    assert running.view(np.float32) == np.inf


@pytest.mark.parametrize("kind", VALUES)
def test_codes_and_their_twin(kind):
    tops = np.abs(some_floats())
    scales = twins(f"scale_{kind}", tops.view(np.int32))
    x = tops * np.random.default_rng(1).uniform(-1, 1, len(tops)).astype(np.float32)
    x[: len(SPECIAL)] = SPECIAL
    inside = (np.abs(x) <= tops) | np.isnan(scales)  # a scale holds what its block does
    x, scales = x[inside], scales[inside]
    x = x if kind == "signed8" else np.abs(x)
    code = twins(f"encode_{kind}", x, scales)
    at_random = twins(f"encode_{kind}_at_random", x, scales, some_bits(len(x)))
    assert code.max() < 256 and at_random.max() < 256
    twins(f"decode_{kind}", code.view(np.int32), scales)


# The map, its scale, and rounding to nearest


@pytest.mark.parametrize("scale", (2.0**-126, 1.0, 2.0**100))
@pytest.mark.parametrize("kind", VALUES)
def test_every_code_is_its_value_and_back(kind, scale):
    codes = np.arange(len(VALUES[kind]), dtype=np.int32)
    values = decode(codes, scale, kind)
    assert_same_bits(values, (VALUES[kind] * scale).astype(np.float32))
    assert_same_bits(encode(values, scale, kind), codes)


@pytest.mark.parametrize("kind", VALUES)
def test_a_scale_is_the_least_power_of_two_that_fits(kind):
    tops = np.concatenate([[0], TOPS, np.float32(POSITIVE[kind][-1]) * np.exp2(np.arange(-140, 100, 7))])
    tops = np.float32(tops)
    tops = np.concatenate([tops, np.nextafter(tops, np.float32(np.inf)), [LARGEST]])
    found = [scale(top, kind) for top in tops]
    np.testing.assert_array_equal(found, [scale_of(np.float64(top), kind) for top in tops])


def midpoints(kind):
    """Every code, every middle between two, and the float32 next to it on both sides; as units of a scale."""
    grid = POSITIVE[kind]
    exact = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2]).astype(np.float32)
    some = np.concatenate(
        [exact, np.nextafter(exact, np.float32(0)), np.nextafter(exact[exact < grid[-1]], np.float32(2**30))]
    )
    return np.concatenate([some, -some]) if kind == "signed8" else some


@pytest.mark.parametrize("kind", VALUES)
def test_codes_are_the_nearest_and_even_between_two(kind):
    units = midpoints(kind)
    assert_same_bits(encode(units, 1, kind), nearest_codes(units.astype(np.float64), kind).astype(np.int32))


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("kind", VALUES)
def test_blocks_of_every_size_of_values(kind, top):
    values = scaled(top, kind)
    unit = scale(values[0], kind)
    code = encode(values, unit, kind)
    assert_same_bits(code, nearest_codes(values / np.float64(unit), kind).astype(np.int32))
    decoded = decode(code, unit, kind)
    error = np.abs(decoded.astype(np.float64) - values)
    steps_are_even = np.abs(values) < np.float64(values[0]) * 2.0 ** (-14 if kind == "unsigned8" else -6)
    small = unit == LEAST_SCALE  # where float32 has no smaller scales
    assert (error[~steps_are_even] < np.abs(values[~steps_are_even]) / 31).all() or small
    assert (error <= np.maximum(np.abs(values) / 31, unit * (0.5 if kind == "signed8" else 1))).all()
    again = scale(np.abs(decoded).max(), kind)
    assert again <= unit
    assert_same_bits(decode(encode(decoded, again, kind), again, kind), decoded)


@pytest.mark.parametrize("kind", VALUES)
def test_zero_stays_and_what_is_not_zero_is_not_lost_where_it_divides(kind):
    assert_same_bits(decode(encode(np.zeros(1, np.float32), 1, kind), 1, kind), np.zeros(1, np.float32))
    tiny = np.array([1e-45, 1e-30, 0.25, 0.499], np.float32)
    least = {"signed8": 0, "positive8": 1, "unsigned8": 1}[kind]
    assert (encode(tiny, 1, kind) == least).all()
    assert (run(f"encode_{kind}_at_random")(tiny, np.float32(1), np.int32(0)) == least).all()


@pytest.mark.parametrize("bad", (np.inf, -np.inf, np.nan))
@pytest.mark.parametrize("kind", VALUES)
def test_one_that_is_not_finite_makes_its_block_nan(kind, bad):
    unit = scale(bad, kind)
    assert np.isnan(unit)
    values = np.array([0, 1, bad], np.float32)
    assert np.isnan(decode(encode(values, unit, kind), unit, kind)).all()


# Rounding at random

GRIDS = {"bfloat16": (1e-39, 0.1, 3.3, 1e30), "float16": (1e-8, 4e-7, 0.1, 3.3, 60001)}
GRIDS |= {"signed8": (0.3, 5.2, 31.9, 40.4, 1983.9), "positive8": (1.2, 33.3, 1983.9)}
GRIDS |= {"unsigned8": (1.3, 31.9, 500.1, 2.0**18 - 1)}
DRAWS = (np.arange(4096, dtype=np.uint32) << 20).view(np.int32)  # every 2^20th


def at_random(kind, x, random):
    """x rounded with these bits, in float32: in units of a scale of 1 for codes."""
    if kind in VALUES:
        return decode(run(f"encode_{kind}_at_random")(x, np.float32(1), random), 1, kind)
    return run(f"{kind}_at_random")(x, random)


@pytest.mark.parametrize(("kind", "x"), [(kind, x) for kind, values in GRIDS.items() for x in values])
def test_the_share_that_goes_up_is_the_distance_from_below(kind, x):
    x = np.float32(x)
    low, high = neighbours(np.float64(x), grid_of(kind))
    found = at_random(kind, x, DRAWS)
    up = found == high
    assert (up | (found == low)).all()
    assert abs(up.mean() - (x - low) / (high - low)) <= 1 / len(DRAWS)
    if kind not in ("positive8", "unsigned8"):
        assert_same_bits(at_random(kind, -x, DRAWS), -found)


@pytest.mark.parametrize("kind", GRIDS)
def test_what_has_its_value_keeps_it(kind):
    grid = grid_of(kind).astype(np.float32)
    for random in (*DRAWS[::1000], np.int32(-1)):
        assert_same_bits(at_random(kind, grid, random), grid)


@pytest.mark.parametrize("kind", ("bfloat16", "float16"))
def test_what_is_not_finite_keeps_its_bits(kind):
    x = np.array([np.inf, -np.inf, np.nan], np.float32)
    assert_same_bits(at_random(kind, x, np.int32(-1)), x)
