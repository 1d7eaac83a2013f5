"""What generated CPU kernels are made of: compiled functions, loads and stores by address."""

import math
import platform
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from llvmlite import ir
from llvmlite.binding import add_symbol
from numba import config, njit, types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.core.errors import NumbaError as CompileError
from numba.core.sigutils import normalize_signature
from numba.extending import intrinsic

from . import memory, quantize, scalars, simd
from .numba_cache import NumbaCache

__all__ = [
    "CompileError",
    "at_work",
    "device",
    "fma",
    "give_way",
    "jit",
    "load",
    "math",
    "maximum",
    "min",
    "minimum",
    "quantized",
    "restore_modes",
    "shared",
    "sign",
    "simd",
    "sqrt",
    "standard_modes",
    "store",
]

_OPTIONS = {"nogil": True, "error_model": "numpy"}  # no lock of Python's; IEEE 754's division

# Without wrappers, which cost more than most of these: only kernels of the same module call them.
device = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS)
# Not the overloads that a user's njit finds: those are functions of their own, compiled for every kernel.
fma = scalars.compiled(scalars.fma, intrinsic)
sqrt = scalars.compiled(scalars.sqrt, intrinsic)
maximum = scalars.compiled(scalars.maximum, intrinsic)
minimum = scalars.compiled(scalars.minimum, intrinsic)
sign = scalars.compiled(scalars.sign, intrinsic)


def jit(code: Path | None, signature: str) -> Callable:
    """A kernel, called from Python. code: where its machine code is kept, a path without its suffix, or None."""

    def compile(function):
        kernel = njit(no_cfunc_wrapper=True, **_OPTIONS)(_compilable(function))
        if code:
            kernel._cache = NumbaCache(code, function)
        kernel.compile(signature)
        kernel.disable_compile()
        return kernel

    return compile


def shared(module: str, code: Path | None) -> Callable:
    """A function of integers, without a result, that kernels of other modules import.

    They call it by its symbol, so that it is compiled once, and into none of them.
    """

    def compile(function):
        count = function.__code__.co_argcount
        signature = normalize_signature(f"void({', '.join(['int64'] * count)})")
        compiled = CFunc(_compilable(function), signature, {}, _OPTIONS)
        if code:
            compiled._cache = NumbaCache(code, function)
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


@intrinsic
def at_work(typingctx, slots, k):
    """The integer at a place that another thread writes."""

    def generate(context, builder, signature, values):
        pointer = builder.gep(builder.inttoptr(values[0], ir.IntType(64).as_pointer()), [values[1]])
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64, types.int64), generate


give_way = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.int32())


@intrinsic
def standard_modes(typingctx):
    """Let this thread's arithmetic round to nearest and keep what is tiny; returns what it did before."""

    def generate(context, builder, signature, values):
        before = _modes(builder)
        _set_modes(builder, ir.Constant(before.type, _STANDARD_MODES.get(_MACHINE, 0)))
        return before

    return types.int64(), generate


@intrinsic
def restore_modes(typingctx, modes):
    """What standard_modes has changed."""

    def generate(context, builder, signature, values):
        _set_modes(builder, values[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


_MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
_STANDARD_MODES = {"x86_64": 0x1F80, "aarch64": 0}  # of MXCSR, with all exceptions masked, and of FPCR


def _modes(builder):
    """The control register of floating-point arithmetic, as an int64."""
    if _MACHINE == "x86_64":
        place = builder.alloca(ir.IntType(32))
        _call(builder, "llvm.x86.sse.stmxcsr", place)
        return builder.zext(builder.load(place), ir.IntType(64))
    if _MACHINE == "aarch64":
        return builder.asm(ir.FunctionType(ir.IntType(64), []), "mrs $0, fpcr", "=r", [], side_effect=True)
    return ir.Constant(ir.IntType(64), 0)


def _set_modes(builder, modes):
    if _MACHINE == "x86_64":
        place = builder.alloca(ir.IntType(32))
        builder.store(builder.trunc(modes, ir.IntType(32)), place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
    elif _MACHINE == "aarch64":
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.asm(kind, "msr fpcr, $0", "r", [modes], side_effect=True)


def _call(builder, name, place):
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    called = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(called, [builder.bitcast(place, ir.IntType(8).as_pointer())])


@cache
def load(dtype: str) -> Callable:
    return memory.loader(intrinsic, dtype)


@cache
def store(dtype: str) -> Callable:
    return memory.storer(intrinsic, dtype)


@cache
def quantized(name: str) -> Callable:
    return quantize.compiled(name, intrinsic)
