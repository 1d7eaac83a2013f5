"""Norms of single samples, and the weights that clip them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import kernel_device, on_device_of, view
from ..core.batches import checked_norm, sample_views, samples
from ..core.nvtx import ranged
from ..kernels.backend.buffers import address_of
from ..kernels.backend.memory import accumulator
from ..kernels.backend.threads import whole
from ..kernels.samples.sample_norms import SampleNorms

if TYPE_CHECKING:
    from ..core.arrays import View
    from ..typing import Array, Arrays


@ranged
def sample_norms(G: Arrays) -> Array:
    """The Euclidean norm of every sample's gradient, over all its tensors together: an array (B,).

    G: (B, *shape), any row stride, each sample C-contiguous; one array, a list or a dict of them, in whose order the
    tensors are added up. The result has the accumulator's dtype: float64 for float64, else float32, where squares may
    overflow to inf and vanish below 1e-45. The order of additions is fixed, so the bits depend on the values only.
    Raises ValueError or TypeError naming the argument.
    """
    views, count = sample_views(G)
    if not views:
        raise ValueError("G: expected at least one array")
    shapes = [samples(v) for v in views]
    if len({accumulator(v.dtype) for v in views}) > 1:
        raise ValueError("G: expected arrays that are all computed in float32, or all in float64")
    device, xp = kernel_device(views)
    with on_device_of(views):
        norms = SampleNorms(device, xp, [v.dtype for v in views], [columns for _, columns, _ in shapes])
        out = xp.empty(count, norms.sums)
        matrices = [(v.address, stride) for v, (_, _, stride) in zip(views, shapes, strict=True)]
        whole(norms.prepare(matrices, count, address_of(out)))
    return out


@ranged
def clip_weights(norms: Array, max_norm: float | None) -> Array:
    """The factors that bring norms down to max_norm at most: 1 where norm <= max_norm, else max_norm / norm.

    norms: float32 or float64 (16 bits are computed in float32), of any shape. max_norm: a number >= 0; inf or
    None clips nothing, and a norm of 0 is never clipped. A norm that is not finite has the factor NaN, unless nothing
    is clipped. The result has the dtype and shape of norms, as float32 for 16 bits.
    """
    v = view(norms, "norms")
    sums = accumulator(v.dtype)
    limit = checked_norm(max_norm, {sums})
    _, xp = kernel_device([v])
    with on_device_of([v]), np.errstate(all="ignore"):
        norms = v.owner
        if norms.dtype.name != v.dtype:  # a bfloat16 tensor, as integers of its bits
            norms = (norms.view(xp.uint16).astype(xp.uint32) << 16).view(sums)
        norms = norms.astype(sums)
        if limit is None:
            return xp.ones_like(norms)
        return xp.where(norms <= limit, norms.dtype.type(1), limit / norms + (norms - norms))


class ClipFactors:
    """The factors that clip samples, times their weights; dtypes and sizes of the samples' tensors."""

    def __init__(self, device: str, xp: ModuleType, dtypes: Sequence[str], sizes: Sequence[int]) -> None:
        self.xp, self.norms = xp, SampleNorms(device, xp, dtypes, sizes, clips=True)
        self.factors = xp.empty(0, self.norms.sums)

    def prepare(
        self, G: Sequence[View], weights: dict[str, Array] | None, count: int, max_norm: Any
    ) -> tuple[dict[str, Array], list[Any]]:
        """({dtype of the sums: array}, the launches that fill it). weights: the same for what multiplies them, or None.

        Who holds the launches holds the weights.
        """
        sums = self.norms.sums
        if len(self.factors) < count:
            self.factors = self.xp.empty(count, sums)
        matrices = [(g.address, samples(g)[2]) for g in G]
        at = address_of(weights[sums]) if weights else 0
        return {sums: self.factors}, self.norms.prepare(matrices, count, address_of(self.factors), max_norm, at)
