"""What all models share: the checks of X and t, and the public methods; a model adds its outputs and its gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..core.arrays import genuine
from ..core.batches import REDUCTIONS, checked_norm
from ..core.checks import count, one_of
from ..core.nvtx import ranged
from ..core.turns import in_turn, take_turns
from ..devices import resolve
from ..kernels.backend.streams import not_recorded, order
from .losses import cast

if TYPE_CHECKING:
    from ..devices import Device, DeviceLike
    from ..optimizers.base import Optimizer
    from ..typing import Array, FloatDtype, Reduction
    from .losses import Loss

WORKSPACES = ("_turn", "_order", "_one_pass", "_workspace")  # which a copy makes anew


class Model:
    """Outputs z of a sample's features, and a loss of them.

    `params`: dict of arrays on the model's device, updated in place by optimizers. A model adds `_outputs(X)`,
    `_loss_and_gradient`, `_sample_norms` and `_per_sample_gradients`, of what `_prepare` returned.
    """

    name: ClassVar[str]
    dtype: np.dtype[Any]
    device: Device
    n_features: int
    n_outputs: int
    criterion: Loss
    params: dict[str, Array]

    def __init__(
        self, n_features: int, n_outputs: int, loss: type[Loss], device: DeviceLike, dtype: FloatDtype, **settings: Any
    ) -> None:
        try:
            name = dtype and np.dtype(dtype).name  # np.dtype(None) is float64
        except TypeError:
            name = None
        if name not in ("float32", "float64"):
            raise ValueError(f'dtype: expected "float32" or "float64", got {dtype!r}')
        self.dtype, self.device = np.dtype(name), resolve(device)
        self.n_features, self.n_outputs = count("n_features", n_features, least=1), n_outputs
        self.criterion = loss(n_outputs, self.dtype, self.device.xp, **settings)
        self.params = {}
        self._begin()

    def _begin(self) -> None:
        take_turns(self)
        self._order = order(self.device.name)
        self._in_order()

    def _allocate(self) -> None:
        """Make what its calls work in."""

    @in_turn
    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: all but what its calls work in; params is the dict itself, which others may have too."""
        self._in_order()
        return {name: value for name, value in self.__dict__.items() if name not in WORKSPACES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
        self._allocate()

    def __repr__(self) -> str:
        given = self._arguments() | {"dtype": self.dtype.name, "device": self.device.name}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def _arguments(self) -> dict[str, Any]:
        """What it was made with, by the names of the arguments."""
        return {"n_features": self.n_features}

    def _in_order(self) -> None:
        """Before its own memory is used: behind what it enqueued on other streams, and never in a CUDA graph."""
        not_recorded(self._order.follow(), "take the calls of models outside of the capture")

    @property
    def metric_name(self) -> str:
        """What `metric` measures."""
        return self.criterion.metric_name

    @ranged
    def loss(self, X: Array, t: Array) -> Array:
        """Mean over the samples of their errors: a scalar of the model's dtype, on its device.

        X: (B, n_features), any real dtype, converted to the model's; t: see the model. 0 for B = 0.
        Raises ValueError for a wrong shape, a wrong class or lengths that differ, TypeError for what
        is not numeric. Looking at the classes waits for a GPU; `fit` does so only once.
        """
        X, t = self._prepare(X, t)
        return self._mean(self.criterion.errors(self._outputs(X), t)[0])

    @ranged
    @in_turn
    def gradient(
        self, X: Array, t: Array, max_norm: float | None = None, reduction: Reduction = "mean"
    ) -> tuple[Array, dict[str, Array]]:
        """(loss, grads): the loss, and the gradient of the mean or the sum of the errors, a dict like `params`.

        With max_norm each sample's gradient is scaled as `clip_weights` has it, before they are added; the loss is
        the same. +0 for B = 0. Raises ValueError also for a negative max_norm, NaN and another reduction; see loss.
        """
        max_norm, reduction = checked_norm(max_norm, {self.dtype}), one_of("reduction", reduction, REDUCTIONS)
        loss, grads = self._loss_and_gradient(*self._prepare(X, t), max_norm, reduction)
        return loss, self._unshared(grads)

    @ranged
    @in_turn
    def sample_norms(self, X: Array, t: Array) -> Array:
        """The norm of each sample's gradient, over all the parameters: (B,). Errors: see loss."""
        return self._sample_norms(*self._prepare(X, t))

    @ranged
    @in_turn
    def per_sample_gradients(self, X: Array, t: Array) -> dict[str, Array]:
        """Gradients of each sample's error, not scaled: their mean over axis 0 is that of `gradient`.

        A dict like `params`, with one more axis, of the samples, in front. Errors: see loss.
        """
        return self._per_sample_gradients(*self._prepare(X, t))

    @ranged
    @in_turn
    def step(
        self, X: Array, t: Array, optimizer: Optimizer, max_norm: float | None = None, reduction: Reduction = "mean"
    ) -> Array:
        """One step of the optimizer by `gradient(X, t, max_norm, reduction)`; returns the loss before it.

        optimizer: made from this model's params. With "sum" and a learning rate over the usual batch size, a last
        batch that is shorter moves the parameters as much less. Errors: see gradient.
        """
        check_owner(optimizer, self)
        max_norm, reduction = checked_norm(max_norm, {self.dtype}), one_of("reduction", reduction, REDUCTIONS)
        return self._step(*self._prepare(X, t), optimizer, max_norm, reduction)

    @ranged
    def predict(self, X: Array) -> Array:
        """The model's answer for each row of X (B, n_features). Errors: see loss."""
        return self.criterion.answer(self._outputs(self._samples(X, "X")))

    def metric(self, X: Array, t: Array) -> float:
        """How good the answers are, as a float: what `metric_name` says. Errors: see loss, and B = 0."""
        X, t = self._prepare(X, t)
        if not len(X):
            raise ValueError(f"X: expected one sample or more, got shape {X.shape}")
        return self.criterion.score(self._outputs(X), t)

    def _evaluate(self, X: Array, t: Array) -> tuple[float, float]:
        """(loss, metric) as floats, of what `_prepare` returned."""
        z = self._outputs(X)
        return float(self._mean(self.criterion.errors(z, t)[0])), self.criterion.score(z, t)

    def _outputs(self, X: Array) -> Array:
        """z (B, n_outputs)."""
        raise NotImplementedError

    def _loss_and_gradient(
        self, X: Array, t: Array, max_norm: Any = None, reduction: Reduction = "mean"
    ) -> tuple[Array, dict[str, Array]]:
        """`gradient` of what `_prepare` returned: checks nothing, and never waits for a GPU."""
        raise NotImplementedError

    def _step(
        self, X: Array, t: Array, optimizer: Optimizer, max_norm: Any = None, reduction: Reduction = "mean"
    ) -> Array:
        """`step` of what `_prepare` returned: checks nothing, and never waits for a GPU."""
        loss, grads = self._loss_and_gradient(X, t, max_norm, reduction)
        optimizer.step(grads)
        return loss

    def _unshared(self, grads: dict[str, Array]) -> dict[str, Array]:
        """Gradients that no later call changes."""
        return grads

    def _sample_norms(self, X: Array, t: Array) -> Array:
        raise NotImplementedError

    def _per_sample_gradients(self, X: Array, t: Array) -> dict[str, Array]:
        raise NotImplementedError

    def _mean(self, errors: Array) -> Array:
        return errors.sum() / max(len(errors), 1)

    def _prepare(
        self, X: Array, t: Array, names: tuple[str, str] = ("X", "t"), finite: bool = False
    ) -> tuple[Array, Array]:
        """X and t checked, on the model's device, as its steps take them; copied only if they must be.

        With `finite` NaN and infinity are errors too. `names` are what errors call them.
        """
        X, t = self._samples(X, names[0]), self.criterion.targets(self._array(t, names[1]), names[1])
        if len(X) != len(t):
            raise ValueError(f"{names[1]}: expected {len(X)} targets, one for each sample of {names[0]}, got {len(t)}")
        if finite:
            self._check_finite(X, names[0])
            self._check_finite(t, names[1])
        return X, t

    def _samples(self, X: Array, name: str) -> Array:
        return cast(self._matrix(X, name), self.dtype)

    def _matrix(self, X: Array, name: str) -> Array:
        self._order.follow()
        X = self._array(X, name)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"{name}: expected shape (samples, {self.n_features}), got {X.shape}")
        return X

    def _array(self, array: Array, name: str) -> Array:
        xp, array = self.device.xp, genuine(array, name)
        if xp is np and hasattr(array, "__cuda_array_interface__"):
            raise TypeError(f"{name}: expected an array on the CPU, as the model, got one on a CUDA device")
        try:
            array = xp.asarray(array)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise TypeError(f"{name}: expected a numeric array, got {type(array).__name__} ({reason})") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected a numeric array, got dtype {array.dtype}")
        return array

    def _check_finite(self, array: Array, name: str) -> None:
        # Minimum and maximum show any NaN and infinity, and need no temporary of the array's size.
        isfinite = self.device.xp.isfinite
        if array.size and not (isfinite(array.min()) and isfinite(array.max())):
            row = int((~isfinite(array.reshape(len(array), -1)).all(axis=1)).argmax())
            raise ValueError(f"{name}: expected finite {self.dtype} values, got NaN or infinity in row {row}")


def check_owner(optimizer: Any, model: Model) -> None:
    """TypeError or ValueError unless this is an optimizer made from the model's params."""
    params = getattr(optimizer, "params", None)
    if not hasattr(optimizer, "step"):
        raise TypeError(f"optimizer: expected one of gdgpu's optimizers, got {type(optimizer).__name__}")
    is_ours = isinstance(params, dict) and params.keys() == model.params.keys()
    # What it has taken: params may be the model's own dict, with other arrays by now.
    taken = zip(params, optimizer._engine.views, strict=False) if is_ours else ()
    if not is_ours or any(v.owner is not model.params[n] for n, v in taken):
        raise ValueError("optimizer: expected one made from this model's params, got one of other arrays")
