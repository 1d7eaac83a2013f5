"""Reading files of arrays: .npz, .npy, IDX; csv is in `tables`.

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


def open_plain(path, mode="rb", **how):
    """Open `path`, unpacking it if it is gzipped, whatever its name."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, mode, **how)


def suffix(path):
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


def readable(reader, path, *more, argument):
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


def read_array(path, argument):
    if suffix(path) != ".npy":
        return readable(_read_idx, path, argument, argument=argument)
    array = readable(lambda path: np.load(path, mmap_mode="r", allow_pickle=False), path, argument=argument)
    if not isinstance(array, np.ndarray):
        raise DataError(f"{argument}: expected a .npy file, {path} is an .npz archive")
    return array


def read_npz(path, target):
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
