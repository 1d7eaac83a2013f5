"""What generated CPU kernels are made of: compiled functions, loads and stores by address."""

import math
from functools import cache

from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import config, njit, types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

from . import codes, memory, scalars, vectors
from .kept import Kept

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


def jit(code, signature):
    """A kernel, called from Python. code: where its machine code is kept, a path without its suffix, or None."""

    def compile(function):
        kernel = njit(no_cfunc_wrapper=True, **_OPTIONS)(_compilable(function))
        if code:
            kernel._cache = Kept(code, function)
        kernel.compile(signature)
        kernel.disable_compile()
        return kernel

    return compile


def shared(module, code):
    """A function of integers, without a result, that kernels of other modules import.

    They call it by its symbol, so that it is compiled once, and into none of them.
    """

    def compile(function):
        count = function.__code__.co_argcount
        signature = normalize_signature(f"void({', '.join(['int64'] * count)})")
        compiled = CFunc(_compilable(function), signature, {}, _OPTIONS)
        if code:
            compiled._cache = Kept(code, function)
        compiled.compile()
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


def _compilable(function):
    if config.DISABLE_JIT:
        raise ValueError("NUMBA_DISABLE_JIT: expected 0, got 1: kernels cannot run as plain Python; unset it")
    return function


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
