"""The scalar functions rules are written with: one meaning in plain Python, njit, device code and the simulator.

`EMIT` holds the LLVM instructions of each function once; the CPU (here) and CUDA (cuda.py) both
compile from it. The plain functions below are what the simulator and a user's Python call.
"""

import ctypes
import sys
from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

_libm = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
_fma = {np.float32: _libm.fmaf, np.float64: _libm.fma}
for _kind, _ctype in ((np.float32, ctypes.c_float), (np.float64, ctypes.c_double)):
    _fma[_kind].restype, _fma[_kind].argtypes = _ctype, [_ctype] * 3


def _kind(*values):
    """float32 if every NumPy scalar among the values is one (Python numbers adapt), else float64."""
    kinds = {type(v) for v in values} - {float, int}
    return np.float32 if kinds == {np.float32} else np.float64


def fma(a: float, b: float, c: float) -> float:
    """a * b + c, rounded once (IEEE 754 fusedMultiplyAdd). float32 or float64 scalars."""
    kind = _kind(a, b, c)
    return kind(_fma[kind](a, b, c))


def sqrt(a: float) -> float:
    """The square root, correctly rounded (IEEE 754). NaN for a < 0."""
    return np.sqrt(_kind(a)(a))


def maximum(a: float, b: float) -> float:
    """The larger of a and b; NaN if either is NaN; b if they are equal."""
    kind = _kind(a, b)
    return kind(a if a > b or a != a else b)


def minimum(a: float, b: float) -> float:
    """The smaller of a and b; NaN if either is NaN; b if they are equal."""
    kind = _kind(a, b)
    return kind(a if a < b or a != a else b)


def sign(a: float) -> float:
    """1 for a > 0, -1 for a < 0, else a itself (a zero of either sign, or NaN)."""
    return _kind(a)(1 if a > 0 else -1 if a < 0 else a)


def _first_if(builder, condition, a, b):
    is_nan = builder.fcmp_unordered("uno", a, a)
    return builder.select(builder.or_(builder.fcmp_ordered(condition, a, b), is_nan), a, b)


def _emit_sqrt(builder, x):
    declared = builder.module.declare_intrinsic("llvm.sqrt", [x.type])
    return builder.call(declared, [x])


def _emit_sign(builder, x):
    zero, one, minus_one = (ir.Constant(x.type, v) for v in (0.0, 1.0, -1.0))
    negative = builder.select(builder.fcmp_ordered("<", x, zero), minus_one, x)
    return builder.select(builder.fcmp_ordered(">", x, zero), one, negative)


EMIT = {
    fma: lambda builder, a, b, c: builder.fma(a, b, c),
    sqrt: _emit_sqrt,
    maximum: lambda builder, a, b: _first_if(builder, ">", a, b),
    minimum: lambda builder, a, b: _first_if(builder, "<", a, b),
    sign: _emit_sign,
}


def compiled(function: Callable, intrinsic: Callable) -> Callable:
    """`function` of EMIT for the compiler that `intrinsic` belongs to (numba's, or numba.cuda's)."""

    def typed(args):
        kind = types.float32 if all(a == types.float32 for a in args) else types.float64

        def generate(context, builder, signature, values):
            return EMIT[function](builder, *values)

        return kind(*[kind] * len(args)), generate

    # An intrinsic takes its arguments by name, so there is one wrapper for each arity.
    wrappers = {
        1: lambda typingctx, a: typed((a,)),
        2: lambda typingctx, a, b: typed((a, b)),
        3: lambda typingctx, a, b, c: typed((a, b, c)),
    }
    return intrinsic(wrappers[function.__code__.co_argcount])


def register(overload: Callable, intrinsic: Callable) -> None:
    """Let code compiled by `overload`'s compiler call the plain functions by their names."""
    for function in EMIT:
        overload(function)(_body(function.__code__.co_argcount, compiled(function, intrinsic)))


def _body(arity, inner):
    # overload() compares parameter names, so each arity is spelled out here too.
    return {
        1: lambda a: lambda a: inner(a),
        2: lambda a, b: lambda a, b: inner(a, b),
        3: lambda a, b, c: lambda a, b, c: inner(a, b, c),
    }[arity]


register(overload, intrinsic)
