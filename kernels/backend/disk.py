"""Compiled kernels on disk: read only if they are whole, and if nobody but this user or root can have written them."""

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

_DIGEST = hashlib.sha256
_SIZE = _DIGEST().digest_size  # of what stands at the end of every file
_OWNED = hasattr(os, "geteuid")  # Windows keeps a user's folders from others by other means
_refused = set()


def directory() -> Path | None:
    """Where generated kernels live: GDGPU_CACHE_DIR, else the user's cache directory; made if it is not there.

    None where there can be none, and where others may write: machine code and pickles from there are not run. A line on
    standard error says so, once.
    """
    try:
        path = _asked().expanduser().resolve()
        for place in (*reversed(path.parents), path):
            if not place.exists():
                place.mkdir(mode=0o700, exist_ok=True)
        reason = _OWNED and _why_refused(path)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    if reason and not _refused:
        _refused.add(path)
        what = f"gdgpu: {reason}, so compiled kernels are not kept in {path}, and every process compiles them"
        print(f"{what}; chmod go-w it, or set GDGPU_CACHE_DIR to a directory of your own", file=sys.stderr)
    return path if path.is_dir() and not reason else None


def read(path: Path) -> bytes | None:
    """What `write` put there; None if there is no such file, if it is not whole, or if others may have written it."""
    try:
        with open(path, "rb") as file:
            if _OWNED and _is_of_others(os.fstat(file.fileno())):
                return None
            whole = file.read()
    except OSError:
        return None
    data, digest = whole[:-_SIZE], whole[-_SIZE:]
    return data if digest == _digest(path, data) else None


def write(path: Path, data: bytes) -> None:
    """Keep these bytes. Where the disk is full or read-only they are not kept, and the next process compiles again."""
    with contextlib.suppress(OSError):
        replace(path, data + _digest(path, data))


def replace(path: Path, data: bytes) -> None:
    """Replace the file by these bytes, in one piece or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _digest(path, data):
    # The name says what the code was compiled from and for, so a file under another's name is not whole either.
    return _DIGEST(path.name.encode() + b"\0" + data).digest()


def _asked():
    if asked := os.environ.get("GDGPU_CACHE_DIR"):
        return Path(asked)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", "~")) / "gdgpu" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gdgpu"


def _why_refused(path):
    """Why others can put files there, or None: they own it or a parent, or may write to it, or rename in a parent."""
    for place in (path, *path.parents):
        found = place.stat()
        sticky = found.st_mode & stat.S_ISVTX and place != path  # only its owner renames what is in it
        if _is_of_others(found, ignoring_mode=sticky):
            mode = stat.S_IMODE(found.st_mode)
            return f"{place} belongs to user {found.st_uid} and has mode {mode:o}, which lets others write there"
    return None


def _is_of_others(found, ignoring_mode=False):
    is_shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not ignoring_mode
    return bool(is_shared) or found.st_uid not in (0, os.geteuid())
