"""What the text of a cell is: a number, an integer, or something else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from reprlib import Repr

_INTEGER = re.compile(r"([+-]?)0*([0-9]+)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)

_repr = Repr()
_repr.maxstring = 60
quoted = _repr.repr


def number(cell: str) -> float | None:
    """The float that a cell is, None if it is none: sign, digits, point, exponent, blanks around them.

    float() also takes 1_000, digits of other scripts, nan and infinity.
    """
    cell = cell.strip()
    return float(cell) if _NUMBER.fullmatch(cell) else None


def integer(cell: str) -> str | None:
    """The digits of an integer without leading zeros or a plus, None if the cell is none."""
    match = _INTEGER.fullmatch(cell.strip())
    return match and ("-" if match[1] == "-" and match[2] != "0" else "") + match[2]


def is_not_finite(cell: str) -> bool:
    """Whether a cell is a spelling of NaN or infinity."""
    return _NO_NUMBER.fullmatch(cell.strip()) is not None


def are_plain(cells: Iterable[str]) -> bool:
    """Whether what float() takes of these cells, and is finite, is what `number` takes; faster than to ask for each."""
    text = "".join(cells)
    return text.isascii() and "_" not in text
