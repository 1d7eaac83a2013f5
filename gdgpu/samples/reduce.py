"""Sums and means over the samples of a batch, in one fixed tree on every device."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Literal

from ..core.arrays import disjoint, kernel_device, on_device_of, view, writable
from ..core.batches import REDUCTIONS, cast_weights, samples, scale_of
from ..core.checks import one_of
from ..core.nvtx import ranged
from ..kernels.backend.buffers import address_of
from ..kernels.backend.memory import accumulator
from ..kernels.backend.streams import place
from ..kernels.backend.threads import whole
from ..kernels.launch import Job, Reduction
from ..kernels.reduction import reduce

if TYPE_CHECKING:
    from ..typing import Array

STREAMS = 8  # of a device that have a workspace of their own in a thread
_local = threading.local()


@ranged
def reduce_samples(
    G: Array, weights: Array | None = None, reduction: Literal["mean", "sum"] = "mean", out: Array | None = None
) -> Array:
    """The sum or mean of per-sample gradients: g = 1/B * sum_n c_n G[n] ("sum" leaves 1/B out).

    G: (B, *shape), any row stride, each sample C-contiguous. weights: c, (B,), cast to the accumulator's dtype;
    None: all 1. They do not change the divisor. Returns an array of `shape` in the accumulator's dtype (float64
    for float64, else float32), or `out` if given. B = 0 gives +0. The order of additions is fixed: a tree of radix
    32 over the rows, so the bits depend on nothing but the values.
    Raises ValueError or TypeError naming the argument, before anything is touched.
    """
    one_of("reduction", reduction, REDUCTIONS)
    g = view(G, "G")
    rows, columns, stride = samples(g)
    device, xp = kernel_device([g])
    sums = accumulator(g.dtype)
    with on_device_of([g]):
        cast = cast_weights(weights, rows, [g], xp)
        read = [g] if cast is None else [g, view(cast[sums], "weights")]
        if out is None:
            out = xp.empty(g.shape[1:], sums)
        target = writable(view(out, "out"))
        kernel_device([g, target])
        if target.shape != g.shape[1:] or target.dtype != sums:
            raise ValueError(f"out: expected {sums} {g.shape[1:]}, got {target.dtype} {target.shape}")
        disjoint([target], read)
        weights_at = 0 if cast is None else address_of(cast[sums])
        scale = scale_of(reduction, rows)
        job = Job(g.dtype, rows, (columns,), [(g.address, stride)], [(target.address,)], scale, weights_at)
        others, stream, workspace = _workspace(device, xp)
        whole(workspace.prepare(job))
        others[stream] = workspace
    return out


def _workspace(device: str, xp: Any) -> tuple[dict[int, Reduction], int, Reduction]:
    """(those of this thread's other streams, CuPy's current stream, its tables and partial sums, to be put back there).

    Of many streams the last few have their own. Another one takes that which was not used for longest, and waits for
    what is enqueued there. A call that begins inside of another, in a signal handler, finds none and makes its own.
    """
    where, stream = place(device)
    others = _local.__dict__.setdefault("workspaces", {}).setdefault(where, {})
    found = others.pop(stream, None)
    if found is None:
        found = others.pop(next(iter(others))) if len(others) >= STREAMS else Reduction(device, xp, reduce.kernel)
    return others, stream, found
