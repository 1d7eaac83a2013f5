"""Whether the first row of a table is a header, and which column is the target."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from .cells import integer, is_not_finite, number, quoted
from .formats import DataError

_INDEX = re.compile(r"-?[0-9]{1,9}")


def layout(
    path: str, rows: list[list[str]], target: str | int | None = None, header: bool | None = None
) -> tuple[tuple[Any, ...], int, bool]:
    """(names, index of the target column, whether there is a header) of the first rows of a table, stripped.

    names: of all columns, their indices if there is no header. target: a name or an index. header: None to find out;
    see `_find_header`. Raises DataError where it cannot be told, and for a target that is none or two.
    """
    top, below = rows[0], rows[1:]
    width, target = len(top), None if target is None else str(target)
    if width < 2:
        raise DataError(f"DATA: expected features and a target separated by commas; {path} has one column")
    texts = [number(cell) is None for cell in top]
    index = _index(target, width)
    if header is None:
        named = [k for k, cell in enumerate(top) if cell == target and texts[k]]
        header = bool(named) or all(texts)
        if not header:
            likely = [row for row in below if len(row) == width]  # another row is an error of its own, later
            header = _find_header(top, texts, likely, width - 1 if index is None else index)
        if header is None:
            line = quoted(",".join(top))
            raise DataError(f"--header: line 1 of {path}, {line}, is names or a sample: say --header or --no-header")
    named = [k for k, cell in enumerate(top) if cell == target] if header else []
    if len(named) > 1:
        raise DataError(f"--target: {len(named)} columns of {path} are named {quoted(target)}; give an index")
    if named and index not in (None, named[0]):
        both = f"the name of column {named[0]} and the index of column {index}"
        raise DataError(f"--target: {quoted(target)} is {both} of {path}")
    if target is not None and not named and index is None:
        has = f"the columns {', '.join(top)}" if header else f"{width} columns and no header"
        raise DataError(f"--target: no column {quoted(target)}; {path} has {has}")
    column = named[0] if named else width - 1 if index is None else index
    return tuple(top) if header else tuple(range(width)), column, header


def _index(target: str | None, width: int) -> int | None:
    """The column, counted from 0, that an index is; None if it is none."""
    if target is None or not _INDEX.fullmatch(target) or not -width <= int(target) < width:
        return None
    return int(target) % width


def _find_header(top: list[str], texts: list[bool], below: list[list[str]], target: int) -> bool | None:
    """Whether a first row with numbers is a header: True, False, or None if it may be both.

    Names are numbers where features are numbered, 0, 1, 2, ..., or are years. A label that comes again makes a sample;
    a name above numbers, a header.
    """
    labels = [row[target] for row in below]
    if texts[target] and top[target] in labels:
        return False
    integers = [integer(cell) for cell, is_text in zip(top, texts, strict=True) if not is_text]
    has_whole_names = None not in integers and len(set(integers)) == len(integers)
    for k, (cell, is_text) in enumerate(zip(top, texts, strict=True)):
        above_numbers = bool(below) and all(number(row[k]) is not None for row in below)
        if is_text and _is_name(cell) and above_numbers and (k == target or has_whole_names):
            return True
    columns = [k for k, is_text in enumerate(texts) if not is_text]
    if not _is_rising([top[k] for k in columns]):
        return False
    alike = [_is_rising([row[k] for k in columns]) for row in below]
    if integers == [str(k) for k in range(len(columns))]:
        whole = all(integer(row[k]) is not None for row in below for k in columns)
        return None if len(columns) == len(top) == 2 and whole else True  # so may a line through (0, 1) begin
    return False if 2 * sum(alike) >= max(1, len(alike)) else None


def _is_name(cell: str) -> bool:
    return any(character.isalpha() for character in cell) and not is_not_finite(cell)


def _is_rising(cells: list[str]) -> bool:
    """Whether cells are integers, each larger than the one before."""
    if any(integer(cell) is None for cell in cells):
        return False
    values = [number(cell) for cell in cells]
    return all(a < b for a, b in pairwise(values))
