"""State in few bytes: 8-bit codes with a scale for every 256 of them, and rounding at random.

A code is a small float: 4 bits of fraction, and above them an exponent of 3 bits (signed: the top bit is the sign;
positive: it is 0) or 4 (unsigned). In units of its block's scale it is an integer, c below 32 and
(16 + c % 16) * 2^(c // 16 - 1) above. The scale is the power of two, from 2^-126 on, that just fits the block's largest
value: codes are exact floats, and their relative error is below 1/31 down to 2^-6 (signed, positive) or 2^-14
(unsigned) of that value. Below, steps are even: 1/992 or 1/253952 of it or less.

What divides is not rounded to 0, but up to one step. So that no quotient is far larger than the block's largest, a
divisor reaches as far down as what it divides: signed means are over positive ones, or over roots of unsigned squares,
which reach down to 2^-9. A step in proportion to mean / divisor is right for elements down to about 2^-9 of the block's
largest gradient, and below too short: by their ratio times 2^9, in the mean if rounded at random; to nearest, means
below 2^-12 of the largest are 0. A step in proportion to a signed state alone is off by 1/992 of the block's largest.

Rounding at random adds random bits below the last one that stays. They come from a counter, not from a stream: hashed
from (seed, step, tensor, element), they are the same on every device. The hash mixes 32 bits twice, keyed in between,
with the constants of https://github.com/skeeto/hash-prospector (lowbias32).

`FUNCTIONS` holds LLVM instructions and their twins in plain Python. Bits travel as int32.
"""

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import types

CODES_PER_SCALE = 256
_FRACTION = 4
_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_SIGN, _INFINITY = 0x80000000, 0x7F800000
_OCTAVES = {"signed8": 10, "positive8": 10, "unsigned8": 18}  # exponent of the largest code, in units of the scale
_ROOM = 0x07FFFF  # carries what exceeds the largest fraction, 15/16, into the exponent
_ONE_OCTAVE = 127 + _FRACTION - 1 << 23  # what the exponents of codes begin from
_POINT = 26  # bits after the point when a code is rounded


def _const(value):
    return ir.Constant(_I32, value & 0xFFFFFFFF)


def _bits(builder, x):
    return builder.bitcast(x, _I32)


def _float(builder, bits):
    return builder.bitcast(bits, _F32)


def _mix(b, x):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = b.mul(b.xor(x, b.lshr(x, _const(shift))), _const(factor))
    return b.xor(x, b.lshr(x, _const(16)))


def _halves(b, x):
    return b.trunc(x, _I32), b.trunc(b.lshr(x, ir.Constant(_I64, 32)), _I32)


def _emit_keyed(b, key, step, array):
    (low, high), (t, t_high) = _halves(b, key), _halves(b, step)
    salt = b.mul(b.trunc(array, _I32), _const(0x9E3779B9))
    first = _mix(b, b.add(b.xor(_mix(b, b.add(b.xor(low, t), salt)), t_high), high))
    second = _mix(b, b.add(first, high))
    return b.or_(b.zext(first, _I64), b.shl(b.zext(second, _I64), ir.Constant(_I64, 32)))


def _emit_random(b, key, index):
    (low, high), (i, i_high) = _halves(b, key), _halves(b, index)
    x = b.add(b.xor(i, low), b.mul(i_high, _const(0x9E3779B9)))
    return _mix(b, b.xor(_mix(b, x), high))


def _emit_top(b, top, x):
    bits = b.and_(_bits(b, x), _const(~_SIGN))
    return b.select(b.icmp_signed(">", bits, top), bits, top)


def _emit_larger(b, top, other):
    return b.select(b.icmp_signed(">", other, top), other, top)


def _emit_scale(kind):
    def emit(b, top):
        exponent = b.and_(b.add(top, _const(_ROOM)), _const(_INFINITY))
        bits = b.sub(exponent, _const(_OCTAVES[kind] << 23))
        is_small = b.icmp_signed("<", bits, _const(1 << 23))
        bits = b.select(is_small, _const(1 << 23), bits)
        is_finite = b.icmp_signed("<", top, _const(_INFINITY))
        return _float(b, b.select(is_finite, bits, _const(0x7FC00000)))

    return emit


def _emit_decode(kind):
    def emit(b, code, scale):
        magnitude = b.and_(code, _const(0x7F)) if kind == "signed8" else code
        # the float whose exponent and fraction the code holds; below 16 that of 16 more
        is_low = b.icmp_signed("<", magnitude, _const(16))
        bits = b.add(b.shl(magnitude, _const(23 - _FRACTION)), _const(_ONE_OCTAVE))
        bits = b.add(bits, b.select(is_low, _const(1 << 23), _const(0)))
        steps = b.fsub(_float(b, bits), b.select(is_low, ir.Constant(_F32, 16.0), ir.Constant(_F32, 0.0)))
        value = b.fmul(steps, scale)
        if kind == "signed8":
            sign = b.shl(b.and_(code, _const(0x80)), _const(24))
            value = _float(b, b.or_(_bits(b, value), sign))
        return value

    return emit


