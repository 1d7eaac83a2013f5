"""The checkpoint of a run: all that continues it to the bits of the run that was not interrupted."""

import json
import os

from . import checkpoint
from .files import to_json

_FORMAT = "gdgpu train 2"


def store(session, path):
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


def restore(session, path):
    """Bring a new session to where the checkpoint at `path` was, if there is one; says what it found.

    Raises ValueError for a file that is no checkpoint of this run, naming what differs.
    """
    if not os.path.exists(path):
        return f"{path} does not exist yet: starting from the beginning"
    try:
        tensors, metadata = checkpoint.load(path)
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path} was not written by this version of gdgpu train")
        saved, now = json.loads(metadata["settings"]), json.loads(to_json(_settings(session)))
        names = [name for name in now | saved if saved.get(name) != now.get(name)]
        if names:
            differing = ", ".join(f"{name} {saved.get(name)} (now {now.get(name)})" for name in names)
            raise ValueError(f"{path} is of another run: {differing}")
        epochs = json.loads(metadata["history"])
        checkpoint.unpack(session.optimizer, tensors, metadata)
    except (ValueError, KeyError) as error:
        reason = str(error).removeprefix("path: ") if isinstance(error, ValueError) else f"{path} has no {error}"
        raise ValueError(f"checkpoint: {reason}") from None
    session.epochs = epochs
    if len(epochs) >= session.options.epochs:
        return f"{path} has all {len(epochs)} epochs already"
    return f"{path} continues after epoch {len(epochs)}"


def _settings(session):
    return session.settings | {"data": session.fingerprint}
