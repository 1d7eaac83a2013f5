"""Models that are linear in their inputs: z = X @ weight + bias, with a loss of losses.py.

All gradients follow from the residual r_n = dE_n/dz: dE_n/dweight = outer(x_n, r_n), dE_n/dbias = r_n. A model has
fewer than 2**31 weights, n_features times its outputs.

Models contain exp, log and matrix products: two devices agree to rounding, not to the bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.batches import scale_of
from ..core.checks import count, number
from . import losses
from .base import Model
from .losses import cast
from .one_pass import OnePass

if TYPE_CHECKING:
    from ..devices import DeviceLike
    from ..optimizers.base import Optimizer
    from ..typing import Array, FloatDtype, Reduction

NARROW = ("float16", "uint8")  # what kernels take for float32 models, beside float32
WEIGHTS = 1 << 31  # a model has fewer
PIECE = 1 << 10  # rows that are widened at once


class _LinearModel(Model):
    """z = X @ weight + bias. A model adds its loss.

    Gradients, norms and steps read X once (kernels/models/linear.py), as it is: of the model's dtype, or, for float32
    models, float16 or bytes, which are multiplied by `scale`, a number > 0. params may be other arrays later, of the
    same dtype and shapes. ValueError naming n_features for 2**31 weights or more.
    """

    scale: float | None

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        loss: type[losses.Loss],
        scale: float | None,
        device: DeviceLike,
        dtype: FloatDtype,
        **settings: Any,
    ) -> None:
        super().__init__(n_features, n_outputs, loss, device, dtype, **settings)
        if self.n_features * n_outputs >= WEIGHTS:
            got = f"{self.n_features} times {n_outputs}"
            raise ValueError(f"n_features: expected fewer than 2**31 weights, n_features times outputs, got {got}")
        self.scale = scale if scale is None else number("scale", scale)
        if self.scale == 0:
            raise ValueError(f"scale: expected a finite number > 0, got {scale!r}")
        zeros = self.device.xp.zeros
        self.params = {
            "weight": zeros((self.n_features, n_outputs), self.dtype),
            "bias": zeros(n_outputs, self.dtype),
        }
        narrow = NARROW if self.dtype == "float32" else ()
        self._taken = tuple(map(np.dtype, (self.dtype, *narrow)))
        self._allocate()

    def _allocate(self) -> None:
        self._one_pass = OnePass(self)

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | ({} if self.scale is None else {"scale": self.scale})

    def _samples(self, X: Array, name: str) -> Array:
        X = self._matrix(X, name)
        if X.dtype == "uint8" and self.scale is None:
            raise ValueError(f"{name}: bytes need a scale: make the model with scale=1/255, or another factor")
        if X.dtype not in self._taken:
            X = self._widened(X)
        if (X.size and X.strides[1] != X.itemsize) or not getattr(X.flags, "aligned", True):
            X = X.copy()  # which is aligned, too
        return X

    def _prepare(
        self, X: Array, t: Array, names: tuple[str, str] = ("X", "t"), finite: bool = False
    ) -> tuple[Array, Array]:
        X, t = super()._prepare(X, t, names, finite)
        return X, self.device.xp.ascontiguousarray(t)

    def _outputs(self, X: Array) -> Array:
        weight, bias = self.params["weight"], self.params["bias"]
        if X.dtype == self.dtype:
            return X @ weight + bias
        z = self.device.xp.empty((len(X), self.n_outputs), self.dtype)
        for k in range(0, len(X), PIECE):  # no copy of all of X
            z[k : k + PIECE] = self._widened(X[k : k + PIECE]) @ weight + bias
        return z

    def _widened(self, X: Array) -> Array:
        return cast(X, self.dtype) if X.dtype != "uint8" else cast(X, self.dtype) * self.dtype.type(self.scale)

    def _loss_and_gradient(
        self, X: Array, t: Array, max_norm: Any = None, reduction: Reduction = "mean"
    ) -> tuple[Array, dict[str, Array]]:
        error, grads = self._one_pass.gradient(self, X, t, max_norm, scale_of(reduction, len(X)))
        return self._mean_of(error, X), grads

    def _step(
        self, X: Array, t: Array, optimizer: Optimizer, max_norm: Any = None, reduction: Reduction = "mean"
    ) -> Array:
        return self._mean_of(self._one_pass.step(self, X, t, max_norm, scale_of(reduction, len(X)), optimizer), X)

    def _mean_of(self, error: Array, X: Array) -> Array:
        return (error / max(len(X), 1)).astype(self.dtype)

    def _sample_norms(self, X: Array, t: Array) -> Array:
        return self._one_pass.norms(self, X, t)

    def _per_sample_gradients(self, X: Array, t: Array) -> dict[str, Array]:
        residual = self.criterion.errors(self._outputs(X), t)[1]
        return {"weight": self._widened(X)[:, :, None] * residual[:, None, :], "bias": residual}


class LinearRegression(_LinearModel):
    """Least squares: y = z, E_n = sum_k (t_nk - y_nk)^2, without a factor 1/2. Targets and metric: losses.Squared."""

    name = "linear"

    def __init__(
        self,
        n_features: int,
        n_outputs: int = 1,
        *,
        scale: float | None = None,
        device: DeviceLike = None,
        dtype: FloatDtype = "float32",
    ) -> None:
        super().__init__(n_features, count("n_outputs", n_outputs, least=1), losses.Squared, scale, device, dtype)

    def _arguments(self) -> dict[str, Any]:
        return {"n_features": self.n_features, "n_outputs": self.n_outputs} | super()._arguments()


class HuberRegression(_LinearModel):
    """Least squares up to an error of delta, then linear in the error. Formula, targets and metric: losses.Huber."""

    name = "huber"

    def __init__(
        self,
        n_features: int,
        n_outputs: int = 1,
        delta: float = 1.0,
        *,
        scale: float | None = None,
        device: DeviceLike = None,
        dtype: FloatDtype = "float32",
    ) -> None:
        n_outputs = count("n_outputs", n_outputs, least=1)
        super().__init__(n_features, n_outputs, losses.Huber, scale, device, dtype, delta=delta)

    def _arguments(self) -> dict[str, Any]:
        shape = {"n_features": self.n_features, "n_outputs": self.n_outputs}
        return shape | {"delta": self.criterion.delta} | super()._arguments()


class PoissonRegression(_LinearModel):
    """Counts of mean exp(z), E_n = exp(z) - t z. Targets and metric: losses.Poisson."""

    name = "poisson"

    def __init__(
        self, n_features: int, *, scale: float | None = None, device: DeviceLike = None, dtype: FloatDtype = "float32"
    ) -> None:
        super().__init__(n_features, 1, losses.Poisson, scale, device, dtype)


class LogisticRegression(_LinearModel):
    """Two classes of probability 1 / (1 + exp(-z)) and the rest. Formula, targets and metric: losses.Logistic."""

    name = "logistic"

    def __init__(
        self, n_features: int, *, scale: float | None = None, device: DeviceLike = None, dtype: FloatDtype = "float32"
    ) -> None:
        super().__init__(n_features, 1, losses.Logistic, scale, device, dtype)


class SoftmaxRegression(_LinearModel):
    """Classes of probabilities exp(z_k) / sum_j exp(z_j). Formula, targets and metric: losses.Softmax."""

    name = "softmax"

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        *,
        scale: float | None = None,
        device: DeviceLike = None,
        dtype: FloatDtype = "float32",
    ) -> None:
        super().__init__(n_features, count("n_classes", n_classes, least=2), losses.Softmax, scale, device, dtype)

    def _arguments(self) -> dict[str, Any]:
        return {"n_features": self.n_features, "n_classes": self.n_outputs} | super()._arguments()
