"""What generated CPU kernels are made of: compiled functions, loads and stores by address."""

import math
from functools import cache

from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from . import codes, memory, scalars, vectors

__all__ = [
    "coded",
    "device",
    "fma",
    "jit",
    "load",
    "math",
    "maximum",
    "min",
    "minimum",
    "shared",
    "sign",
    "sqrt",
    "store",
    "vectors",
]

_OPTIONS = {"nogil": True, "error_model": "numpy"}  # no lock of Python's; IEEE 754's division

# Without wrappers, which cost more than most of these: only kernels of the same module call them.
device = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
# Not the overloads that a user's njit finds: those are functions of their own, compiled for every kernel.
fma, sqrt, maximum, minimum, sign = (scalars.compiled(function, intrinsic) for function in scalars.EMIT)


def jit(caching, signature):
    """A kernel, called from Python, whose machine code is kept on disk."""
    return njit(signature, cache=caching, no_cfunc_wrapper=True, **_OPTIONS)


def shared(module, caching):
    """A function of integers, without a result, that kernels of other modules import.

    They call it by its symbol, so that it is compiled once, and into none of them.
    """

    def compile(function):
        count = function.__code__.co_argcount
        compiled = cfunc(f"void({', '.join(['int64'] * count)})", cache=caching, **_OPTIONS)(function)
        symbol = f"{module}.{function.__name__}"
        add_symbol(symbol, compiled.address)

        @intrinsic
        def call(typingctx, *arguments):
            def generate(context, builder, signature, values):
                kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * count)
                called = cgutils.get_or_insert_function(builder.module, kind, symbol)
                builder.call(called, cgutils.unpack_tuple(builder, values[0]))
                return context.get_dummy_value()

            return types.void(types.UniTuple(types.int64, count)), generate

        call.compiled = compiled  # its machine code lives as long
        return call

    return compile


@intrinsic
def min(typingctx, a, b):
    """The smaller of two integers; Python's is a function of its own, compiled for every kernel."""
    signature = types.int64(types.int64, types.int64)
    return signature, lambda context, builder, _, values: builder.select(builder.icmp_signed("<", *values), *values)


@cache
def load(dtype):
    return memory.loader(intrinsic, dtype)


@cache
def store(dtype):
    return memory.storer(intrinsic, dtype)


@cache
def coded(name):
    return codes.compiled(name, intrinsic)
