"""Data sets: loading and checking them, splitting them into training and test, standardising features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.checks import count
from .cells import integer, number
from .formats import LARGEST, DataError
from .loading import blocks, read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..typing import Path

_MAX_CLASSES = 20  # of integers: more of them are an age, a count
_SPLIT = 1 << 63  # so that no epoch number seeds the same shuffle


@dataclass(frozen=True, eq=False)
class Dataset:
    """Features X (n, d), any real dtype, maybe memory-mapped; targets t (n,) or (n, k), numbers or text."""

    X: NDArray[Any]
    t: NDArray[Any]
    names: tuple[str, ...] | None = None
    source: str = "data"
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["classes", "values"]:
        """ "classes" for text and for integers with few distinct values (at most 20, and two samples of each
        on average), else "values"."""
        return self._kind[0]

    @property
    def reason(self) -> str:
        """Why it is that kind."""
        return self._kind[1]

    @cached_property
    def _kind(self) -> tuple[Literal["classes", "values"], str]:
        if self.t.dtype.kind == "U":
            too_large = all(map(integer, self.t.tolist()))
            return "classes", "integers of more than 64 bits, taken as text" if too_large else "text"
        if self.t.dtype.kind == "b":
            return "classes", "true and false"
        if self.t.ndim > 1:
            return "values", f"{self.t.shape[1]} columns"
        if not self._whole:
            return "values", "not all are integers"
        distinct = len(np.unique(self.t))
        if distinct == 2 or distinct <= min(_MAX_CLASSES, len(self.t) // 2):
            return "classes", f"{distinct} different integers"
        return "values", f"{distinct} different integers in {len(self.t)} samples"

    @cached_property
    def _whole(self) -> bool:
        """Whether all are integers that their dtype tells apart."""
        if self.t.dtype.kind != "f":
            return True
        exact = 2.0 ** (np.finfo(self.t.dtype).nmant + 1)
        return bool((self.t == np.rint(self.t)).all() and (np.abs(self.t) <= exact).all())

    def values(self) -> NDArray[np.float32]:
        """Targets of a regression, float32."""
        t = self.t
        if t.dtype.kind == "U":
            values = [number(text) if integer(text) else None for text in t.tolist()]  # which int64 does not hold
            if not all(value is not None and abs(value) <= LARGEST for value in values):
                raise DataError(f"DATA: the target of {self.source} is text, expected numbers")
            t = np.array(values)
        return t.astype(np.float32)

    def classes(self) -> tuple[NDArray[np.intp], list[Any]]:
        """(indices 0 .. K-1, the K labels in ascending order) of a classification."""
        if self.t.ndim > 1 or not self._whole:
            raise DataError(f"DATA: the target of {self.source} is no class label: expected integers or text")
        labels, indices = np.unique(self.t, return_inverse=True)
        if len(labels) > max(2, len(self.t) // 2):
            raise DataError(f"DATA: the target of {self.source} has {len(labels)} labels in {len(self.t)} samples")
        return indices, [int(label) if label.dtype.kind == "f" else label.item() for label in labels]

    def fingerprint(self) -> str:
        """A hash of all values and shapes, to know the data again."""
        from hashlib import blake2b

        digest = blake2b(digest_size=16)
        for array in (self.X, self.t):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            for _, block in blocks(array):
                digest.update(np.ascontiguousarray(block))
        return digest.hexdigest()


def digits() -> Dataset:
    """1797 handwritten digits, 8 x 8 pixels of 0 .. 16, ten classes.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (its test set), UCI Machine
    Learning Repository, 1998, doi 10.24432/C50P49.
    """
    with resources.files("gdgpu.datasets").joinpath("digits.npz").open("rb") as file, np.load(file) as archive:
        return Dataset(archive["X"], archive["t"], source="digits")


def load(path: Path | None = None, target: str | int | Path | None = None, header: bool | None = None) -> Dataset:
    """The Dataset in a .npz, .csv, .npy or IDX file (the digits if None), checked.

    target: name of an array (.npz), name or index of a column (.csv), or a file (.npy, IDX). header: whether a .csv
    has one, None to find out.
    Raises DataError (a ValueError) that names DATA or --target, the file and the place in it.
    """
    if path is None:
        if target is not None:
            raise DataError("--target: needs DATA; the digits have their own targets")
        if header is not None:
            raise DataError("--header: needs DATA; the digits have none")
        return digits()
    X, t, names, notes = read(path, target, header)
    return Dataset(X, t, names, str(path), notes)


@dataclass(frozen=True, eq=False)
class Split:
    """Training and test samples, and the mean and scale (float64, (d,)) that standardised their features."""

    X: NDArray[np.float32]
    t: NDArray[Any]
    X_test: NDArray[np.float32]
    t_test: NDArray[Any]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]


def split(
    X: NDArray[Any], t: NDArray[Any], test_fraction: float = 0.2, seed: int = 0, standardize: bool = True
) -> Split:
    """Shuffle the samples, hold out the test fraction, and standardise: x' = (x - mean) / scale in float32.

    X: (n, d), t: (n, ...); mean and scale are the training samples' mean and standard deviation, in float64;
    a constant column is divided by 1. The shuffle is PCG64 seeded by [seed, 2^63].
    Raises ValueError for a fraction outside [0, 1) or one that leaves no training samples, or a bad seed.
    """
    if not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction: expected a number in [0, 1), got {test_fraction}")
    test_rows = max(round(test_fraction * len(X)), 1 if test_fraction else 0)
    if test_rows >= len(X):
        raise ValueError(f"test_fraction: {test_fraction} of {len(X)} samples leaves none to train on")
    order = np.random.Generator(np.random.PCG64([count("seed", seed), _SPLIT])).permutation(len(X))
    test, train = np.sort(order[:test_rows]), np.sort(order[test_rows:])  # ascending: memory maps read forwards
    mean, scale = moments(X, train) if standardize else (np.zeros(X.shape[1]), np.ones(X.shape[1]))
    return Split(_take(X, train, mean, scale), t[train], _take(X, test, mean, scale), t[test], mean, scale)


def moments(X: NDArray[Any], rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (1 where a column is constant) of X[rows], float64, in two passes."""
    total, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    first, constant = X[rows[0]], np.ones(X.shape[1], bool)
    for _, block in _gather(X, rows):
        total += block.sum(0)
        constant &= (block == first).all(0)
    mean = np.where(constant, first, total / len(rows))
    for _, block in _gather(X, rows):
        squares += ((block - mean) ** 2).sum(0)
    deviation = np.sqrt(squares / len(rows))
    return mean, np.where(deviation == 0, 1.0, deviation)


def _take(X: NDArray[Any], rows: NDArray[Any], mean: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    out = np.empty((len(rows), X.shape[1]), np.float32)
    for start, block in _gather(X, rows):
        with np.errstate(over="ignore"):
            out[start : start + len(block)] = (block - mean) / scale
        if not np.isfinite(part := out[start : start + len(block)]).all():
            row, column = np.argwhere(~np.isfinite(part))[0].tolist()
            place = f"DATA: the feature in row {rows[start + row]}, column {column}"
            raise DataError(f"{place}, is infinite in float32 once it is standardised: it lies too far from the others")
    return out


def _gather(X: NDArray[Any], rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """X[rows] in float64, a block at a time: X may be larger than memory."""
    step = max(1, (1 << 20) // X.shape[1])
    for start in range(0, len(rows), step):
        yield start, X[rows[start : start + step]].astype(np.float64)
