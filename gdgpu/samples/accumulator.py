"""A batch that comes in pieces, with the bits of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import in_order, kernel_device, view
from ..core.batches import REDUCTIONS, batch_views, cast_weights, checked_norm, samples, scale_of
from ..core.checks import one_of
from ..core.nvtx import ranged
from ..core.pytree import leaves, like, matching
from ..core.turns import in_turn, take_turns
from ..kernels.backend.buffers import address_of
from ..kernels.backend.memory import accumulator
from ..kernels.backend.streams import order
from ..kernels.backend.threads import whole
from ..kernels.reduction import accumulate
from ..kernels.reduction.tree import levels
from .clipping import ClipFactors

if TYPE_CHECKING:
    from ..core.arrays import View
    from ..typing import Array, Arrays, Reduction


class Accumulator:
    """A batch that comes in pieces: add(G) each, then result().

    params: one array, a list or a dict; only structure, shapes and dtypes are taken from it. The bits are those of
    reduce_samples on the whole batch, wherever it was cut. Memory: one sum a parameter and tree level.
    """

    def __init__(self, params: Arrays) -> None:
        take_turns(self)
        self._views = [view(array, name) for name, array in leaves(params, "params")]
        self._params, self._clipping = params, {}
        self._device, self._xp = kernel_device(self._views) if self._views else ("cpu", np)
        self._order = order(self._device)
        self.reset()

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self._sums[0]

    @in_turn
    def reset(self) -> None:
        """Forget all samples."""
        with self._in_order():
            self._sums = 0, [self._xp.zeros((1, v.size), accumulator(v.dtype)) for v in self._views]

    @in_turn
    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: params, the structure itself, and the sums so far."""
        with self._in_order():
            count, nodes = self._sums
            return {"params": self._params, "count": count, "nodes": [n.copy() for n in nodes]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["params"])  # type: ignore[misc]
        self._sums = state["count"], state["nodes"]

    def __repr__(self) -> str:
        number = len(self._views)
        arrays = f"{number} array{'s' * (number != 1)} of {sum(v.size for v in self._views)} elements"
        return f"Accumulator({arrays}, count={self.count}, device={self._device!r})"

    @ranged
    @in_turn
    def add(self, G: Arrays, weights: Array | None = None, max_norm: float | None = None) -> None:
        """Add samples. G: arrays (B, *shape) in the structure of params; weights: (B,), as in reduce_samples.

        max_norm: samples are clipped as in step_samples, at the price of a second read.
        """
        max_norm = checked_norm(max_norm, {accumulator(v.dtype) for v in self._views} or {"float32"})
        G, count = batch_views(matching(G, self._params, "G"), self._views)
        if self._views:
            kernel_device([self._views[0], *G])
        with self._in_order():
            cast = cast_weights(weights, count, G, self._xp)
            before, all_nodes = self._grown(levels(self.count + count))
            factors, launches = cast, []  # cast lives as long as this call: the factors are made of it
            if max_norm is not None:
                factors, launches = self._factors(G).prepare(G, cast, count, max_norm)
            for g, v, nodes in zip(G, self._views, all_nodes, strict=True):
                at = 0 if factors is None else address_of(factors[accumulator(g.dtype)])
                where = (address_of(nodes), g.address, samples(g)[2], v.size, at)
                launches.append(accumulate.add(self._device, g.dtype, *where, before, count))
            whole(launches, partial(setattr, self, "_sums", (before + count, all_nodes)))

    @ranged
    @in_turn
    def result(self, reduction: Reduction = "mean") -> Any:
        """The sum or mean of all samples so far: arrays like params, in the accumulator's dtype."""
        one_of("reduction", reduction, REDUCTIONS)
        scale, results = scale_of(reduction, self.count), []
        with self._in_order():
            for v, nodes in zip(self._views, self._sums[1], strict=True):
                out = self._xp.empty(v.shape, nodes.dtype)
                at = (address_of(nodes), v.size, address_of(out))
                accumulate.collect(self._device, str(nodes.dtype), *at, self.count, scale)
                results.append(out)
        return like(self._params, results)

    def _in_order(self) -> AbstractContextManager[Any]:
        """Context in which the sums are made: see arrays.in_order."""
        return in_order(self._views, self._order, "add up batches outside of the capture")

    def _factors(self, G: Sequence[View]) -> ClipFactors:
        dtypes = tuple(g.dtype for g in G)
        if dtypes not in self._clipping:
            sizes = [v.size for v in self._views]
            self._clipping = {dtypes: ClipFactors(self._device, self._xp, dtypes, sizes)}
        return self._clipping[dtypes]

    def _grown(self, depth: int) -> tuple[int, list[Array]]:
        """(number of samples, nodes of so many levels or more)."""
        count, nodes = self._sums
        missing = depth - (len(nodes[0]) if nodes else depth)
        if missing > 0:
            xp = self._xp
            nodes = [xp.concatenate([n, xp.zeros((missing, n.shape[1]), n.dtype)]) for n in nodes]
        return count, nodes
