"""Errors E_n of a sample by the outputs z of its model, and the residuals r_n = dE_n/dz that gradients are made of.

Sources: C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, sections 3.1 and 4.3; P. J. Huber, "Robust
Estimation of a Location Parameter", 1964; P. McCullagh and J. A. Nelder, "Generalized Linear Models", 1989, chapter 6.

exp and log are the devices' own: two devices agree to rounding, not to the bit.
"""

from __future__ import annotations

import math
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..core.checks import number

if TYPE_CHECKING:
    from ..typing import Array, LossName


class Loss:
    """What the losses share. kind: of the targets, values or classes. outputs: the fewest and the most of them.

    Made for a number of outputs, a dtype, and the module whose arrays it gets, numpy or cupy.
    """

    name: ClassVar[LossName]
    kind: ClassVar[Literal["values", "classes"]]
    metric_name: ClassVar[str]
    outputs: ClassVar[tuple[float, float]] = (1, math.inf)

    def __init__(self, n_outputs: int, dtype: Any = "float32", xp: ModuleType = np) -> None:
        self.n_outputs, self.dtype, self.xp = n_outputs, np.dtype(dtype), xp

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"xp": self.xp.__name__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, xp=import_module(state["xp"]))

    def targets(self, t: Array, name: str) -> Array:
        """t checked, as `errors` takes it. Raises ValueError or TypeError that calls it `name`."""
        raise NotImplementedError

    def errors(self, z: Array, t: Array) -> tuple[Array, Array]:
        """(E, r): each sample's error (B,), and its derivative by z (B, n_outputs), a new array."""
        raise NotImplementedError

    def answer(self, z: Array) -> Array:
        """What `predict` returns for the outputs z (B, n_outputs)."""
        raise NotImplementedError

    def score(self, z: Array, t: Array) -> float:
        """The metric as a float: the share of right answers."""
        return float((self.answer(z) == t.ravel()).mean())


class Squared(Loss):
    """y = z, E_n = sum_k (t_nk - y_nk)^2, r = 2 (y - t). No factor 1/2.

    t: (B, n_outputs), or (B,) for one output. Answer: y, of shape (B,) for one output. Metric: R^2 = 1 - SSE / SST,
    both summed over the outputs in float64, SST about each output's mean; where SST is 0, R^2 is 1 for SSE = 0 and
    0 otherwise.
    """

    name, kind, metric_name = "squared", "values", "R^2"

    def targets(self, t: Array, name: str) -> Array:
        shapes = f"(samples, {self.n_outputs})" + (" or (samples,)" if self.n_outputs == 1 else "")
        if t.shape[1:] != (self.n_outputs,) and (t.ndim, self.n_outputs) != (1, 1):
            raise ValueError(f"{name}: expected shape {shapes}, got {t.shape}")
        return cast(t, self.dtype).reshape(len(t), self.n_outputs)

    def errors(self, z: Array, t: Array) -> tuple[Array, Array]:
        difference = z - t
        return (difference * difference).sum(axis=1), 2 * difference

    def answer(self, z: Array) -> Array:
        return z[:, 0] if self.n_outputs == 1 else z

    def score(self, z: Array, t: Array) -> float:
        t = t.astype("float64")
        return _explained(float(((t - z) ** 2).sum()), float(((t - _mean(t)) ** 2).sum()))


class Huber(Squared):
    """y = z, E_n = sum_k e(y_nk - t_nk), where e(d) = d^2 for |d| <= delta, else delta (2 |d| - delta).

    Twice the usual form, so that it is the squared error, without a factor 1/2, up to delta: r = 2 d, clipped to
    2 delta. Targets, answer and metric are those of Squared.
    """

    name = "huber"

    def __init__(self, n_outputs: int, dtype: Any = "float32", xp: ModuleType = np, delta: float = 1.0) -> None:
        super().__init__(n_outputs, dtype, xp)
        self.delta = number("delta", delta)
        if not self.delta:
            raise ValueError(f"delta: expected a finite number > 0, got {delta!r}")

    def errors(self, z: Array, t: Array) -> tuple[Array, Array]:
        difference = z - t
        inner = difference.clip(-self.delta, self.delta)
        # inner (2 d - inner): d^2 inside, delta (2 |d| - delta) outside, without a branch
        return (inner * (2 * difference - inner)).sum(axis=1), 2 * inner


class Poisson(Squared):
    """Counts of mean y = exp(z): E_n = exp(z) - t z, r = exp(z) - t.

    ln t!, which does not depend on the model, is left out: errors may be negative.
    t: (B,) or (B, 1), >= 0. Answer: exp(z). Metric: D^2 = 1 - D(t, y) / D(t, mean of t), the share of the deviance
    D(t, y) = 2 sum_n (t ln(t / y) - t + y) that is explained; where the divisor is 0, as R^2 of Squared.
    """

    name, metric_name = "poisson", "D^2"

    def targets(self, t: Array, name: str) -> Array:
        t = super().targets(t, name)
        wrong = t.ravel() < 0
        if wrong.any():
            row = int(wrong.argmax()) // self.n_outputs
            raise ValueError(f"{name}: expected numbers >= 0, got {t.ravel()[wrong][0].item():g} in row {row}")
        return t

    def errors(self, z: Array, t: Array) -> tuple[Array, Array]:
        y = self.xp.exp(z)
        return (y - t * z).sum(axis=1), y - t

    def answer(self, z: Array) -> Array:
        return super().answer(self.xp.exp(z))

    def score(self, z: Array, t: Array) -> float:
        xp, t, z = self.xp, t.astype("float64"), z.astype("float64")
        mean = _mean(t)
        unexplained = _half_deviance(xp, t, xp.exp(z), z)
        return _explained(unexplained, _half_deviance(xp, t, mean, xp.log(xp.where(mean > 0, mean, 1))))


class Logistic(Loss):
    """Two classes: p = 1 / (1 + exp(-z)), E_n = -t ln p - (1 - t) ln(1 - p), r = p - t.

    Computed as E_n = max(z, 0) - t z + ln(1 + exp(-|z|)), which never overflows.
    t: (B,) of 0 and 1. Answer: 1 where z > 0, else 0, int64. Metric: accuracy.
    """

    name, kind, metric_name = "logistic", "classes", "accuracy"
    outputs = 1, 1

    def targets(self, t: Array, name: str) -> Array:
        _check_vector(t, name)
        wrong = (t != 0) & (t != 1)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{name}: expected 0 or 1, got {t[row].item()!r} in row {row}")
        return t.astype(self.dtype, copy=False).reshape(len(t), 1)

    def errors(self, z: Array, t: Array) -> tuple[Array, Array]:
        xp = self.xp
        e = xp.exp(-abs(z))
        errors = xp.maximum(z, 0) - t * z + xp.log1p(e)
        return errors[:, 0], xp.where(z >= 0, 1, e) / (1 + e) - t

    def answer(self, z: Array) -> Array:
        return (z[:, 0] > 0).astype("int64")


class Softmax(Loss):
    """Several classes: p_k = exp(z_k) / sum_j exp(z_j), E_n = -ln p_t, r_k = p_k - [k = t].

    Computed from z - max_k z_k, which never overflows.
    t: (B,) integers in 0 .. n_outputs - 1. Answer: the class of the largest z_k, the first of equals, int64.
    Metric: accuracy.
    """

    name, kind, metric_name = "softmax", "classes", "accuracy"
    outputs = 2, math.inf

    def targets(self, t: Array, name: str) -> Array:
        _check_vector(t, name)
        if t.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected integer classes, got dtype {t.dtype}")
        low, high = (int(t.min()), int(t.max())) if len(t) else (0, 0)
        if low < 0 or high >= self.n_outputs:
            wrong = low if low < 0 else high
            raise ValueError(f"{name}: expected classes in 0 .. {self.n_outputs - 1}, got {wrong}")
        return t.astype("int64", copy=False)

    def errors(self, z: Array, t: Array) -> tuple[Array, Array]:
        xp = self.xp
        z = z - z.max(axis=1, keepdims=True)
        p = xp.exp(z)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        target = xp.arange(len(t)), t
        errors = xp.log(total[:, 0]) - z[target]
        p[target] -= 1
        return errors, p

    def answer(self, z: Array) -> Array:
        return z.argmax(axis=1).astype("int64", copy=False)


LOSSES = {loss.name: loss for loss in (Squared, Huber, Poisson, Logistic, Softmax)}


def cast(array: Array, dtype: Any) -> Array:
    """The array in this dtype; copied only if it must be."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # what does not fit becomes infinite; `fit` says so
        return array.astype(dtype)


def _check_vector(t: Array, name: str) -> None:
    if t.ndim != 1:
        raise ValueError(f"{name}: expected shape (samples,), got {t.shape}")


def _mean(t: Array) -> Array:
    """The mean of the rows, which of equal ones is that one: a rounded one would leave a variance."""
    return t[:1] + (t - t[:1]).mean(axis=0)


def _half_deviance(xp: Any, t: Array, y: Array, ln_y: Array) -> float:
    """The sum of t ln(t / y) - t + y, each of which is 0 where y is t and else positive."""
    d = ln_y - xp.log(xp.where(t > 0, t, 1))
    is_near = (t > 0) & (xp.abs(d) < 1)  # where y - t would be a difference of what is nearly equal
    return float((xp.where(is_near, t * xp.expm1(xp.minimum(d, 1)), y - t) - t * d).sum())


def _explained(unexplained: float, total: float) -> float:
    return 1 - unexplained / total if total else float(unexplained == 0)