def _nearest(b, steps):
    bits = _bits(b, steps)
    odd = b.and_(b.lshr(bits, _const(23 - _FRACTION)), _const(1))
    rounded = b.add(b.add(bits, odd), _const((1 << 22 - _FRACTION) - 1 - _ONE_OCTAVE))
    # adding 2^23 rounds to a whole number, which the last bits then hold
    whole = b.and_(_bits(b, b.fadd(steps, ir.Constant(_F32, 2.0**23))), _const(0xFF))
    is_low = b.fcmp_ordered("<", steps, ir.Constant(_F32, 16.0))
    return b.select(is_low, whole, b.lshr(rounded, _const(23 - _FRACTION)))


def _at_random(b, steps, is_real, random):
    octave = b.sub(b.lshr(_bits(b, steps), _const(23)), _const(127 + _FRACTION))
    octave = b.select(b.icmp_signed(">", octave, _const(0)), octave, _const(0))
    unit = _float(b, b.sub(_const(127 + _POINT << 23), b.shl(octave, _const(23))))
    fixed = b.fptosi(b.select(is_real, b.fmul(steps, unit), ir.Constant(_F32, 0.0)), _I32)
    below = b.lshr(random, _const(32 - _POINT))
    return b.add(b.lshr(b.add(fixed, below), _const(_POINT)), b.shl(octave, _const(_FRACTION)))


def _emit_encode(kind, at_random):
    def emit(b, x, scale, *random):
        bits = _bits(b, x)
        magnitude = _float(b, b.and_(bits, _const(~_SIGN)))
        steps = b.fmul(magnitude, _float(b, b.sub(_const(254 << 23), _bits(b, scale))))  # / scale, which is 2^k
        is_real = b.fcmp_ordered("ord", scale, scale)
        code = _at_random(b, steps, is_real, *random) if at_random else _nearest(b, steps)
        if kind == "signed8":
            code = b.or_(code, b.lshr(b.and_(bits, _const(_SIGN)), _const(24)))
        else:  # what is not 0 stays so: it may be divided by
            least = b.zext(b.fcmp_ordered(">", magnitude, ir.Constant(_F32, 0.0)), _I32)
            code = b.select(b.icmp_signed("<", code, least), least, code)
        return b.select(is_real, code, _const(0))

    return emit


def _emit_bfloat16(b, x, random):
    bits = _bits(b, x)
    rounded = b.and_(b.add(bits, b.lshr(random, _const(16))), _const(0xFFFF0000))
    is_finite = b.icmp_signed("<", b.and_(bits, _const(~_SIGN)), _const(_INFINITY))
    return _float(b, b.select(is_finite, rounded, bits))


def _emit_float16(b, x, random):
    # below 2^-14 float16 has even steps of 2^-24, above as many as 10 bits of fraction give
    bits = _bits(b, x)
    magnitude = b.and_(bits, _const(~_SIGN))
    exponent = b.lshr(magnitude, _const(23))
    is_low = b.icmp_signed("<", exponent, _const(127 - 14))
    exponent = b.select(is_low, _const(127 - 14), exponent)
    unit = _float(b, b.shl(b.sub(_const(254 + 10 + 13), exponent), _const(23)))  # its last place becomes 2^13
    is_finite = b.icmp_signed("<", magnitude, _const(127 + 16 << 23))
    fixed = b.fptosi(b.fmul(b.select(is_finite, _float(b, magnitude), ir.Constant(_F32, 0.0)), unit), _I32)
    count = b.and_(b.add(fixed, b.lshr(random, _const(32 - 13))), _const(~0x1FFF))
    rounded = b.fmul(b.sitofp(count, _F32), _float(b, b.shl(b.sub(exponent, _const(10 + 13)), _const(23))))
    rounded = _float(b, b.or_(_bits(b, rounded), b.and_(bits, _const(_SIGN))))
    return b.select(is_finite, rounded, x)


# The twins, in plain Python.


def _u32(x):
    return int(x) & 0xFFFFFFFF


def _as_bits(x):
    return int(np.float32(x).view(np.uint32))


def _as_float(bits):
    return np.uint32(bits).view(np.float32)


def _plain_mix(x):
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = _u32((x ^ x >> shift) * factor)
    return x ^ x >> 16


def _plain_keyed(key, step, array):
    key, step = int(key) & (1 << 64) - 1, int(step)
    low, high = _u32(key), key >> 32
    first = _plain_mix(_u32((_plain_mix(_u32((low ^ _u32(step)) + _u32(array) * 0x9E3779B9)) ^ step >> 32) + high))
    second = _plain_mix(_u32(first + high))
    return first | second << 32


