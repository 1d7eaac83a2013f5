"""Checks of scalar arguments. Each returns the value, or raises naming the argument."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

T = TypeVar("T")

MAX_STEPS = (1 << 63) - 1  # they may be counted in an int64


def element(value: Any) -> Any:
    """The element of an array of one, of whatever library, or of a NumPy scalar; anything else as it is."""
    try:
        return value.item()
    except Exception:  # it has no such method, or more elements, or lies nowhere
        return value


def number(name: str, value: Any, low: float = 0.0, high: float = math.inf, high_is_open: bool = False) -> float:
    """A finite float between low and high. Arrays of one element are taken by value."""
    given = element(value)
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    inside = low <= value < high if high_is_open else low <= value <= high
    if not (math.isfinite(value) and inside):
        least = "" if math.isinf(low) else f" >= {low:g}"
        below = "" if math.isinf(high) else f" and {'<' if high_is_open else '<='} {high:g}"
        raise ValueError(f"{name}: expected a finite number{least}{below}, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """A bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def one_of(name: str, value: T, choices: Iterable[T]) -> T:
    """One of a few strings."""
    if value not in choices:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def count(name: str, value: Any, least: int = 0, otherwise: str = "", limit: int | None = None) -> int:
    """An int from least to limit. Arrays of one are taken by value. otherwise: what else it takes, for the message."""
    expected, given = f"{name}: expected an int >= {least}{otherwise}, got ", element(value)
    if isinstance(given, bool) or not isinstance(given, Integral):
        shown = repr(value) if isinstance(value, str | bool | float | None) else type(value).__name__
        raise TypeError(expected + shown)
    if given < least:
        raise ValueError(expected + str(given))
    if limit is not None and given > limit:
        raise ValueError(f"{name}: expected an int <= {limit}, got a larger one")  # which may be too long to be shown
    return int(given)
