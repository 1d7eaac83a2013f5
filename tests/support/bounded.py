"""Numbers in float64, each with a bound of what float32 or float64 arithmetic makes of it: running error analysis.

Every operation adds what its operands' errors may do, and its own rounding. A fused multiply-add rounds less often than
the product and the sum that are bounded here. `stored` adds what a narrower dtype, or a code of 8 bits, rounds.
"""

import numpy as np

from support.references import dtype_of

BLOCK = 256
# The part of a float's value, and the least, that rounding to nearest changes; at random twice as much.
UNITS = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134), "float32": (2.0**-24, 2.0**-150)}
UNITS |= {"float64": (2.0**-53, 2.0**-1074)}
CODES = {"signed8": 992, "positive8": 992, "unsigned8": 253_952}  # of the block's largest value, the least is one in …


class Bounded:
    """value, an array, and error, a bound; unit: relative, of one rounding of the arithmetic."""

    def __init__(self, value, error=0.0, unit=2.0**-24):
        self.value, self.unit = np.array(value, np.float64), unit
        error = np.broadcast_to(np.asarray(error, np.float64), self.value.shape)
        self.error = np.where(np.isnan(error), np.inf, error)  # 0 times one without a bound

    def __repr__(self):
        return f"Bounded({self.value}, {self.error})"

    def _of(self, other):
        """The other operand; a number is rounded to the arithmetic's precision."""
        return other if isinstance(other, Bounded) else Bounded(other, self.unit * np.abs(other), self.unit)

    def _made(self, value, error):
        unit = max(self.unit, 2.0**-52)  # float64's: of the reference's own arithmetic too
        return Bounded(value, error + unit * (np.abs(value) + error) + 2.0**-149, self.unit)

    def __neg__(self):
        return Bounded(-self.value, self.error, self.unit)

    def __add__(self, other):
        other = self._of(other)
        return self._made(self.value + other.value, self.error + other.error)

    def __sub__(self, other):
        return self + -self._of(other)

    def __mul__(self, other):
        other = self._of(other)
        with np.errstate(invalid="ignore"):
            crossed = np.abs(self.value) * other.error + self.error * np.abs(other.value)
            return self._made(self.value * other.value, crossed + self.error * other.error)

    def __truediv__(self, other):
        other = self._of(other)
        with np.errstate(divide="ignore", invalid="ignore"):
            value, least = self.value / other.value, np.abs(other.value) - other.error
            error = np.where(least > 0, (self.error + np.abs(value) * other.error) / least, np.inf)
        return self._made(value, error)

    __radd__, __rmul__ = __add__, __mul__

    def __rtruediv__(self, other):
        return self._of(other) / self

    def sqrt(self):
        low, high = np.sqrt(np.maximum(self.value - self.error, 0)), np.sqrt(self.value + self.error)
        root = np.sqrt(self.value)
        return self._made(root, np.maximum(high - root, root - low))

    def abs(self):
        return Bounded(np.abs(self.value), self.error, self.unit)

    def sign(self):
        """Of what may have either sign, it may be off by 2."""
        return Bounded(np.sign(self.value), 2.0 * (np.abs(self.value) <= self.error), self.unit)

    def maximum(self, other):
        other = self._of(other)
        return Bounded(np.maximum(self.value, other.value), np.maximum(self.error, other.error), self.unit)

    def clipped(self, limit):
        limit = self._of(limit)
        value = np.clip(self.value, -limit.value, limit.value)
        return Bounded(value, np.maximum(self.error, limit.error), self.unit)

    def norm(self):
        return norm_of([self])

    def minimum(self, limit):
        return Bounded(np.minimum(self.value, limit), self.error, self.unit)


def norm_of(parts):
    """The norm of all elements of several numbers together: in the tree, no path has a hundred roundings."""
    value = np.sqrt(sum((p.value**2).sum() for p in parts))
    error = np.sqrt(sum((p.error**2).sum() for p in parts))
    unit = max(p.unit for p in parts)
    return Bounded(value, error + 100 * max(unit, 2.0**-52) * (value + error) + 1e-22, unit)


def stored(x, kind, at_random=False):
    """What the array x may be once it is held as this kind: a dtype, or one of CODES."""
    twice = 2 if at_random else 1
    if kind in UNITS:
        unit, least = UNITS[kind]
        if unit <= x.unit:
            return x
        return Bounded(x.value, x.error + twice * (unit * (np.abs(x.value) + x.error) + least), x.unit)
    top = (np.abs(x.value) + x.error).reshape(-1)
    tops = [top[k : k + BLOCK].max() for k in range(0, len(top), BLOCK)]
    step = (np.repeat(tops, BLOCK)[: len(top)] / CODES[kind] + 2.0**-126).reshape(x.value.shape)
    steps = 1 if at_random or kind != "signed8" else 0.5  # what divides is not rounded to 0
    share = twice / 32 * (np.abs(x.value) + x.error)
    return Bounded(x.value, x.error + np.maximum(share, steps * step), x.unit)


def exactly(array, unit):
    """An array as it is."""
    return Bounded(array, 0.0, unit)


def outside(actual, expected):
    """Which elements of an array are not within the bound."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(np.asarray(actual, np.float64) - expected.value) <= expected.error)


def unit_of(dtype):
    """Of the arithmetic for parameters of this dtype."""
    return UNITS["float64" if dtype_of(dtype) == np.float64 else "float32"][0]
