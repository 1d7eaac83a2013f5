"""The checkpoint of a run: all that continues it to the bits of the run that was not interrupted."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checkpoint
from ..core.files import to_json

if TYPE_CHECKING:
    from ..optimizers.base import Optimizer

_FORMAT = "gdgpu train 2"
_RECORD = {"epoch", "loss", "test_loss", "test_metric", "seconds"}


def store(session: Any, path: str) -> None:
    """Write the optimizer and its parameters, mean and scale; settings and history as text."""
    tensors, text = checkpoint.packed(session.optimizer)
    metadata = {
        "format": _FORMAT,
        "epoch": str(len(session.epochs)),
        "settings": to_json(_settings(session)),
        "history": to_json(session.epochs),
        "labels": to_json(session.labels),
    }
    checkpoint.save(path, tensors | {"mean": session.split.mean, "scale": session.split.scale}, metadata | text)


def check_replaceable(path: str | None, epochs: int) -> str | None:
    """Refuse to begin a run of so many epochs where a longer one is kept, or another file; says what will be replaced.

    None if nothing will be: there is no file, or an empty one. Raises ValueError.
    """
    if path is None or not os.path.exists(path) or not os.path.getsize(path):
        return None
    try:
        metadata = _load(path)[1]
        if not metadata.get("format", "").startswith("gdgpu train "):
            raise ValueError(f"{path} is no checkpoint of gdgpu train")
        saved = _epoch(metadata, path)
    except ValueError as error:
        raise ValueError(f"checkpoint: {error}; name another file") from None
    if saved > epochs:
        raise ValueError(f"checkpoint: {path} holds {saved} epochs, more than {epochs}; say --resume, or another file")
    return f"{path} of {saved} epoch{'s' * (saved != 1)} will be replaced; --resume would continue it"


def restore(session: Any, path: str) -> str:
    """Bring a new session to where the checkpoint at `path` was, if there is one; says what it found.

    Raises ValueError for a file that is no checkpoint of this run, naming what differs.
    """
    if not os.path.exists(path):
        return f"{path} does not exist yet: starting from the beginning"
    try:
        tensors, metadata = _load(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} was not written by this version of gdgpu train")
        _compare(session, path, tensors, metadata)
        epochs = _history(metadata, path)
        _check_steps(session, path, metadata, len(epochs))
        _unpack(session.optimizer, path, tensors, metadata)
    except ValueError as error:
        raise ValueError(f"checkpoint: {error}") from None
    session.epochs = epochs
    if len(epochs) >= session.options.epochs:
        return f"{path} has all {len(epochs)} epochs already"
    return f"{path} continues after epoch {len(epochs)}"


def _load(path: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        return checkpoint.load(path)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("path: ")) from None


def _compare(session: Any, path: str, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Raise a ValueError that names what differs from the run that the checkpoint is of."""
    saved, now = _parsed(metadata, "settings", path), json.loads(to_json(_settings(session)))
    if not isinstance(saved, dict):
        raise ValueError(f"{path} has settings that are no settings: {_shown(saved)}")
    saved |= {"labels": _parsed(metadata, "labels", path)}
    now |= {"labels": json.loads(to_json(session.labels))}
    names = [name for name in now | saved if _shown(saved.get(name)) != _shown(now.get(name))]
    if names:
        differing = ", ".join(f"{name} {_plain(saved.get(name))} (now {_plain(now.get(name))})" for name in names)
        raise ValueError(f"{path} is of another run: {differing}")
    for name in ("mean", "scale"):
        array, computed = tensors.get(name), getattr(session.split, name)
        same = array is not None and (array.dtype, array.shape) == (computed.dtype, computed.shape)
        if not same or not np.allclose(array, computed, rtol=1e-6, atol=1e-6 * session.split.scale):
            raise ValueError(f"{path} has another {name} of the features than this run")


def _history(metadata: dict[str, str], path: str) -> list[dict[str, Any]]:
    """The records of the epochs."""
    epochs = _parsed(metadata, "history", path)
    if not isinstance(epochs, list) or not epochs or not all(map(_is_record, epochs, range(len(epochs)))):
        raise ValueError(f"{path} has a history that is none: expected a record of numbers for every epoch")
    if (epoch := _epoch(metadata, path)) != len(epochs):
        raise ValueError(f"{path} is of epoch {epoch}, its history of {len(epochs)}")
    return epochs


def _is_record(record: Any, epoch: int) -> bool:
    if not isinstance(record, dict) or record.keys() != _RECORD or type(record["epoch"]) is not int:
        return False
    if not all(map(_is_finite, (record["loss"], record["seconds"]))):
        return False
    tested = record["test_loss"], record["test_metric"]
    return record["epoch"] == epoch and record["seconds"] >= 0 and all(v is None or _is_finite(v) for v in tested)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _check_steps(session: Any, path: str, metadata: dict[str, str], epochs: int) -> None:
    """Raise a ValueError if the optimizer has not made the steps of these epochs."""
    samples, size = len(session.split.X), session.options.batch_size
    each = 1 if size == "full" else -(-samples // size)
    steps = _parsed(metadata, "steps", path)
    if steps != epochs * each:
        raise ValueError(f"{path} has {_shown(steps)} steps, not the {epochs * each} of its epochs")


def _unpack(optimizer: Optimizer, path: str, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    for name, array in tensors.items():
        if name.startswith("params/") and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path} has {name} that is not finite")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"{path} has NaN in {name}")
    try:
        checkpoint.unpack(optimizer, tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path} does not fit: {error}") from None


def _epoch(metadata: dict[str, str], path: str) -> int:
    epoch = _parsed(metadata, "epoch", path)
    if type(epoch) is not int or epoch < 1:
        raise ValueError(f"{path} has epoch {_shown(epoch)}, expected an int >= 1")
    return epoch


def _parsed(metadata: dict[str, str], name: str, path: str) -> Any:
    """JSON of the metadata."""
    try:
        value = json.loads(metadata[name])
        json.dumps(value)  # which is nested as deeply
        return value
    except KeyError:
        raise ValueError(f"{path} has no {name}") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} has {name} that is not JSON ({reason})") from None


def _shown(value: object) -> str:
    """Text that tells 1 from 1.0 and True."""
    return json.dumps(value, sort_keys=True)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else _shown(value)


def _settings(session: Any) -> dict[str, Any]:
    return session.settings | {"data": session.fingerprint}
