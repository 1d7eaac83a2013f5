"""Checkpoints: named arrays and text in one safetensors file, replaced atomically; optimizers as such."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any, NoReturn

from .core.checks import element
from .core.files import replacing
from .devices import on_host

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .optimizers.base import Optimizer
    from .typing import Array, Path


def save(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write the arrays and the text to `path`; it then holds the old checkpoint or the new one, never a part.

    tensors: dict of name -> NumPy or CuPy array, any shape. metadata: dict of str -> str.
    Raises TypeError for metadata that is not text, ValueError for what a safetensors file does not hold (some dtypes,
    the name __metadata__) and OSError if it cannot be written. The file at `path` is then as it was before.

    Format: https://huggingface.co/docs/safetensors (Format).
    """
    from safetensors import SafetensorError
    from safetensors import numpy as safetensors

    from .core.arrays import genuine

    metadata = dict(metadata or {})
    for text in (*metadata, *metadata.values()):
        _check_text("metadata", text)
    arrays = {}
    for name, tensor in tensors.items():
        _check_text("tensors", name)
        try:
            arrays[name] = on_host(genuine(tensor, name))
        except Exception as error:  # whatever libraries of arrays say of what is none
            raise ValueError(f"tensors: {name!r}: expected an array, got {_kind(tensor)} ({_line(error)})") from None
    try:
        data = safetensors.save(arrays, metadata or None)
    except SafetensorError as error:
        raise ValueError(f"tensors: {_line(error)}") from None
    with replacing(path) as file:
        file.write(data)
        file.flush()
        _check_written(file.name, arrays, metadata)


