"""Loads and stores by address, converting between what memory holds and what rules compute with.

16-bit floats are a form of storage only: they widen exactly to float32 when loaded and round to nearest
even when stored. Codes of 8 bits travel as int32. `loader` and `storer` build LLVM for either compiler;
`plain_loader` and `plain_storer` are their ctypes twins, so that a kernel's text also runs in the simulator.
"""

import ctypes
from collections.abc import Callable
from functools import reduce

import numpy as np
from llvmlite import ir
from numba import types

_BITS = ir.IntType(32)
_I64 = ir.IntType(64)

# name: LLVM type in memory, numba type when computing, bytes
KINDS = {
    "float16": (ir.IntType(16), types.float32, 2),
    "bfloat16": (ir.IntType(16), types.float32, 2),
    "float32": (ir.FloatType(), types.float32, 4),
    "float64": (ir.DoubleType(), types.float64, 8),
    "int64": (_I64, types.int64, 8),
    "uint8": (ir.IntType(8), types.int32, 1),
}
VECTOR_BYTES = 16


def itemsize(dtype: str) -> int:
    return KINDS[dtype][2]


def accumulator(dtype: str) -> str:
    """The dtype in which values of `dtype` are added up and updated: float64 for float64, else float32."""
    return str(KINDS[dtype][1])


def _widen(builder, dtype, x):
    if dtype == "float16":
        return builder.fpext(builder.bitcast(x, ir.HalfType()), ir.FloatType())
    if dtype == "bfloat16":
        bits = builder.shl(builder.zext(x, _BITS), ir.Constant(_BITS, 16))
        return builder.bitcast(bits, ir.FloatType())
    return builder.zext(x, _BITS) if dtype == "uint8" else x


def _narrow(builder, dtype, x):
    if dtype == "float16":
        return builder.bitcast(builder.fptrunc(x, ir.HalfType()), ir.IntType(16))
    if dtype == "bfloat16":

        def constant(value):
            return ir.Constant(_BITS, value)

        bits = builder.bitcast(x, _BITS)
        high = builder.lshr(bits, constant(16))
        # Adding 0x7fff plus the lowest bit that stays rounds to nearest, ties to even.
        tie = builder.add(builder.and_(high, constant(1)), constant(0x7FFF))
        rounded = builder.lshr(builder.add(bits, tie), constant(16))
        quiet_nan = builder.or_(high, constant(0x40))
        is_nan = builder.fcmp_unordered("uno", x, x)
        return builder.trunc(builder.select(is_nan, quiet_nan, rounded), ir.IntType(16))
    return builder.trunc(x, ir.IntType(8)) if dtype == "uint8" else x


def _runs(builder, dtype, lanes, space, address, index):
    """Pointers to the 16-byte vectors (or the one element) that hold `lanes` elements from `index` on."""
    element, _, size = KINDS[dtype]
    width = min(lanes, VECTOR_BYTES // size)
    run = ir.VectorType(_BITS if size < 4 else element, width * size // max(size, 4)) if width > 1 else element
    # A pointer plus an index, not integer arithmetic: LLVM vectorises only what it sees as array access.
    base = builder.inttoptr(address, element.as_pointer(space))
    for start in range(0, lanes, width):
        at = builder.gep(base, [builder.add(index, _I64(start)) if start else index])
        yield builder.bitcast(at, run.as_pointer(space)), width, width * size


def _split(builder, vector, width):
    """The elements of a vector. Small ones travel in 32-bit words: LLVM cuts a vector of 16-bit integers in two."""
    words = [builder.extract_element(vector, _BITS(k)) for k in range(vector.type.count)]
    bits = 32 * len(words) // width
    if bits >= 32:
        return words
    shifted = [builder.lshr(word, _BITS(start)) for word in words for start in range(0, 32, bits)]
    return [builder.trunc(word, ir.IntType(bits)) for word in shifted]


def _join(builder, parts, vector_type):
    """The inverse of _split."""
    each = len(parts) // vector_type.count
    if each > 1:
        bits = 32 // each
        shifted = [builder.shl(builder.zext(p, _BITS), _BITS(k % each * bits)) for k, p in enumerate(parts)]
        parts = [reduce(builder.or_, shifted[k : k + each]) for k in range(0, len(parts), each)]
    vector = ir.Constant(vector_type, ir.Undefined)
    for k, part in enumerate(parts):
        vector = builder.insert_element(vector, part, _BITS(k))
    return vector


def loader(intrinsic: Callable, dtype: str, lanes: int = 1, space: int = 0) -> Callable:
    """load(address, index) -> the value, or a tuple of `lanes` values that lie side by side.

    More than one lane needs an address and index that fall on 16 bytes. space: LLVM's address space.
    """
    kind = KINDS[dtype][1]
    result = kind if lanes == 1 else types.UniTuple(kind, lanes)

    def generate(context, builder, signature, args):
        values = []
        for pointer, width, align in _runs(builder, dtype, lanes, space, *args):
            loaded = builder.load(pointer, align=align)
            parts = [loaded] if width == 1 else _split(builder, loaded, width)
            values += [_widen(builder, dtype, part) for part in parts]
        return values[0] if lanes == 1 else context.make_tuple(builder, result, values)

    @intrinsic
    def load(typingctx, address, index):
        return result(types.int64, types.int64), generate

    return load


def storer(intrinsic: Callable, dtype: str, lanes: int = 1, space: int = 0) -> Callable:
    """store(address, index, value): the inverse of `loader`'s load."""
    kind = KINDS[dtype][1]
    taken = kind if lanes == 1 else types.UniTuple(kind, lanes)

    def generate(context, builder, signature, args):
        address, index, value = args
        values = [value] if lanes == 1 else [builder.extract_value(value, k) for k in range(lanes)]
        values = [_narrow(builder, dtype, v) for v in values]
        for pointer, width, align in _runs(builder, dtype, lanes, space, address, index):
            run, values = values[:width], values[width:]
            stored = run[0] if width == 1 else _join(builder, run, pointer.type.pointee)
            builder.store(stored, pointer, align=align)
        return context.get_dummy_value()

    @intrinsic
    def store(typingctx, address, index, value):
        return types.void(types.int64, types.int64, taken), generate

    return store


def _widened(dtype, stored):
    if dtype == "float16":
        return stored.view(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.int32) if dtype == "uint8" else stored


def _narrowed(dtype, values):
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
        return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)
    return values


def _elements(dtype, lanes, address, index):
    size = itemsize(dtype)
    at = int(address) + int(index) * size
    if lanes > 1 and at % VECTOR_BYTES:
        raise AssertionError(f"vector access at {at:#x} is not aligned to {VECTOR_BYTES} bytes")
    raw = (ctypes.c_char * (lanes * size)).from_address(at)
    return np.frombuffer(raw, np.uint16 if size == 2 else dtype)


def plain_loader(dtype: str, lanes: int = 1) -> Callable:
    """What `loader` compiles, in plain Python."""

    def load(address, index):
        values = _widened(dtype, _elements(dtype, lanes, address, index))
        return values[0] if lanes == 1 else tuple(values)

    return load


def plain_storer(dtype: str, lanes: int = 1) -> Callable:
    """What `storer` compiles, in plain Python."""

    def store(address, index, value):
        values = np.array([value] if lanes == 1 else value, dtype=accumulator(dtype))
        _elements(dtype, lanes, address, index)[:] = _narrowed(dtype, values)

    return store
