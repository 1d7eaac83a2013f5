"""Reading the files that `gdgpu train` takes: .npz, .npy, IDX; csv is in `tables`.

What is wrong with a file is a one-line DataError that begins with the argument to mend, DATA or --target.
"""

import csv
import gzip
import math
import os
import zipfile
import zlib

import numpy as np

LARGEST = float(np.finfo(np.float32).max)
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, csv.Error)


class DataError(ValueError):
    """A file that cannot be used; the message names the argument, the file and the place in it."""


def read(path, target=None):
    """(X, t, names) of `path`: .npz, .csv or .npy by its name, else IDX; csv and IDX may be gzipped.

    X: (n, d), real and finite, memory-mapped if .npy. t: (n,) or (n, k), finite or text. names: of the d
    features, or None.
    """
    from .tables import read_csv

    path, names = os.fspath(path), None
    t_place = f"DATA: the target in {path}"
    if (suffix := _suffix(path)) == ".csv":
        X, t, names = _readable(read_csv, path, target, argument="DATA")
    elif suffix == ".npz":
        X, t = _readable(_read_npz, path, target, argument="DATA")
    else:
        X = _read_array(path, "DATA")
        if target is None:
            raise DataError(f"--target: expected the file with the targets of {path} (.npy or IDX), got none")
        t, t_place = _read_array(os.fspath(target), "--target"), f"--target: {target}"
        if suffix != ".npy" and X.dtype == np.uint8:
            X = X / np.float32(255)  # pixels
    X, t = _features(X, f"DATA: X in {path}"), _targets(t, t_place)
    if len(X) != len(t):
        raise DataError(f"{t_place} has {len(t)} samples, X in {path} has {len(X)}")
    return X, t, names


def blocks(array, size=1 << 20):
    """Slices of about `size` elements of an array that memory may not hold: (first row, rows), ..."""
    rows = max(1, size // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


def open_plain(path, mode="rb", **how):
    """Open `path`, unpacking it if it is gzipped, whatever its name."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, mode, **how)


def _suffix(path):
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


def _readable(reader, path, *more, argument):
    """What `reader` returns; all the ways in which a file can be unreadable, as one line."""
    try:
        return reader(path, *more)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{argument}: {path} does not exist") from None
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{argument}: {path} cannot be read ({reason})") from None


def _read_array(path, argument):
    if _suffix(path) != ".npy":
        return _readable(_read_idx, path, argument, argument=argument)
    array = _readable(lambda path: np.load(path, mmap_mode="r", allow_pickle=False), path, argument=argument)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{argument}: expected a .npy file, {path} is an .npz archive")
    return array


def _read_npz(path, target):
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise DataError(f"DATA: expected an .npz archive, {path} is a .npy file")
    with archive:
        held = archive.files
        name = target or ("t" if "t" in held and "y" not in held else "y")
        if "X" not in held or name not in held:
            argument = "--target" if target and "X" in held else "DATA"
            has = " and ".join(held) or "nothing"
            raise DataError(f"{argument}: expected X and {target or 'y or t'} in {path}, which has {has}")
        return archive["X"], archive[name]


def _read_idx(path, argument):
    """IDX: two zero bytes, a type, the number of axes, their lengths in big-endian int32, the elements.

    Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database, "The IDX file format".
    """
    with open_plain(path) as file:
        magic = file.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] == 0:
            begins = f"begins with bytes {magic.hex(' ')}" if magic else "is empty"
            raise DataError(f"{argument}: expected a .npz, .csv, .npy or IDX file; {path} {begins}")
        dtype = np.dtype(_IDX_TYPES[magic[2]])
        lengths = file.read(4 * magic[3])
        shape = tuple(np.frombuffer(lengths[: len(lengths) // 4 * 4], ">u4").tolist())
        size = math.prod(shape) * dtype.itemsize
        data = file.read()
    if len(data) < size:
        raise DataError(f"{argument}: {path} is truncated: {len(data)} bytes of elements, shape {shape}")
    if len(data) > size:
        raise DataError(f"{argument}: {path} is longer than the {size} bytes of its shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape)


def _features(X, place):
    """X as (n, d), one row for each sample."""
    if X.ndim == 0 or X.dtype.kind not in "biuf":
        raise DataError(f"{place}: expected numbers of shape (samples, features), got {X.dtype} {X.shape}")
    if not X.size:
        raise DataError(f"{place} is empty: its shape is {X.shape}")
    X = X.reshape(len(X), -1)
    _check_finite(X, place)
    return X


def _targets(t, place):
    """t as (n,), or (n, k) for k > 1."""
    t = t.astype(str) if t.dtype.kind == "S" else np.asarray(t)
    if t.ndim == 2 and t.shape[1] == 1:
        t = t[:, 0]
    if t.ndim not in (1, 2) or t.dtype.kind not in ("biufU" if t.ndim == 1 else "biuf"):
        raise DataError(f"{place}: expected numbers or text of shape (samples,), got {t.dtype} {t.shape}")
    if not t.size:
        raise DataError(f"{place} is empty: its shape is {t.shape}")
    if t.dtype.kind != "U":
        _check_finite(t, place)
    if (t == t[0]).all():
        raise DataError(f"{place} has only one class or value, {t[0]}")
    return t


def _check_finite(array, place):
    for start, block in blocks(array):
        with np.errstate(over="ignore"):
            fits = np.isfinite(block.astype(np.float32))
        if not fits.all():
            row, *column = np.argwhere(~fits)[0].tolist()
            at = f"row {start + row}" + "".join(f", column {number}" for number in column)
            raise DataError(f"{place}: expected finite float32 numbers, got {block[row, *column]} at {at}")
