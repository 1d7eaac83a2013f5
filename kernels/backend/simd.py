"""Vectors of 64 bytes as values of CPU kernels, where a loop must keep its partial sums in registers.

`Vector(kind, n)` is a type of numba's; LLVM cuts it to what the processor has. The functions below make the
intrinsics that kernels call: 16-bit floats and bytes widen when loaded, as in memory.py.
"""

from collections.abc import Callable
from functools import cache

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

from . import memory

VECTOR_BYTES = 64
_I8, _I32 = ir.IntType(8), ir.IntType(32)


class Vector(types.Type):
    """n elements of a kind, numba's float32 or float64."""

    def __init__(self, kind: types.Type, n: int) -> None:
        self.kind, self.n = kind, n
        super().__init__(name=f"Vector({kind} x {n})")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = manager.lookup(vector.kind).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.n))


@cache
def vector(dtype: str) -> Vector:
    """The vector that values of `dtype` are computed in."""
    kind = types.float64 if dtype == "float64" else types.float32
    return Vector(kind, VECTOR_BYTES * 8 // kind.bitwidth)


def lanes(dtype: str) -> int:
    """Elements of that vector."""
    return vector(dtype).n


def _pointer(b, dtype, address, index):
    return b.gep(b.inttoptr(address, memory.KINDS[dtype][0].as_pointer()), [index])


def _widened(b, dtype, stored, n):
    if dtype == "uint8":
        return b.sitofp(b.zext(stored, ir.VectorType(_I32, n)), ir.VectorType(ir.FloatType(), n))
    if dtype == "float16":
        return b.fpext(b.bitcast(stored, ir.VectorType(ir.HalfType(), n)), ir.VectorType(ir.FloatType(), n))
    if dtype == "bfloat16":
        bits = b.shl(b.zext(stored, ir.VectorType(_I32, n)), ir.Constant(ir.VectorType(_I32, n), [16] * n))
        return b.bitcast(bits, ir.VectorType(ir.FloatType(), n))
    return stored


def _declared(b, name, result, arguments):
    return b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(result, arguments), name)


@cache
def load(dtype: str) -> Callable:
    """load(address, index): the vector that begins there."""
    made = vector(dtype)

    def generate(context, b, signature, args):
        memory_type = ir.VectorType(memory.KINDS[dtype][0], made.n)
        pointer = b.bitcast(_pointer(b, dtype, *args), memory_type.as_pointer())
        return _widened(b, dtype, b.load(pointer, align=memory.itemsize(dtype)), made.n)

    @intrinsic
    def load(typingctx, address, index):
        return made(types.int64, types.int64), generate

    return load


@cache
def load_some(dtype: str) -> Callable:
    """load_some(address, index, count): its first `count` elements, the others 0; reads nothing beyond them."""
    made = vector(dtype)

    def generate(context, b, signature, args):
        address, index, count = args
        element = memory.KINDS[dtype][0]
        memory_type, size = ir.VectorType(element, made.n), memory.itemsize(dtype)
        each = ir.VectorType(_I32, made.n)
        pointer = b.bitcast(_pointer(b, dtype, address, index), memory_type.as_pointer())
        mask = b.icmp_signed("<", ir.Constant(each, list(range(made.n))), _spread(b, b.trunc(count, _I32), each))
        name = f"llvm.masked.load.v{made.n}{'f' if size >= 4 else 'i'}{8 * size}.p0"
        function = _declared(b, name, memory_type, [pointer.type, _I32, mask.type, memory_type])
        return _widened(b, dtype, b.call(function, [pointer, _I32(size), mask, ir.Constant(memory_type, None)]), made.n)

    @intrinsic
    def load_some(typingctx, address, index, count):
        return made(types.int64, types.int64, types.int64), generate

    return load_some


@cache
def store(dtype: str) -> Callable:
    """store(address, index, vector): the inverse of load, for float32 and float64."""
    made = vector(dtype)

    def generate(context, b, signature, args):
        address, index, value = args
        b.store(
            value, b.bitcast(_pointer(b, dtype, address, index), value.type.as_pointer()), align=memory.itemsize(dtype)
        )
        return context.get_dummy_value()

    @intrinsic
    def store(typingctx, address, index, value):
        return types.void(types.int64, types.int64, made), generate

    return store


def _spread(b, x, made):
    first = b.insert_element(ir.Constant(made, ir.Undefined), x, _I32(0))
    return b.shuffle_vector(first, ir.Constant(made, ir.Undefined), ir.Constant(ir.VectorType(_I32, made.count), None))


@cache
def spread(dtype: str) -> Callable:
    """spread(x): a vector of x."""
    made = vector(dtype)

    def generate(context, b, signature, args):
        return _spread(b, args[0], context.get_value_type(made))

    @intrinsic
    def spread(typingctx, x):
        return made(made.kind), generate

    return spread


@intrinsic
def fma(typingctx, x, y, z):
    """x * y + z of three vectors, rounded once."""

    def generate(context, b, signature, args):
        made = args[0].type
        name = f"llvm.fma.v{made.count}f{signature.return_type.kind.bitwidth}"
        return b.call(_declared(b, name, made, [made] * 3), args)

    return x(x, x, x), generate


@intrinsic
def total(typingctx, x):
    """The sum of a vector's elements, by halving: i with i + n/2, then n/4, … 1."""

    def generate(context, b, signature, args):
        (x,), n = args, signature.args[0].n
        while n > 1:
            n //= 2
            nothing = ir.Constant(x.type, ir.Undefined)
            low, high = (ir.Constant(ir.VectorType(_I32, n), list(range(k, k + n))) for k in (0, n))
            x = b.fadd(b.shuffle_vector(x, nothing, low), b.shuffle_vector(x, nothing, high))
        return b.extract_element(x, _I32(0))

    return x.kind(x), generate


@intrinsic
def prefetch(typingctx, address):
    """Ask for the line at an address, which may be one that is not there, to be brought into the cache."""

    def generate(context, b, signature, args):
        pointer = b.inttoptr(args[0], _I8.as_pointer())
        function = _declared(b, "llvm.prefetch.p0", ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        b.call(function, [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate
