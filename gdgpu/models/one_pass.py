"""Loss and gradient of a linear model in one read of X: lays out and launches kernels/models/linear.py."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batches import batch_views
from ..kernels.backend import threads
from ..kernels.backend.buffers import Buffer, address_of
from ..kernels.backend.threads import whole
from ..kernels.launch import Job, Reduction
from ..kernels.models import linear, linear_job
from ..kernels.reduction import reduce as reduction
from ..optimizers.bound import Bound

if TYPE_CHECKING:
    from ..optimizers.base import Optimizer
    from ..typing import Array

COPIES = 8  # layouts: of as many batch sizes and dtypes of X


class OnePass:
    """What a model's steps work in, on any stream. One thread at a time."""

    def __init__(self, model: Any) -> None:
        self.layouts, self.params = {}, dict(model.params)

    def gradient(self, model: Any, X: Array, t: Array, max_norm: Any, scale: float) -> tuple[Array, dict[str, Array]]:
        """(sum of the errors, gradients, new arrays: scale times the sum over the samples)."""
        layout = self._layout(model, X)
        layout.run(model, X, t, max_norm)
        return layout.errors.sum(dtype=np.float64), layout.reduced(scale)

    def step(self, model: Any, X: Array, t: Array, max_norm: Any, scale: float, optimizer: Optimizer) -> Array:
        """The sum of the errors before a step of the optimizer by scale times the sum of the gradients."""
        layout = self._layout(model, X)
        layout.run(model, X, t, max_norm)
        layout.updated(optimizer, scale)()
        return layout.errors.sum(dtype=np.float64)

    def norms(self, model: Any, X: Array, t: Array) -> Array:
        """The norm of each sample's gradient: a new array."""
        norms = model.device.xp.empty(len(X), model.dtype)
        self._layout(model, X).run(model, X, t, math.inf, norms)
        return norms

    def _layout(self, model: Any, X: Array) -> _Layout:
        model._in_order()
        if any(model.params[name] is not array for name, array in self.params.items()):
            self._take_params(model)
        key = len(X), X.dtype
        layout = self.layouts.get(key)
        if layout is None:
            if len(self.layouts) >= COPIES:
                del self.layouts[next(iter(self.layouts))]
            layout = self.layouts[key] = _Layout(model, *key)
        return layout

    def _take_params(self, model: Any) -> None:
        """The model has other arrays than before."""
        for name, known in self.params.items():
            array, expected = model.params[name], f"{model.dtype} {known.shape}"
            if not isinstance(array, model.device.xp.ndarray):
                raise TypeError(f"params: expected {name} to be an array {expected}, got {type(array).__name__}")
            if (array.dtype, array.shape) != (model.dtype, known.shape) or not array.flags.c_contiguous:
                got = f"{array.dtype} {array.shape}, strides {array.strides}"
                raise ValueError(f"params: expected {name} to be C-contiguous {expected}, got {got}")
        self.params, self.layouts = {name: model.params[name] for name in self.params}, {}


class _Layout:
    """Sums of the segments of a batch of this size, and the calls that make them and add them up."""

    def __init__(self, model: Any, count: int, x_dtype: np.dtype[Any]) -> None:
        self.x_dtype, self.shapes = x_dtype.name, {name: w.shape for name, w in model.params.items()}
        self.device, self.xp, self.dtype = model.device.name, model.device.xp, model.dtype.name
        self.weight, self.bias = model.params["weight"], model.params["bias"]
        self.tile = linear.tile_of(model.n_outputs, self.device, self.x_dtype)
        segment = linear.segment(self.device, count, model.n_outputs)
        self.segments = -(-count // segment)
        empty = self.xp.empty
        self.sums = {name: empty((self.segments, *w.shape), self.dtype) for name, w in model.params.items()}
        self.errors = empty(self.segments, self.dtype)
        self.W = self.weight
        if model.n_outputs > 1:
            self.W = self.xp.zeros((linear.padded(model.n_outputs), model.n_features), self.dtype)
        work_size = linear.work_size(self.device, model.n_outputs, model.n_features)
        self.work = empty(self.segments * work_size, self.dtype)
        self.numbers = Buffer(self.xp, np.zeros(3, self.dtype))
        fields = {
            "rows": count,
            "n_features": model.n_features,
            "outputs": model.n_outputs,
            "segment": segment,
            "W": address_of(self.W),
            "b": address_of(self.bias),
            "numbers": self.numbers.address,
            "weights": address_of(self.sums["weight"]),
            "biases": address_of(self.sums["bias"]),
            "errors": address_of(self.errors),
            "work": address_of(self.work),
        }
        self.job = Buffer(self.xp, np.array([fields[name] for name in linear_job.JOB], np.int64))
        self.scratch_bytes = linear.scratch_bytes(model.n_outputs, model.n_features, self.dtype)
        self.seen = None
        self.reduction = Reduction(self.device, self.xp, reduction.kernel)
        self.step_of = self.update = None

    def run(self, model: Any, X: Array, t: Array, max_norm: Any = None, norms: Array | None = None) -> None:
        """Make the sums. max_norm None: nothing is clipped; norms: an array to hold them, or None."""
        scale, delta = model.scale if self.x_dtype == "uint8" else 1.0, getattr(model.criterion, "delta", 1.0)
        numbers = scale, math.inf if max_norm is None else max_norm, delta
        if numbers != self.seen:
            with np.errstate(over="ignore"):  # what is infinite in this dtype bounds nothing
                self.numbers.set(np.array(numbers, self.dtype))
            self.seen = numbers
        at = 0 if norms is None else address_of(norms)
        args = self.job.address, address_of(X), X.strides[0] // X.itemsize, address_of(t), at
        if self.W is not self.weight:
            self.W[: model.n_outputs] = self.weight.T
        kernel = linear.kernel(self.device, model.criterion.name, self.x_dtype, self.tile, max_norm is not None)
        if self.device == "cpu":
            threads.run(kernel, args, self.segments, X.nbytes, self.scratch_bytes)
        else:
            kernel.launch(self.segments, linear_job.BLOCK, *args)

    def reduced(self, scale: float) -> dict[str, Array]:
        """scale times the sums over the segments."""
        grads = {name: self.xp.empty(shape, self.dtype) for name, shape in self.shapes.items()}
        names = list(grads)
        matrices = [(address_of(self.sums[n]), grads[n].size) for n in names]
        targets = [(address_of(grads[n]),) for n in names]
        columns = tuple(grads[n].size for n in names)
        whole(self.reduction.prepare(Job(self.dtype, self.segments, columns, matrices, targets, scale)))
        return grads

    def updated(self, optimizer: Optimizer, scale: float) -> Bound:
        """The call that takes a step of the optimizer by scale times the sum over the batch."""
        step_of = weakref.ref(optimizer), scale  # not what holds it: it may be dropped before the model is
        if self.step_of != step_of:
            engine = optimizer._engine
            G = batch_views(engine.tree.matching(self.sums, "G"), engine.views)[0]
            work = G, None, self.segments, scale
            self.update = Bound(optimizer, lambda of, launches: launches.prepare_samples(of, *work), keep=False)
            self.step_of = step_of
        return self.update