def _plain_random(key, index):
    key, index = int(key), int(index)
    x = _u32((_u32(index) ^ _u32(key)) + (index >> 32) * 0x9E3779B9)
    return _plain_mix(_plain_mix(x) ^ key >> 32)


def _plain_top(top, x):
    return max(int(top), _as_bits(x) & ~_SIGN)


def _plain_larger(top, other):
    return max(int(top), int(other))


def _plain_scale(kind):
    def scale(top):
        top = int(top)
        if top >= _INFINITY:
            return np.float32(np.nan)
        return _as_float(max((top + _ROOM & _INFINITY) - (_OCTAVES[kind] << 23), 1 << 23))

    return scale


def _plain_decode(kind):
    def decode(code, scale):
        code = int(code)
        magnitude = code & 0x7F if kind == "signed8" else code
        steps = magnitude if magnitude < 32 else 16 + magnitude % 16 << magnitude // 16 - 1
        value = np.float32(steps) * scale
        return -value if kind == "signed8" and code & 0x80 else value

    return decode


def _plain_encode(kind, at_random):
    def encode(x, scale, *random):
        if np.isnan(scale):
            return 0
        bits = _as_bits(x)
        steps = _as_float(bits & ~_SIGN) * _as_float((254 << 23) - _as_bits(scale))
        octave = max((_as_bits(steps) >> 23) - 127 - _FRACTION, 0)
        fixed = int(steps * np.float32(2.0 ** (_POINT - octave)))
        below = int(random[0]) >> 32 - _POINT if at_random else (1 << _POINT - 1) - 1 + (fixed >> _POINT & 1)
        code = (fixed + below >> _POINT) + (octave << _FRACTION)
        if kind == "signed8":
            return code | (bits & _SIGN) >> 24
        return max(code, int(x != 0))

    return encode


def _plain_bfloat16(x, random):
    bits = _as_bits(x)
    if bits & ~_SIGN >= _INFINITY:
        return x
    return _as_float(bits + (int(random) >> 16) & 0xFFFF0000)


def _plain_float16(x, random):
    bits = _as_bits(x)
    exponent = max((bits & ~_SIGN) >> 23, 127 - 14)
    if exponent >= 127 + 16:
        return x
    fixed = int(_as_float(bits & ~_SIGN) * np.float32(2.0 ** (150 - exponent)))
    rounded = np.float32((fixed + (int(random) >> 19) & ~0x1FFF) * 2.0 ** (exponent - 150))
    return -rounded if bits & _SIGN else rounded


_INT, _LONG, _REAL = types.int32, types.int64, types.float32

# name: (LLVM, plain Python, result, arguments)
FUNCTIONS = {
    "keyed": (_emit_keyed, _plain_keyed, _LONG, (_LONG, _LONG, _LONG)),
    "random": (_emit_random, _plain_random, _INT, (_LONG, _LONG)),
    "top": (_emit_top, _plain_top, _INT, (_INT, _REAL)),
    "larger": (_emit_larger, _plain_larger, _INT, (_INT, _INT)),
    "bfloat16_at_random": (_emit_bfloat16, _plain_bfloat16, _REAL, (_REAL, _INT)),
    "float16_at_random": (_emit_float16, _plain_float16, _REAL, (_REAL, _INT)),
}
for _kind in _OCTAVES:
    _encoder = _INT, (_REAL, _REAL)
    FUNCTIONS |= {
        f"scale_{_kind}": (_emit_scale(_kind), _plain_scale(_kind), _REAL, (_INT,)),
        f"decode_{_kind}": (_emit_decode(_kind), _plain_decode(_kind), _REAL, (_INT, _REAL)),
        f"encode_{_kind}": (_emit_encode(_kind, False), _plain_encode(_kind, False), _INT, (_REAL, _REAL)),
        f"encode_{_kind}_at_random": (
            _emit_encode(_kind, True),
            _plain_encode(_kind, True),
            _INT,
            (_REAL, _REAL, _INT),
        ),
    }


def compiled(name: str, intrinsic: Callable) -> Callable:
    """A function for the compiler that `intrinsic` belongs to."""
    emit, _, result, kinds = FUNCTIONS[name]

    def typed(*given):
        def generate(context, builder, signature, values):
            return emit(builder, *values)

        return result(*kinds), generate

    # An intrinsic takes its arguments by name, so there is one wrapper for each arity.
    wrappers = {
        1: lambda typingctx, a: typed(a),
        2: lambda typingctx, a, b: typed(a, b),
        3: lambda typingctx, a, b, c: typed(a, b, c),
    }
    return intrinsic(wrappers[len(kinds)])


def plain(name: str) -> Callable:
    """What `compiled` compiles, in plain Python."""
    return FUNCTIONS[name][1]
