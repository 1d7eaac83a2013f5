"""Reading files of arrays: .npz, .npy, IDX; csv is in `tables`.

What is wrong with a file is a one-line DataError that begins with the argument to mend, DATA or --target.
"""

from __future__ import annotations

import csv
import gzip
import math
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..typing import Path

T = TypeVar("T")

LARGEST = float(np.finfo(np.float32).max)
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, csv.Error)
_LONGEST_HEADER = 1 << 16  # bytes of a .npy header; NumPy refuses those above 10,000 after it has read them


class DataError(ValueError):
    """A file that cannot be used; the message names the argument, the file and the place in it."""


@contextmanager
def open_plain(path: Path) -> Iterator[Any]:
    """`path` as a binary file, unpacked if it is gzipped, whatever its name. Opened once: it may be a pipe."""
    with open(path, "rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file


def suffix(path: str) -> str:
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


def readable(reader: Callable[..., T], path: str, *more: Any, argument: str, errors: Any = _UNREADABLE) -> T:
    """What `reader` returns; all the ways in which a file can be unreadable, as one line and no warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(path, *more)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{argument}: {path} does not exist") from None
    except errors as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{argument}: {path} cannot be read ({reason})") from None


def read_array(path: str, argument: str) -> NDArray[Any]:
    """The array in a .npy file, memory-mapped, or in an IDX file."""
    if suffix(path) != ".npy":
        return readable(_read_idx, path, argument, argument=argument)
    # Exception: headers are Python text, and NumPy lets out what the parser, the tokenizer and the allocator raise
    return readable(_read_npy, path, argument, argument=argument, errors=Exception)


def read_npz(path: str, target: str | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """(X, t) of an archive."""
    return readable(_read_npz, path, target, argument="DATA", errors=Exception)


def _read_npy(path: str, argument: str) -> NDArray[Any]:
    with open(path, "rb") as file:
        if file.peek(2)[:2] == b"PK":
            raise DataError(f"{argument}: expected a .npy file, {path} is an .npz archive")
        _check_header(file)
    array = np.lib.format.open_memmap(path, mode="r")
    if os.path.getsize(path) > array.offset + array.nbytes:
        raise ValueError(f"longer than the {array.nbytes} bytes of its shape {array.shape}")
    return array


def _read_npz(path: str, target: str | None) -> tuple[NDArray[Any], NDArray[Any]]:
    with open(path, "rb") as file:
        if file.peek(6)[:6] == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"DATA: expected an .npz archive, {path} is a .npy file")
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        name = target or ("t" if "t" in names and "y" not in names else "y")
        argument = "--target" if target and "X" in names else "DATA"
        if "X" not in names or name not in names:
            has = " and ".join(names) or "nothing"
            raise DataError(f"{argument}: expected X and {target or 'y or t'} in {path}, which has {has}")
        if max(names.count("X"), names.count(name)) > 1:
            raise DataError(f"{argument}: expected one X and one {name} in {path}, which has {' and '.join(names)}")
        members = dict(zip(names, archive.namelist(), strict=True))
        return tuple(_read_member(archive, members[wanted]) for wanted in ("X", name))


def _read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        _check_header(file)
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # the end, where the checksum is looked at
            raise ValueError(f"{name} is longer than the {array.nbytes} bytes of its shape {array.shape}")
    return array


def _check_header(file: Any) -> None:
    """Raise a ValueError for what does not begin as a .npy file or declares a long header."""
    version = np.lib.format.read_magic(file)
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")


def _read_idx(path: str, argument: str) -> NDArray[Any]:
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
        if isinstance(file, gzip.GzipFile) and size > _memory():  # others hold no more than their length
            raise DataError(f"{argument}: {path} is larger than memory: shape {shape}")
        data = _read(file, size + 1)
    if len(lengths) < 4 * magic[3] or len(data) < size:
        raise DataError(f"{argument}: {path} is truncated: {len(data)} bytes of elements, shape {shape}")
    if len(data) > size:
        raise DataError(f"{argument}: {path} is longer than the {size} bytes of its shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape)


def _memory() -> int:
    """Bytes of this machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not POSIX
        return sys.maxsize


def _read(file: Any, size: int) -> bytearray:
    """At most `size` bytes; no more memory than there are."""
    data = bytearray()
    while len(data) < size and (piece := file.read(min(size - len(data), 1 << 20))):
        data += piece
    return data
