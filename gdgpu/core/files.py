"""Output files: written whole or not at all, and checked before the work that fills them."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ..typing import Path


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path`, at once, when the block ends without an error.

    The bytes go to a temporary file in the same directory (`.gdgpu-*.tmp`), which is flushed to the disk (`flush`) and
    renamed over `path`: whatever happens, `path` is the old file or the new one. An error removes the
    temporary file; only a killed process can leave one behind, and it may be deleted. The new file has the mode of the
    old one, and its owner and group where this process may give files away; without an old one, what the umask says.

    Raises ValueError if `path` exists and is no plain file, OSError if writing fails.
    """
    path = os.path.realpath(path)  # replace what a link points to, not the link
    _check_plain(path, "path")
    temporary, old = _temporary(path), _status(path)
    mode = old.st_mode & 0o777 if old else 0o666
    try:
        # With the old mode from the start: nobody reads in between what the old one kept from them.
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            if old:
                _give(temporary, old, mode)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):  # "no space left" names no file, others name the temporary one
            raise OSError(error.errno, error.strerror or str(error), path) from None
        raise
    if flush:
        _sync_directory(os.path.dirname(path))


def check_writable(path: Path, argument: str) -> None:
    """Raise a ValueError that names `argument` if `replacing` could not write `path`; changes nothing."""
    real = os.path.realpath(path)
    _check_plain(real, argument)
    probe = _temporary(real)
    try:
        if os.path.exists(real) and not os.access(real, os.W_OK):
            raise PermissionError(None, "the file is read-only")
        with open(probe, "xb"):  # os.access says nothing of read-only file systems
            pass
        os.unlink(probe)
    except OSError as error:
        raise ValueError(f"{argument}: {path} cannot be written ({error.strerror})") from None


def write_json(path: Path, value: Any, flush: bool = True) -> None:
    """Write `value` as JSON, numbers that are not finite as null (JSON has no NaN); atomically, as `replacing` does."""
    with replacing(path, flush) as file:
        file.write((to_json(value, indent=2) + "\n").encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text of `value`, numbers that are not finite as null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _give(path: str, old: os.stat_result, mode: int) -> None:
    """Owner, group and mode of the old file, as far as this process may."""
    made = os.stat(path)
    if hasattr(os, "chown"):
        for owner, group in ((old.st_uid, -1), (-1, old.st_gid)):
            if (owner, group) not in ((made.st_uid, -1), (-1, made.st_gid)):
                with suppress(OSError):
                    os.chown(path, owner, group)
    os.chmod(path, mode)


def _check_plain(path: str, argument: str) -> None:
    # A device such as /dev/null must not be renamed over.
    if os.path.exists(path) and not os.path.isfile(path):
        what = "directory" if os.path.isdir(path) else "device"
        raise ValueError(f"{argument}: expected a file, got the {what} {path}")


def _temporary(path: str) -> str:
    return os.path.join(os.path.dirname(path), f".gdgpu-{secrets.token_hex(8)}.tmp")


def _sync_directory(directory: str) -> None:
    """Make the new name itself survive a power cut."""
    if os.name == "nt":  # a directory cannot be opened there
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
