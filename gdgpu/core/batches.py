"""What is checked of a batch: per-sample arrays, weights, the reduction, the norm to clip to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import prod
from numbers import Real
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.backend.memory import accumulator
from .arrays import contiguous, genuine, is_packed, view
from .checks import number
from .pytree import leaves

if TYPE_CHECKING:
    from ..typing import Array, Arrays
    from .arrays import View

REDUCTIONS = ("mean", "sum")


def samples(v: View, shape: tuple[int, ...] | None = None) -> tuple[int, int, int]:
    """(B, P, row stride) of G with shape (B, *shape): any row stride, the other axes C-contiguous."""
    if not v.shape:
        raise ValueError(f"{v.name}: expected an array with samples along its first axis, got a scalar")
    if shape is not None and v.shape[1:] != shape:
        raise ValueError(f"{v.name}: expected shape (B, {', '.join(map(str, shape))}), got {v.shape}")
    if v.size and not is_packed(v.shape[1:], v.strides[1:]):
        raise ValueError(f"{v.name}: every sample must be C-contiguous; copy it with ascontiguousarray")
    return v.shape[0], prod(v.shape[1:]), v.strides[0]


def sample_views(G: Arrays) -> tuple[list[View], int]:
    """(views of G, number of samples); ValueError unless all arrays have as many."""
    views = [view(array, name) for name, array in leaves(G, "G")]
    counts = {samples(v)[0] for v in views}
    if len(counts) > 1:
        raise ValueError(f"G: expected the same number of samples everywhere, got {sorted(counts)}")
    return views, counts.pop() if counts else 0


def batch_views(pairs: Iterable[tuple[str, Array]], views: Sequence[View]) -> tuple[list[View], int]:
    """(views of G, number of samples) of (name, array) pairs, checked against the views of params: shapes, dtypes."""
    G = [view(array, name) for name, array in pairs]
    counts = set()
    for g, v in zip(G, views, strict=True):
        counts.add(samples(g, v.shape)[0])
        same_sums(g, v)
    if len(counts) > 1:
        raise ValueError(f"G: expected the same number of samples everywhere, got {sorted(counts)}")
    return G, counts.pop() if counts else 0


def same_sums(g: View, v: View) -> None:
    """TypeError unless g is added up in the dtype that the parameter v is computed in."""
    if accumulator(g.dtype) != accumulator(v.dtype):
        raise TypeError(
            f"{g.name}: expected a dtype that is computed in {accumulator(v.dtype)} like params, got {g.dtype}"
        )


def scale_of(reduction: str | float, count: int) -> float:
    """What the root of the tree is multiplied by: reduction, if it is a number. An empty batch has a root of +0."""
    if not isinstance(reduction, str):
        return reduction
    return 1 / count if reduction == "mean" and count else 1.0


def cast_weights(weights: Array | None, count: int, G: Iterable[View], xp: ModuleType) -> dict[str, Array] | None:
    """weights on the device, contiguous: accumulator's dtype -> array, for each that G needs. None for None."""
    if weights is None:
        return None
    weights = genuine(weights, "weights")
    try:
        weights = xp.asarray(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"weights: expected an array of real numbers ({error})") from None
    if weights.dtype.kind not in "biuf":
        raise TypeError(f"weights: expected real numbers, got dtype {weights.dtype}")
    _one_each(weights, count)
    return {sums: xp.ascontiguousarray(weights, dtype=sums) for sums in {accumulator(g.dtype) for g in G}}


def bound_weights(weights: Array | None, count: int, G: Iterable[View]) -> dict[str, Array] | None:
    """The same for arrays that kernels will read as they are, later."""
    if weights is None:
        return None
    array = contiguous(view(weights, "weights"))
    _one_each(array, count)
    for g in G:
        if array.dtype != accumulator(g.dtype):
            raise TypeError(f"weights: expected dtype {accumulator(g.dtype)} to be bound, got {array.dtype}")
    return {array.dtype: array.owner}


def _one_each(weights: Array, count: int) -> None:
    if weights.shape != (count,):
        raise ValueError(f"weights: expected shape ({count},), one for each sample, got {weights.shape}")


def checked_norm(max_norm: float | None, sums: Collection[Any]) -> np.floating[Any] | None:
    """max_norm in the dtype of the sums, one of those; None where it clips nothing, as None and inf do."""
    if max_norm is None:
        return None
    if len(sums) > 1:
        raise ValueError("max_norm: expected params that are all computed in float32, or all in float64")
    if isinstance(max_norm, Real) and max_norm == np.inf:
        return None
    with np.errstate(over="ignore"):
        limit = np.dtype(*sums).type(number("max_norm", max_norm))
    return limit if np.isfinite(limit) else None
