"""Checks of scalar arguments. Each returns the value, or raises naming the argument."""

import math
from numbers import Integral, Real

MOST_STEPS = (1 << 63) - 1  # they may be counted in an int64


def number(name, value, low=0.0, high=math.inf, high_is_open=False):
    """A finite float between low and high."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    inside = low <= value < high if high_is_open else low <= value <= high
    if not (math.isfinite(value) and inside):
        least = "" if math.isinf(low) else f" >= {low:g}"
        below = "" if math.isinf(high) else f" and {'<' if high_is_open else '<='} {high:g}"
        raise ValueError(f"{name}: expected a finite number{least}{below}, got {value!r}")
    return value


def flag(name, value):
    """A bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def one_of(name, value, choices):
    """One of a few strings."""
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def count(name, value, least=0, otherwise="", most=None):
    """An int from least to most. otherwise: what else the argument takes, for the message."""
    expected = f"{name}: expected an int >= {least}{otherwise}, got "
    if isinstance(value, bool) or not isinstance(value, Integral):
        shown = repr(value) if isinstance(value, str | bool | float | None) else type(value).__name__
        raise TypeError(expected + shown)
    if value < least:
        raise ValueError(expected + str(value))
    if most is not None and value > most:
        raise ValueError(f"{name}: expected an int <= {most}, got {value}")
    return int(value)
