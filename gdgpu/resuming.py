"""The checkpoint of a run: all that continues it to the bits of the run that was not interrupted."""

import json
import os

from . import checkpoint
from .files import to_json

_FORMAT = "gdgpu train 1"


def store(session, path):
    """Write the parameters, the optimizer's state, mean and scale; steps, settings and history as text."""
    metadata = {
        "format": _FORMAT,
        "epoch": str(len(session.epochs)),
        "steps": str(session.optimizer.steps),
        "settings": to_json(_settings(session)),
        "history": to_json(session.epochs),
        "labels": to_json(session.labels),
    }
    checkpoint.save(path, _tensors(session), metadata)


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
        epochs, steps = json.loads(metadata["history"]), int(metadata["steps"])
        _restore_tensors(session, tensors, steps)
    except (ValueError, KeyError) as error:
        reason = str(error).removeprefix("path: ") if isinstance(error, ValueError) else f"{path} has no {error}"
        raise ValueError(f"checkpoint: {reason}") from None
    session.epochs = epochs
    if len(epochs) >= session.options.epochs:
        return f"{path} has all {len(epochs)} epochs already"
    return f"{path} continues after epoch {len(epochs)}"


def _settings(session):
    return session.settings | {"data": session.fingerprint}


def _tensors(session):
    state = session.optimizer.state_dict()["state"]
    groups = {"params": session.model.params, **{f"state/{name}": arrays for name, arrays in state.items()}}
    tensors = {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
    return tensors | {"mean": session.split.mean, "scale": session.split.scale}


def _restore_tensors(session, tensors, steps):
    for name, array in _tensors(session).items():
        if (tensors[name].shape, tensors[name].dtype) != (array.shape, array.dtype):
            raise ValueError(
                f"{name} is {tensors[name].dtype} {tensors[name].shape}, expected {array.dtype} {array.shape}"
            )
    params, optimizer = session.model.params, session.optimizer
    fresh = optimizer.state_dict()
    state = {
        state: {name: tensors[f"state/{state}/{name}"] for name in arrays} for state, arrays in fresh["state"].items()
    }
    optimizer.load_state_dict({**fresh, "steps": steps, "state": state})
    for name, array in params.items():
        array[...] = session.model.device.xp.asarray(tensors[f"params/{name}"])
