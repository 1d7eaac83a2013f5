"""Reading csv tables: numbers in the feature columns, numbers or class names in the target column."""

import csv
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from .readers import LARGEST, DataError, open_plain

_ROWS_AT_ONCE = 4096


def read_csv(path, target=None):
    """(X, t, names) of a table separated by commas, gzipped or not, with a header or without.

    target: the name or the index of its column, the last one by default. X: float64; t: float64, or str if no
    cell of the column is a number. Raises DataError, which names line and column.
    """
    with open_plain(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        rows = ((reader.line_num, row) for row in reader if row not in ([], [""]))
        first = list(islice(rows, 2))
        if not first:
            raise DataError(f"DATA: {path} is empty")
        table = _Table(path, *_layout(path, [[cell.strip() for cell in row] for _, row in first], target))
        rows = chain(first[table.header :], rows)
        blocks, labels = [], []
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            labels += table.labels(block)
            blocks.append(table.features(block))
    if not labels:
        raise DataError(f"DATA: {path} has a header and no rows")
    names = table.names[: table.target] + table.names[table.target + 1 :]
    return np.concatenate(blocks), table.targets(labels), names if table.header else None


def _layout(path, first, target):
    """(names, index of the target column, whether there is a header), from the first two rows.

    A first row is a header if it has no number, or has the name asked for, or if its one text is in the
    target column and a number stands below it (features may be named 0, 1, 2, ...).
    """
    top, below = first[0], first[1] if len(first) > 1 else []
    width = len(top)
    if width < 2:
        raise DataError(f"DATA: expected features and a target separated by commas; {path} has one column")
    text = [_number(cell) is None for cell in top]
    header = all(text) or (target in top and text[top.index(target)])
    if header and target in top:
        return tuple(top), top.index(target), True
    try:
        column = -1 if target is None else int(target)
        column = range(width)[column]
    except (ValueError, IndexError):
        has = f"the columns {', '.join(top)}" if header else f"{width} columns and no header"
        raise DataError(f"--target: no column {target!r}; {path} has {has}") from None
    if not header and text[column] and sum(text) == 1 and len(below) == width:
        header = _number(below[column]) is not None
    return tuple(top) if header else tuple(range(width)), column, header


@dataclass(frozen=True)
class _Table:
    path: str
    names: tuple
    target: int
    header: bool

    def labels(self, block):
        """Take the target cells out of the rows: [(line, cell), ...]."""
        for line, row in block:
            if len(row) != len(self.names):
                raise DataError(f"DATA: {self.path}, line {line}: {len(row)} columns, not {len(self.names)}")
        return [(line, row.pop(self.target).strip()) for line, row in block]

    def features(self, block):
        """The float64 array of what is left of the rows."""
        try:
            values = np.array([row for _, row in block], np.float64)
        except ValueError:
            values = None
        if values is None or not (np.abs(values) <= LARGEST).all():
            names = self.names[: self.target] + self.names[self.target + 1 :]
            self._blame((line, *cell) for line, row in block for cell in zip(names, row, strict=True))
        return values

    def targets(self, labels):
        """The float64 array of the target cells, or their text if none is a number."""
        name, values = self.names[self.target], [_number(cell) for _, cell in labels]
        if all(value is None for value in values):
            for line, cell in labels:
                if not cell:
                    raise self._fault(line, name, "a label", cell)
            return np.array([cell for _, cell in labels])
        if not all(map(_fits, values)):
            self._blame((line, name, cell) for line, cell in labels)
        return np.array(values)

    def _blame(self, cells):
        """Raise the error for the first of (line, column, cell) that is no finite number."""
        for line, name, cell in cells:
            if not _fits(_number(cell)):
                raise self._fault(line, name, "a finite number", cell)

    def _fault(self, line, name, takes, cell):
        return DataError(f"DATA: {self.path}, line {line}, column {name!r}: expected {takes}, got {cell!r}")


def _fits(value):
    return value is not None and abs(value) <= LARGEST


def _number(cell):
    try:
        return float(cell)
    except ValueError:
        return None
