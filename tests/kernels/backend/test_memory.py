"""16-bit floats widen exactly and round to nearest even, bytes are 0 to 255; compiled code and its plain twin."""

import struct

import ml_dtypes
import numpy as np
import pytest

from gdgpu.kernels.backend import memory
from gdgpu.kernels.backend.buffers import address_of
from support.references import assert_same_bits, bits, dtype_of

PATTERNS = np.arange(2**16, dtype=np.uint16)
LANES = {"float16": (1, 8), "bfloat16": (1, 8), "float32": (1, 4, 8), "float64": (1, 2, 4), "uint8": (1, 16)}
COMBINATIONS = [(dtype, lanes, how) for dtype in LANES for lanes in LANES[dtype] for how in ("compiled", "plain")]


def aligned(n, dtype):
    """n elements that begin at a multiple of 64 bytes."""
    raw = np.zeros(n * np.dtype(dtype).itemsize + 64, np.uint8)
    return raw[-address_of(raw) % 64 :][: n * np.dtype(dtype).itemsize].view(dtype)


def copy_through(dtype, lanes, how, source, target):
    """target[i] = source[i] for all i by the loads and stores of kernels; either may be of another dtype."""
    names = [array.dtype.name.replace("uint16", dtype) for array in (source, target)]
    if how == "plain":
        load, store = memory.plain_loader(names[0], lanes), memory.plain_storer(names[1], lanes)

        def copy(a, b, n):
            for i in range(0, n, lanes):
                store(b, i, load(a, i))

        return copy(address_of(source), address_of(target), len(source))
    from numba import njit
    from numba.extending import intrinsic

    load, store = memory.loader(intrinsic, names[0], lanes), memory.storer(intrinsic, names[1], lanes)

    @njit
    def compiled(a, b, n):
        for i in range(0, n, lanes):
            store(b, i, load(a, i))

    return compiled(address_of(source), address_of(target), len(source))


@pytest.mark.parametrize(("dtype", "lanes", "how"), [c for c in COMBINATIONS if "16" in c[0]])
def test_every_16_bit_pattern_widens_exactly(dtype, lanes, how):
    source, target = aligned(len(PATTERNS), np.uint16), aligned(len(PATTERNS), np.float32)
    source[:] = PATTERNS
    copy_through(dtype, lanes, how, source, target)
    assert_same_bits(target, PATTERNS.view(dtype_of(dtype)).astype(np.float32))


def hard_to_round(dtype):
    """Every value of a 16-bit dtype, every midpoint of neighbours, and the float32 next to each on both sides."""
    values = PATTERNS.view(dtype_of(dtype)).astype(np.float32)
    values = np.sort(values[np.isfinite(values)])
    middle = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    # infinities, and NaNs whose payload lies in the bits that are cut off
    special = np.array([0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        largest = values[-1] + (values[-1] - values[-2]) * np.array([0.5, 1, 2], np.float32)
        exact = np.concatenate([values, middle, largest, -largest])
        near = [np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))]
    found = np.concatenate([special, exact, *near, noise])
    return np.resize(found, -(-len(found) // 8) * 8)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("dtype", "lanes", "how"), [c for c in COMBINATIONS if "16" in c[0]])
def test_16_bit_stores_round_to_nearest_even(dtype, lanes, how):
    values = hard_to_round(dtype)
    if how == "plain" and lanes == 1:  # slow, and the same code as for 8 lanes
        values = values[::16]
    source, target = aligned(len(values), np.float32), aligned(len(values), np.uint16)
    source[:] = values
    copy_through(dtype, lanes, how, source, target)
    assert_same_bits(target.view(dtype_of(dtype)), values.astype(dtype_of(dtype)))


def test_the_reference_rounds_to_nearest_even():
    """Python's own half precision, and bfloat16 by the definition, agree with NumPy and ml_dtypes."""
    values = hard_to_round("float16")
    values = values[np.abs(values) < 65520]
    packed = b"".join(struct.pack("e", float(x)) for x in values)
    assert_same_bits(np.frombuffer(packed, np.float16), values.astype(np.float16))
    values = hard_to_round("bfloat16")
    values = values[np.isfinite(values)]
    low, high = values.view(np.uint32) & 0xFFFF, values.view(np.uint32) >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (high & 1 == 1))
    with np.errstate(over="ignore"):
        rounded = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(bits(rounded), high + up)


@pytest.mark.parametrize(("dtype", "lanes", "how"), COMBINATIONS)
def test_bits_survive_a_copy(dtype, lanes, how):
    storage = np.uint16 if "16" in dtype else dtype
    source, target = aligned(512, storage), aligned(512, storage)
    rng = np.random.default_rng(3)
    source.view(np.uint8)[:] = rng.integers(0, 256, source.nbytes, np.uint8)
    copy_through(dtype, lanes, how, source, target)
    assert_same_bits(target.view(dtype_of(dtype)), source.view(dtype_of(dtype)))


@pytest.mark.parametrize("dtype", LANES)
def test_a_plain_vector_access_must_be_aligned(dtype):
    lanes = LANES[dtype][-1]
    array = aligned(64, np.uint16 if "16" in dtype else dtype)
    with pytest.raises(AssertionError, match="not aligned"):
        memory.plain_loader(dtype, lanes)(address_of(array), 1)
    with pytest.raises(AssertionError, match="not aligned"):
        memory.plain_storer(dtype, lanes)(address_of(array), 1, (0.0,) * lanes)


@pytest.mark.parametrize("how", ("compiled", "plain"))
@pytest.mark.parametrize("lanes", LANES["uint8"])
def test_bytes_become_numbers_from_0_to_255(lanes, how):
    from numba import njit
    from numba.extending import intrinsic

    every = aligned(256, np.uint8)
    every[:] = np.arange(256)
    if how == "plain":
        load = memory.plain_loader("uint8", lanes)
    else:
        compiled = memory.loader(intrinsic, "uint8", lanes)
        load = njit(lambda address, index: compiled(address, index))
    found = np.concatenate([np.atleast_1d(load(address_of(every), k)) for k in range(0, 256, lanes)])
    np.testing.assert_array_equal(found, np.arange(256))
