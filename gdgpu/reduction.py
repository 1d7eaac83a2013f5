"""Sums and means over the samples of a batch, in one fixed tree on every device."""

import threading
from functools import partial

import numpy as np

from .arrays import (
    contiguous,
    disjoint,
    genuine,
    in_order,
    kernel_device,
    leaves,
    like,
    matching,
    on_device_of,
    samples,
    view,
    writable,
)
from .checks import one_of
from .clipping import ClipFactors, checked_norm
from .kernels import accumulate, reduce
from .kernels.buffers import address_of
from .kernels.memory import accumulator
from .kernels.order import order, place
from .kernels.reducer import Job, Reduction
from .kernels.threads import whole
from .kernels.tree import levels
from .ranges import ranged
from .turns import in_turn, take_turns

REDUCTIONS = ("mean", "sum")
STREAMS = 8  # of a device that have a workspace of their own in a thread
_local = threading.local()


@ranged
def reduce_samples(G, weights=None, reduction="mean", out=None):
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
        held = cast_weights(weights, rows, [g], xp)
        read = [g] if held is None else [g, view(held[sums], "weights")]
        if out is None:
            out = xp.empty(g.shape[1:], sums)
        target = writable(view(out, "out"))
        kernel_device([g, target])
        if target.shape != g.shape[1:] or target.dtype != sums:
            raise ValueError(f"out: expected {sums} {g.shape[1:]}, got {target.dtype} {target.shape}")
        disjoint([target], read)
        weights_at = 0 if held is None else address_of(held[sums])
        scale = scale_of(reduction, rows)
        job = Job(g.dtype, rows, (columns,), [(g.address, stride)], [(target.address,)], scale, weights_at)
        held, stream, workspace = _workspace(device, xp)
        whole(workspace.prepare(job))
        held[stream] = workspace
    return out


class Accumulator:
    """A batch that comes in pieces: add(G) each, then result().

    params: one array, a list or a dict; only structure, shapes and dtypes are taken from it. The bits are those of
    reduce_samples on the whole batch, wherever it was cut. Memory: one sum a parameter and tree level.
    """

    def __init__(self, params):
        take_turns(self)
        self._views = [view(array, name) for name, array in leaves(params, "params")]
        self._params, self._clipping = params, {}
        self._device, self._xp = kernel_device(self._views) if self._views else ("cpu", np)
        self._order = order(self._device)
        self.reset()

    @property
    def count(self):
        """How many samples there are."""
        return self._held[0]

    @in_turn
    def reset(self):
        """Forget all samples."""
        with self._in_order():
            self._held = 0, [self._xp.zeros((1, v.size), accumulator(v.dtype)) for v in self._views]

    @ranged
    @in_turn
    def add(self, G, weights=None, max_norm=None):
        """Add samples. G: arrays (B, *shape) in the structure of params; weights: (B,), as in reduce_samples.

        max_norm: samples are clipped as in step_samples, at the price of a second read.
        """
        most = checked_norm(max_norm, {accumulator(v.dtype) for v in self._views} or {"float32"})
        G, count = batch_views(matching(G, self._params, "G"), self._views)
        if self._views:
            kernel_device([self._views[0], *G])
        with self._in_order():
            held = cast_weights(weights, count, G, self._xp)
            before, all_nodes = self._grown(levels(self.count + count))
            cast, launches = held, []  # what the factors are made of lives as long
            if most is not None:
                held, launches = self._factors(G).prepare(G, cast, count, most)
            for g, v, nodes in zip(G, self._views, all_nodes, strict=True):
                at = 0 if held is None else address_of(held[accumulator(g.dtype)])
                where = (address_of(nodes), g.address, samples(g)[2], v.size, at)
                launches.append(accumulate.add(self._device, g.dtype, *where, before, count))
            whole(launches, partial(setattr, self, "_held", (before + count, all_nodes)))

    @ranged
    @in_turn
    def result(self, reduction="mean"):
        """The sum or mean of all samples so far: arrays like params, in the accumulator's dtype."""
        one_of("reduction", reduction, REDUCTIONS)
        scale, results = scale_of(reduction, self.count), []
        with self._in_order():
            for v, nodes in zip(self._views, self._held[1], strict=True):
                out = self._xp.empty(v.shape, nodes.dtype)
                at = (address_of(nodes), v.size, address_of(out))
                accumulate.collect(self._device, str(nodes.dtype), *at, self.count, scale)
                results.append(out)
        return like(self._params, results)

    def _in_order(self):
        """Context in which the sums are made: see arrays.in_order."""
        return in_order(self._views, self._order, "add up batches outside of the capture")

    def _factors(self, G):
        dtypes = tuple(g.dtype for g in G)
        if dtypes not in self._clipping:
            sizes = [v.size for v in self._views]
            self._clipping = {dtypes: ClipFactors(self._device, self._xp, dtypes, sizes)}
        return self._clipping[dtypes]

    def _grown(self, depth):
        """(number of samples, nodes of so many levels or more)."""
        count, nodes = self._held
        missing = depth - (len(nodes[0]) if nodes else depth)
        if missing > 0:
            xp = self._xp
            nodes = [xp.concatenate([n, xp.zeros((missing, n.shape[1]), n.dtype)]) for n in nodes]
        return count, nodes


def batch_views(pairs, views):
    """(views of G, number of samples) of (name, array) pairs, checked against the views of params: shapes, dtypes."""
    G = [view(array, name) for name, array in pairs]
    counts = set()
    for g, v in zip(G, views, strict=True):
        counts.add(samples(g, v.shape)[0])
        same_sums(g, v)
    if len(counts) > 1:
        raise ValueError(f"G: expected the same number of samples everywhere, got {sorted(counts)}")
    return G, counts.pop() if counts else 0


def same_sums(g, v):
    """TypeError unless g is added up in the dtype that the parameter v is computed in."""
    if accumulator(g.dtype) != accumulator(v.dtype):
        raise TypeError(
            f"{g.name}: expected a dtype that is computed in {accumulator(v.dtype)} like params, got {g.dtype}"
        )


def scale_of(reduction, count):
    """What the root of the tree is multiplied by: reduction, if it is a number. An empty batch has a root of +0."""
    if not isinstance(reduction, str):
        return reduction
    return 1 / count if reduction == "mean" and count else 1.0


def cast_weights(weights, count, G, xp):
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


def bound_weights(weights, count, G):
    """The same for arrays that kernels will read as they are, later."""
    if weights is None:
        return None
    held = contiguous(view(weights, "weights"))
    _one_each(held, count)
    for g in G:
        if held.dtype != accumulator(g.dtype):
            raise TypeError(f"weights: expected dtype {accumulator(g.dtype)} to be bound, got {held.dtype}")
    return {held.dtype: held.owner}


def _one_each(weights, count):
    if weights.shape != (count,):
        raise ValueError(f"weights: expected shape ({count},), one for each sample, got {weights.shape}")


def _workspace(device, xp):
    """(those of this thread's other streams, CuPy's current stream, its tables and partial sums, to be put back there).

    Of many streams the last few have their own. Another one takes that which was not used for longest, and waits for
    what is enqueued there. A call that begins inside of another, in a signal handler, finds none and makes its own.
    """
    where, stream = place(device)
    held = _local.__dict__.setdefault("workspaces", {}).setdefault(where, {})
    found = held.pop(stream, None)
    if found is None:
        found = held.pop(next(iter(held))) if len(held) >= STREAMS else Reduction(device, xp, reduce.kernel)
    return held, stream, found
