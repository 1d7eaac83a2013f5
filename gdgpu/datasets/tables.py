"""Reading csv tables: numbers in the feature columns, numbers or class names in the target column."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from . import cells
from .formats import LARGEST, DataError, open_plain
from .headers import layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LONGEST = 1 << 22  # characters of a record
_CELLS_AT_ONCE = 1 << 18
_ROWS_AHEAD = 1000  # that a header is told apart by
_UNNAMED = re.compile(r"(Unnamed: 0(\.[0-9]+)*)?")  # as pandas writes its index, and as it reads what it wrote


def read_csv(
    path: str, target: str | int | None = None, header: bool | None = None
) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...] | None, dict[str, str]]:
    """(X, t, names, notes) of a table separated by commas, gzipped or not, with a header or without.

    target: the name or the index of its column, the last one by default. header: whether there is one, None to find
    out. X: float64; t: int64 if all its cells are integers, else float64, or str if no cell is a number (or an integer
    does not fit). notes: {what: text} of what was decided. Raises DataError, which names line and column.
    """
    with open_plain(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        rows = _records(text, path)
        first = list(islice(rows, 1))
        if not first:
            raise DataError(f"DATA: {path} is empty")
        at_once = max(1, _CELLS_AT_ONCE // len(first[0][1]))
        first += islice(rows, min(at_once, _ROWS_AHEAD))
        table = _Table(path, *layout(path, [[cell.strip() for cell in row] for _, row in first], target, header))
        rows = chain(first[table.header :], rows)
        blocks, labels = [], []
        while block := list(islice(rows, at_once)):
            labels += table.labels(block)
            blocks.append(table.features(block))
    if not labels:
        raise DataError(f"DATA: {path} has a header and no rows")
    return table.whole(np.concatenate(blocks), labels)


def _records(text: io.TextIOBase, path: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every record that is not blank."""
    room = _LONGEST

    def lines() -> Iterator[str]:
        nonlocal room
        while line := text.readline(room + 1):
            room -= len(line)
            if room < 0:
                place = f"DATA: {path}, line {reader.line_num + 1}"
                raise DataError(f"{place}: expected a row of at most {_LONGEST} characters")
            yield line

    reader = csv.reader(lines(), skipinitialspace=True, strict=True)
    for row in reader:
        room = _LONGEST
        if row not in ([], [""]):
            yield reader.line_num, row


@dataclass(frozen=True)
class _Table:
    path: str
    names: tuple[Any, ...]
    target: int
    header: bool

    def labels(self, block: list[tuple[int, list[str]]]) -> list[tuple[int, str]]:
        """Take the target cells out of the rows: [(line, cell), ...]."""
        for line, row in block:
            if len(row) != len(self.names):
                raise DataError(f"DATA: {self.path}, line {line}: {len(row)} columns, not {len(self.names)}")
        return [(line, row.pop(self.target).strip()) for line, row in block]

    @property
    def others(self) -> list[int]:
        """The columns of the features."""
        return [k for k in range(len(self.names)) if k != self.target]

    def features(self, block: list[tuple[int, list[str]]]) -> NDArray[np.float64]:
        """The float64 array of what is left of the rows."""
        values = None
        if all(cells.are_plain(row) for _, row in block):
            try:
                values = np.array([row for _, row in block], np.float64)
            except ValueError:
                values = None
        if values is None or not (np.abs(values) <= LARGEST).all():
            self._blame((line, *cell) for line, row in block for cell in zip(self.others, row, strict=True))
            values = np.array([[cells.number(cell) for cell in row] for _, row in block])
        return values

    def whole(
        self, X: NDArray[np.float64], labels: list[tuple[int, str]]
    ) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...] | None, dict[str, str]]:
        """What read_csv returns."""
        notes = {"header": "line 1" if self.header else "none: line 1 is a sample"}
        if self.header and any(cells.number(name) is not None for name in self.names):
            notes["header"] += f", {cells.quoted(','.join(self.names))}"
        left_out = 0
        while self.header and left_out < self.target and self._numbers_rows(left_out, X[:, left_out]):
            left_out += 1
        if left_out == len(self.others):
            raise DataError(f"DATA: {self.path} has no features beside the unnamed first column, which numbers rows")
        if left_out:
            first = "the unnamed first column" if left_out == 1 else f"the {left_out} unnamed first columns"
            notes["left out"] = f"{first}, which number{'s' * (left_out == 1)} rows"
        names = tuple(self.names[k] for k in self.others[left_out:]) if self.header else None
        return X[:, left_out:], self.targets(labels), names, notes

    def _numbers_rows(self, column: int, values: NDArray[np.float64]) -> bool:
        """Whether this is an index: an unnamed column of distinct integers."""
        if not _UNNAMED.fullmatch(self.names[column]):
            return False
        return bool((values == np.rint(values)).all()) and len(np.unique(values)) == len(values)

    def targets(self, labels: list[tuple[int, str]]) -> NDArray[Any]:
        """The target cells as an array: int64, float64, or text."""
        texts = [cell for _, cell in labels]
        integers = [cells.integer(cell) for cell in texts]
        if None not in integers:  # never as floats, which do not tell those beyond 2**53 apart
            fits = all(len(cell) < 20 and -(2**63) <= int(cell) < 2**63 for cell in integers)
            return np.array(list(map(int, integers)), np.int64) if fits else np.array(integers)
        values = [cells.number(cell) for cell in texts]
        if all(value is None for value in values) and not all(map(cells.is_not_finite, texts)):
            for line, cell in labels:
                if not cell:
                    raise self._fault(line, self.target, "a label", cell)
            return np.array(texts)
        if not all(map(_fits, values)):
            self._blame((line, self.target, cell) for line, cell in labels)
        return np.array(values)

    def _blame(self, found: Iterable[tuple[int, int, str]]) -> None:
        """Raise the error for the first of (line, column, cell) that is no finite number."""
        for line, column, cell in found:
            if not _fits(cells.number(cell)):
                raise self._fault(line, column, "a finite number", cell)

    def _fault(self, line: int, column: int, takes: str, cell: str) -> DataError:
        name = cells.quoted(self.names[column])
        if self.names.count(self.names[column]) > 1:
            name += f" (index {column})"
        return DataError(f"DATA: {self.path}, line {line}, column {name}: expected {takes}, got {cells.quoted(cell)}")


def _fits(value: float | None) -> bool:
    return value is not None and abs(value) <= LARGEST
