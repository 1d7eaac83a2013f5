"""Layers of weights with an activation between them: matrix products by BLAS, all else in one pass each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batches import scale_of
from ..core.checks import count, one_of
from ..kernels.models import layers
from .base import Model
from .losses import LOSSES

if TYPE_CHECKING:
    from ..devices import DeviceLike
    from ..typing import Activation, Array, FloatDtype, LossName, Reduction

# Variance of a weight of a layer with n_in inputs and n_out outputs, at the start: K. He et al., "Delving Deep into
# Rectifiers", 2015; X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural
# networks", 2010.
VARIANCES = {
    "relu": lambda n_in, n_out: 2 / n_in,
    "tanh": lambda n_in, n_out: 2 / (n_in + n_out),
}


class MLP(Model):
    """a_0 = x, a_l = h(a_{l-1} weight_l + bias_l), h relu or tanh; the last layer, without h, gives the outputs z.

    sizes: (n_features, …, n_outputs). loss: "softmax", "squared", or another name of losses.LOSSES, which has targets,
    answer and metric. params: weight0 (sizes[0], sizes[1]), bias0 (sizes[1],), weight1, …; weights start as normal
    numbers of PCG64([seed, layer]) with the variance of VARIANCES, biases as 0; the same on every device.

    With delta_l = dE_n/dz_l, which backpropagation makes anyway, the squared norm of a sample's gradient is
    sum_l |delta_l|^2 (|a_{l-1}|^2 + 1), and the factor that clips it multiplies its deltas: only `per_sample_gradients`
    stores gradients of samples. Activations and deltas are kept for the next call: one thread at a time, on any stream.

    Raises ValueError or TypeError naming the argument.
    """

    name = "mlp"
    sizes: tuple[int, ...]
    activation: Activation

    def __init__(
        self,
        sizes: Sequence[int],
        activation: Activation = "relu",
        loss: LossName = "softmax",
        *,
        seed: int = 0,
        device: DeviceLike = None,
        dtype: FloatDtype = "float32",
    ) -> None:
        self.sizes, self.activation = _sizes(sizes), one_of("activation", activation, VARIANCES)
        criterion, seed = LOSSES[one_of("loss", loss, LOSSES)], count("seed", seed)
        least, limit = criterion.outputs
        if not least <= self.sizes[-1] <= limit:
            raise ValueError(f"sizes: {loss} takes {least} output{'s or more' * (limit > least)}, got {self.sizes[-1]}")
        super().__init__(self.sizes[0], self.sizes[-1], criterion, device, dtype)
        xp = self.device.xp
        for layer, (n_in, n_out) in enumerate(pairwise(self.sizes)):
            drawn = np.random.Generator(np.random.PCG64([seed, layer])).standard_normal((n_in, n_out))
            scale = VARIANCES[activation](n_in, n_out) ** 0.5
            self.params[f"weight{layer}"] = xp.asarray((scale * drawn).astype(self.dtype))
            self.params[f"bias{layer}"] = xp.zeros(n_out, self.dtype)
        self._allocate()

    def _allocate(self) -> None:
        self._workspace = _Workspace(self, 0)

    def _arguments(self) -> dict[str, Any]:
        return {"sizes": self.sizes, "activation": self.activation, "loss": self.criterion.name}

    def _unshared(self, grads: dict[str, Array]) -> dict[str, Array]:
        return {name: array.copy() for name, array in grads.items()}  # `step` and `fit` do without

    def _prepare(
        self, X: Array, t: Array, names: tuple[str, str] = ("X", "t"), finite: bool = False
    ) -> tuple[Array, Array]:
        return tuple(map(self.device.xp.ascontiguousarray, super()._prepare(X, t, names, finite)))

    def _outputs(self, X: Array) -> Array:
        *hidden, (weight, bias) = self._layers()
        for layer in hidden:
            X = X @ layer[0]
            self._apply(self.activation, X, layer[1])
        return X @ weight + bias

    def _loss_and_gradient(
        self, X: Array, t: Array, max_norm: Any = None, reduction: Reduction = "mean"
    ) -> tuple[Array, dict[str, Array]]:
        clips = max_norm is not None
        scale = scale_of(reduction, len(X))
        batch = self._propagate(X, t, 1.0 if clips else scale, norms=clips)
        if clips:
            self._clip(batch, max_norm, scale)
        dot, grads = self.device.xp.dot, self._workspace.grads
        for layer, (a, delta) in enumerate(zip([X, *batch.a], batch.delta, strict=True)):
            if clips:
                self._apply("scale", delta, batch.factors)
            dot(a.T, delta, out=grads[f"weight{layer}"])
            dot(batch.ones, delta, out=grads[f"bias{layer}"])
        return self._mean(batch.errors), grads

    def _sample_norms(self, X: Array, t: Array) -> Array:
        batch = self._propagate(X, t, norms=True)
        self._clip(batch)
        return batch.norms.copy()

    def _per_sample_gradients(self, X: Array, t: Array) -> dict[str, Array]:
        batch, grads = self._propagate(X, t), {}
        for layer, (a, delta) in enumerate(zip([X, *batch.a], batch.delta, strict=True)):
            grads[f"weight{layer}"] = a[:, :, None] * delta[:, None, :]
            grads[f"bias{layer}"] = delta.copy()
        return grads

    def _propagate(self, X: Array, t: Array, scale: float = 1.0, norms: bool = False) -> SimpleNamespace:
        """Forward and back: the batch with its errors, activations and deltas, these times scale.

        norms: with their squares too, and those of X, by row.
        """
        batch, dot, weights = self._batch(len(X)), self.device.xp.dot, self._layers()
        squares = batch.squares if norms else [None] * len(batch.squares)
        if norms:
            self._apply("squares", X, squares=squares[0])
        for layer, (a, z) in enumerate(zip([X, *batch.a], [*batch.a, batch.delta[-1]], strict=True)):
            weight, bias = weights[layer]
            dot(a, weight, out=z)
            if z is not batch.delta[-1]:
                self._apply(self.activation, z, bias, squares[2 * layer + 2])
        self._end(batch, bias, t, scale)
        for layer in range(len(weights) - 1, 0, -1):
            delta = dot(batch.delta[layer], weights[layer][0].T, out=batch.delta[layer - 1])
            self._apply(f"{self.activation}_delta", delta, batch.a[layer - 1], squares[2 * layer - 1])
        return batch

    def _apply(self, name: str, x: Array, y: Any = 0, squares: Array | None = None) -> None:
        """A kernel of layers.KERNELS on x, in place; squares: where those of its rows go."""
        launch = layers.launcher(self.device.name, layers.kernel, name, self.dtype.name, squares is not None)
        launch(x.shape, x, y, 0 if squares is None else squares, x.shape[1])

    def _end(self, batch: SimpleNamespace, bias: Array, t: Array, scale: float) -> None:
        """The last z of the batch becomes its deltas."""
        z, loss = batch.delta[-1], self.criterion
        launch = layers.launcher(self.device.name, layers.loss_end, loss.name, self.dtype.name)
        numbers = map(self.dtype.type, (getattr(loss, "delta", 1), scale))
        launch(z.shape, z, bias, t, batch.errors, batch.squares[-1], self.n_outputs, *numbers)

    def _clip(self, batch: SimpleNamespace, max_norm: float = math.inf, scale: float = 1.0) -> None:
        """Norms of the batch's samples, and the factors that clip them, times scale."""
        launch = layers.launcher(self.device.name, layers.factors, self.dtype.name)
        shape, numbers = (len(batch.norms), len(batch.squares)), map(self.dtype.type, (max_norm, scale))
        args = batch.squares[0], batch.norms, batch.factors, len(batch.a) + 1, self._workspace.rows
        launch(shape, *args, *numbers)

    def _layers(self) -> list[tuple[Array, Array]]:
        return [(self.params[f"weight{k}"], self.params[f"bias{k}"]) for k in range(len(self.sizes) - 1)]

    def _batch(self, rows: int) -> SimpleNamespace:
        self._in_order()
        if rows > self._workspace.rows:
            self._workspace = _Workspace(self, rows)
        return self._workspace.batch(rows)