def load(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The (tensors, metadata) that `save` wrote: dicts of NumPy arrays, which own their memory, and of text.

    Raises OSError if the file cannot be opened, ValueError if it is not a whole safetensors file.
    """
    with open(path, "rb"):  # safetensors would not name the file in "permission denied" or "is a directory"
        pass
    with _opened(path, f"path: {path} is not a whole safetensors file") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


@contextmanager
def _opened(path: Path, otherwise: str) -> Iterator[Any]:
    """The safetensors file, of which whatever cannot be read is a ValueError."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError, and what else a file of another version raises
        raise ValueError(f"{otherwise} ({_line(error)})") from None


def _check_written(path: Path, arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """ValueError unless the file has these names, shapes, dtypes and this text."""
    with _opened(path, "tensors: safetensors cannot read back a file of them") as file:
        said, kinds = file.metadata() or {}, {name: _found(file, name) for name in file.keys()}  # noqa: SIM118
    if said != metadata:
        raise ValueError("metadata: safetensors reads back another text")
    expected = {name: (array.shape, array.dtype.newbyteorder("=")) for name, array in arrays.items()}
    if differing := sorted(name for name in expected | kinds if expected.get(name) != kinds.get(name)):
        raise ValueError(f"tensors: safetensors reads back another {differing[0]!r}")


def _found(file: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, dtype) of one of its tensors; reads an element of it."""
    view = file.get_slice(name)
    shape = tuple(view.get_shape())
    first = view[(slice(0, 1),) * len(shape)] if shape and 0 not in shape else file.get_tensor(name)
    return shape, first.dtype


def _check_text(argument: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{argument}: expected str, got {_kind(text)} {reprlib.repr(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument}: {reprlib.repr(text)} has surrogates, which are no text") from None


def _kind(value: object) -> str:
    return type(value).__name__


def _line(error: object) -> str:
    return " ".join(str(error).split())


def save_optimizer(path: Path, optimizer: Optimizer, metadata: Mapping[str, str] | None = None) -> None:
    """Write all that continues a run: the parameters, the optimizer's state, steps, lr and hyperparameters.

    metadata: dict of str -> str, kept beside them. Errors as of `save`; ValueError for metadata under a key of the
    optimizer's own, and for params of which two would have one name.
    """
    tensors, text = packed(optimizer)
    metadata = dict(metadata or {})
    if taken := sorted(text.keys() & metadata.keys()):
        raise ValueError(f"metadata: {taken[0]!r} is the optimizer's own")
    save(path, tensors, metadata | text)


def load_optimizer(path: Path, optimizer: Optimizer) -> dict[str, str]:
    """Bring the optimizer and its parameters to where `save_optimizer` found them; returns the metadata.

    The steps that follow have the bits of those that followed there; a function assigned to lr stays. Raises OSError if
    the file cannot be opened, ValueError naming what differs, before anything is touched.
    """
    tensors, metadata = load(path)
    unpack(optimizer, tensors, metadata)
    return metadata


def packed(optimizer: Optimizer) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """(tensors, metadata) that hold an optimizer and its parameters; see `unpack`.

    Tensors are named by their place: params/weight, state/exp_avg/weight; of the first of several groups
    params/0/weight, state/0/exp_avg/weight.
    """
    from .core.turns import turn
    from .optimizers.state_dict import params_on_host, state_of

    with turn(optimizer):  # all of one moment
        engine = optimizer._engine
        saved, params = state_of(engine), [array.copy() for array in params_on_host(engine)]
    tree = {"params": engine.tree.like(params), "state": saved.pop("state")}
    text = {key: json.dumps(value, default=_plain) for key, value in saved.items() if key != "optimizer"}
    tensors = {}
    for name, tensor in _leaves(tree):
        if name in tensors:
            raise ValueError(f"params: two of them would be {name!r} in the file")
        tensors[name] = tensor
    return tensors, {"optimizer": saved["optimizer"]} | text


def unpack(optimizer: Optimizer, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Continue from what `packed` returned. Raises ValueError naming what differs, before anything is touched."""
    from .core.arrays import on_device_of
    from .core.turns import turn
    from .optimizers.state_dict import restore

    engine, name = optimizer._engine, metadata.get("optimizer")
    views, each = engine.views, engine.tree.each
    if name != optimizer.name:
        raise ValueError(
            f"optimizer: expected a checkpoint of {optimizer.name}, got one of {reprlib.repr(name) if name else 'none'}"
        )
    places = {
        "params": each(part.params for part in engine.parts),
        "state": each(dict.fromkeys(part.rule.states, part.params) for part in engine.parts),
    }
    keys = ("steps", "hyper", *(key for key in ("carried", "seed") if key in metadata))
    try:
        saved = {key: _read(key, metadata[key]) for key in keys}
        found = _filled(places, tensors)
    except KeyError as missing:
        raise ValueError(f"optimizer: the checkpoint has no {missing.args[0]}") from None
    params = [array for _, array in _leaves(found["params"])]
    for v, array in zip(views, params, strict=True):
        if (array.dtype.name, array.shape) != (v.dtype, v.shape):
            raise ValueError(f"{v.name}: expected {v.dtype} {v.shape}, got {array.dtype.name} {array.shape}")
    with turn(optimizer), on_device_of(views):
        try:
            restore(engine, {"optimizer": name, "state": found["state"]} | saved)
        except (TypeError, OverflowError) as error:
            reason = f"the checkpoint has other text than this optimizer's ({_line(error)})"
            raise ValueError(f"optimizer: {reason}") from None
        for v, array in zip(views, params, strict=True):
            bits = f"u{v.itemsize}"  # not every library of arrays has bfloat16
            v.owner.view(bits)[...] = engine.xp.asarray(array.view(bits))


def _read(key: str, text: str) -> Any:
    """What the JSON text says; ValueError for what is none, or says NaN, or is nested without end."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (TypeError, ValueError, RecursionError) as error:
        said = f"{_kind(error)}: {_line(error)}"
        raise ValueError(f"optimizer: the checkpoint has text that is not JSON under {key!r} ({said})") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _plain(number: Any) -> int | float:
    """NumPy's numbers, which json does not know."""
    number = element(number)
    return int(number) if isinstance(number, Integral) else float(number)


def _leaves(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """(place, leaf) of every leaf of nested dicts and lists."""
    if not isinstance(tree, dict | list | tuple):
        yield at, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{at}/{key}" if at else str(key))


def _filled(tree: Any, found: Mapping[str, Any], at: str = "") -> Any:
    """The tree with what was found at the place of each of its leaves; KeyError names one where nothing was."""
    if isinstance(tree, dict):
        return {key: _filled(value, found, f"{at}/{key}" if at else str(key)) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_filled(value, found, f"{at}/{key}") for key, value in enumerate(tree)]
    return found[at]
