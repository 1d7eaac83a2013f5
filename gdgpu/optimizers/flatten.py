"""One buffer for many arrays, for those who write gradients or parameters straight into it."""

from typing import Any

import numpy as np

from ..core.arrays import contiguous, kernel_device, on_device_of, view
from ..core.nvtx import ranged
from ..core.pytree import Tree, leaves
from ..typing import Array, Params

ALIGNMENT = 16  # bytes: every view begins where a kernel's widest load does


@ranged
def flatten(params: Params) -> tuple[Array, Any]:
    """(flat, views): one contiguous array that holds copies of all, and views into it shaped like params.

    params: one array, a list, a dict or groups of these, C-contiguous, of one dtype and on one device. views has their
    structure; with groups, it is a list of one structure a group. Each view begins at a multiple of 16 bytes, zeros
    fill the gaps: flatten parameters and gradients alike, and an optimizer over the flat arrays updates all of them.
    Raises ValueError or TypeError naming the argument.
    """
    tree = Tree(params)
    given = [pair for part, name in tree.parts for pair in leaves(part, name)]
    sources = [contiguous(view(array, label)) for label, array in given]
    if not sources:
        raise ValueError("params: expected at least one array, got none")
    first = sources[0]
    for v in sources:
        if (v.dtype, v.torch) != (first.dtype, first.torch):
            raise ValueError(f"{v.name}: expected {first.dtype} and the same library as {first.name}, got {v.dtype}")
    _, xp = kernel_device(sources)
    step = ALIGNMENT // first.itemsize
    starts = np.cumsum([0, *(-(-v.size // step) * step for v in sources)])
    with on_device_of(sources):
        flat = _zeros(xp, int(starts[-1]), first)
        views = [flat[start : start + v.size].reshape(v.shape) for start, v in zip(starts[:-1], sources, strict=True)]
        for target, v, (_, array) in zip(views, sources, given, strict=True):
            target[...] = v.owner if v.torch is None else array
    return flat, tree.like(views)


def _zeros(xp, size, like):
    if like.torch is not None:
        where = f"cuda:{like.owner.device.id}" if like.device == "cuda" else "cpu"
        return like.torch.zeros(size, dtype=getattr(like.torch, like.dtype), device=where)
    if xp is not np:
        return xp.zeros(size, like.owner.dtype)
    raw = np.zeros(size * like.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * like.itemsize].view(like.owner.dtype)
