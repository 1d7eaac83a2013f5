"""Checkpoints: named arrays and text in one safetensors file, replaced atomically."""

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