class _Workspace:
    """Memory of a model's steps on up to so many samples."""

    def __init__(self, model: MLP, rows: int) -> None:
        xp, dtype, (_, *hidden, last) = model.device.xp, model.dtype, model.sizes
        self.rows, self._batches = rows, {}
        self.grads = {name: xp.empty_like(array) for name, array in model.params.items()}
        self._matrices = {
            "a": [xp.empty((rows, n), dtype) for n in hidden],
            "delta": [xp.empty((rows, n), dtype) for n in (*hidden, last)],
        }
        vectors = xp.empty((2 * len(hidden) + 5, rows), dtype)
        self._squares, self._vectors = (
            vectors[:-3],
            dict(zip(("errors", "norms", "factors"), vectors[-3:], strict=True)),
        )
        self._vectors["ones"] = xp.ones(rows, dtype)

    def batch(self, rows: int) -> SimpleNamespace:
        """What the first `rows` samples take of it: a and delta, matrices by layer; squares and others, vectors."""
        if rows not in self._batches:
            if len(self._batches) > 8:
                self._batches.clear()
            parts = {name: [array[:rows] for array in arrays] for name, arrays in self._matrices.items()}
            parts |= {name: array[:rows] for name, array in self._vectors.items()}
            self._batches[rows] = SimpleNamespace(squares=[row[:rows] for row in self._squares], **parts)
        return self._batches[rows]


def _sizes(sizes: Iterable[int]) -> tuple[int, ...]:
    try:
        sizes = list(sizes)
    except TypeError:
        raise TypeError(f"sizes: expected two ints >= 1 or more, got {type(sizes).__name__}") from None
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected two ints >= 1 or more, got {len(sizes)}")
    return tuple(count(f"sizes[{k}]", size, least=1) for k, size in enumerate(sizes))
