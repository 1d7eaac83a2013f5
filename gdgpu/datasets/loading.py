"""From a file to checked features and targets: what `gdgpu train` takes."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .formats import DataError, read_array, read_npz, readable, suffix
from .tables import read_csv

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..typing import Path


def read(
    path: Path, target: Any = None, header: bool | None = None
) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...] | None, dict[str, str]]:
    """(X, t, names, notes) of `path`: .npz, .csv or .npy by its name, else IDX; csv and IDX may be gzipped.

    X: (n, d), real and finite, memory-mapped if .npy. t: (n,) or (n, k), finite or text. header: see read_csv. names:
    of the d features, or None. notes: {what: text} of what was decided about a csv.
    """
    path, names, notes = os.fspath(path), None, {}
    t_place = f"DATA: the target in {path}"
    ending = suffix(path)
    if header is not None and ending != ".csv":
        raise DataError(f"--header: expected a .csv with it, got {path}")
    if ending == ".csv":
        X, t, names, notes = readable(read_csv, path, target, header, argument="DATA")
    elif ending == ".npz":
        X, t = read_npz(path, target)
    else:
        X = read_array(path, "DATA")
        if target is None:
            raise DataError(f"--target: expected the file with the targets of {path} (.npy or IDX), got none")
        t, t_place = read_array(os.fspath(target), "--target"), f"--target: {target}"
        if ending != ".npy" and X.dtype == np.uint8:
            X = X / np.float32(255)  # pixels
    X, t = _features(X, f"DATA: X in {path}"), _targets(t, t_place)
    if len(X) != len(t):
        raise DataError(f"{t_place} has {len(t)} samples, X in {path} has {len(X)}")
    return X, t, names, notes


def blocks(array: NDArray[Any], size: int = 1 << 20) -> Iterator[tuple[int, NDArray[Any]]]:
    """Slices of about `size` elements of an array that memory may not hold: (first row, rows), ..."""
    rows = max(1, size // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def _features(X: NDArray[Any], place: str) -> NDArray[Any]:
    """X as (n, d), one row for each sample."""
    if X.ndim == 0 or X.dtype.kind not in "biuf":
        raise DataError(f"{place}: expected numbers of shape (samples, features), got {X.dtype} {X.shape}")
    if not X.size:
        raise DataError(f"{place} is empty: its shape is {X.shape}")
    X = X.reshape(len(X), -1)
    _check_finite(X, place)
    return X


def _targets(t: NDArray[Any], place: str) -> NDArray[Any]:
    """t as (n,), or (n, k) for k > 1."""
    t = _text(t, place) if t.dtype.kind in "SU" and t.dtype.itemsize else np.asarray(t)
    if t.ndim == 2 and t.shape[1] == 1:
        t = t[:, 0]
    if t.ndim not in (1, 2) or t.dtype.kind not in ("biufU" if t.ndim == 1 else "biuf") or not t.dtype.itemsize:
        raise DataError(f"{place}: expected numbers or text of shape (samples,), got {t.dtype} {t.shape}")
    if not t.size:
        raise DataError(f"{place} is empty: its shape is {t.shape}")
    if t.dtype.kind != "U":
        _check_finite(t, place)
    if (t == t[0]).all():
        raise DataError(f"{place} has only one class or value, {t[0]}")
    return t


def _text(t: NDArray[Any], place: str) -> NDArray[Any]:
    """Bytes and text as text that Python can hold."""
    try:
        t = np.char.decode(t, "utf-8") if t.dtype.kind == "S" else t.astype(t.dtype.newbyteorder("="))
    except UnicodeDecodeError:
        raise DataError(f"{place}: expected text, got bytes that are no UTF-8") from None
    if (t.reshape(-1).view(np.uint32) > sys.maxunicode).any():  # NumPy makes strings of it that crash later
        raise DataError(f"{place}: expected text, got characters beyond Unicode")
    return t


def _check_finite(array: NDArray[Any], place: str) -> None:
    for start, block in blocks(array):
        with np.errstate(all="ignore"):
            fits = np.isfinite(block.astype(np.float32))
        if not fits.all():
            row, *column = np.argwhere(~fits)[0].tolist()
            at = f"row {start + row}" + "".join(f", column {number}" for number in column)
            raise DataError(f"{place}: expected finite float32 numbers, got {block[row, *column]} at {at}")
