"""Checkpoints: named arrays and text in one safetensors file, replaced atomically; optimizers as such."""

import json

from .devices import on_host
from .files import replacing


def save(path, tensors, metadata=None):
    """Write the arrays and the text to `path`; it then holds the old checkpoint or the new one, never a part.

    tensors: dict of name -> NumPy or CuPy array, any shape. metadata: dict of str -> str.
    Raises TypeError for metadata that is not text, ValueError for a dtype that safetensors does not have,
    OSError if the file cannot be written. The file at `path` is then as it was before.

    Format: https://huggingface.co/docs/safetensors (Format).
    """
    from safetensors import SafetensorError
    from safetensors import numpy as safetensors

    metadata = metadata or {}
    for key, text in metadata.items():
        if not (isinstance(key, str) and isinstance(text, str)):
            raise TypeError(f"metadata: expected str -> str, got {key!r} -> {type(text).__name__}")
    tensors = {name: on_host(array) for name, array in tensors.items()}
    try:
        data = safetensors.save(tensors, metadata)
    except SafetensorError as error:
        raise ValueError(f"tensors: {error}") from None
    with replacing(path) as file:
        file.write(data)


def load(path):
    """The (tensors, metadata) that `save` wrote: dicts of NumPy arrays, which own their memory, and of text.

    Raises OSError if the file cannot be opened, ValueError if it is not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    with open(path, "rb"):  # safetensors would not name the file in "permission denied" or "is a directory"
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {path} is not a whole safetensors file ({error})") from None


def save_optimizer(path, optimizer, metadata=None):
    """Write all that continues a run: the parameters, the optimizer's state, steps, lr and hyperparameters.

    metadata: dict of str -> str, kept beside them. Errors as of `save`.
    """
    tensors, text = packed(optimizer)
    save(path, tensors, (metadata or {}) | text)


def load_optimizer(path, optimizer):
    """Bring the optimizer and its parameters to where `save_optimizer` found them; returns the metadata.

    The steps that follow have the bits of those that followed there; a function assigned to lr stays. Raises OSError if
    the file cannot be opened, ValueError naming what differs, before anything is touched.
    """
    tensors, metadata = load(path)
    unpack(optimizer, tensors, metadata)
    return metadata


def packed(optimizer):
    """(tensors, metadata) that hold an optimizer and its parameters; see `unpack`.

    Tensors are named by their place: params/weight, state/exp_avg/weight; of the first of several groups
    params/0/weight, state/0/exp_avg/weight.
    """
    from .state import params_on_host

    saved = optimizer.state_dict()
    tree = {"params": optimizer._tree.like(params_on_host(optimizer)), "state": saved.pop("state")}
    # float: for NumPy's numbers, which json does not know
    text = {key: json.dumps(value, default=float) for key, value in saved.items() if key != "optimizer"}
    return dict(_leaves(tree)), {"optimizer": saved["optimizer"]} | text


def unpack(optimizer, tensors, metadata):
    """Continue from what `packed` returned. Raises ValueError naming what differs, before anything is touched."""
    from .arrays import on_device_of

    name, views, each = metadata.get("optimizer"), optimizer._views, optimizer._tree.each
    if name != optimizer.name:
        raise ValueError(f"optimizer: expected a checkpoint of {optimizer.name}, got one of {name or 'none'}")
    places = {
        "params": each(group.params for group in optimizer.groups),
        "state": each(dict.fromkeys(group.rule.states, group.params) for group in optimizer.groups),
    }
    try:
        keys = ("steps", "hyper", *(key for key in ("carried",) if key in metadata))
        saved = {key: json.loads(metadata[key]) for key in keys}
        found = _filled(places, tensors)
    except KeyError as missing:
        raise ValueError(f"optimizer: the checkpoint has no {missing.args[0]}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"optimizer: the checkpoint has text that is not JSON ({error})") from None
    params = [array for _, array in _leaves(found["params"])]
    for v, array in zip(views, params, strict=True):
        if (array.dtype.name, array.shape) != (v.dtype, v.shape):
            raise ValueError(f"{v.name}: expected {v.dtype} {v.shape}, got {array.dtype.name} {array.shape}")
    optimizer.load_state_dict({"optimizer": name, "state": found["state"]} | saved)
    with on_device_of(views):
        for v, array in zip(views, params, strict=True):
            bits = f"u{v.itemsize}"  # not every library of arrays has bfloat16
            v.owner.view(bits)[...] = optimizer._xp.asarray(array.view(bits))


def _leaves(tree, at=""):
    """(place, leaf) of every leaf of nested dicts and lists."""
    if not isinstance(tree, dict | list | tuple):
        yield at, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{at}/{key}" if at else str(key))


def _filled(tree, found, at=""):
    """The tree with what was found at the place of each of its leaves; KeyError names one where nothing was."""
    if isinstance(tree, dict):
        return {key: _filled(value, found, f"{at}/{key}" if at else str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_filled(value, found, f"{at}/{key}") for key, value in enumerate(tree)]
    return found[at]
