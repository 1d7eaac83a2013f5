"""The training loop: batches, gradients and steps, with nothing in an epoch that waits for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from .core.checks import count, flag
from .core.nvtx import ranged
from .core.turns import turn
from .datasets.minibatches import batch_starts, minibatches
from .devices import on_host
from .models.base import check_owner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .models.base import Model
    from .optimizers.base import Optimizer
    from .typing import Array, BatchSize


class Record(TypedDict):
    """An epoch of a History."""

    epoch: int
    loss: float
    test_loss: float | None
    test_metric: float | None
    seconds: float


@dataclass(repr=False)
class History:
    """What a run was and how it went; both parts hold plain values that JSON can write.

    config: the settings. epochs: for each epoch a dict of "epoch"; "loss", the mean over the epoch's
    samples of the loss seen at each step; "test_loss" and "test_metric", None without validation;
    "seconds", the time that its steps took.
    """

    config: dict[str, Any]
    epochs: list[Record] = field(default_factory=list)

    def __repr__(self) -> str:
        """Model, optimizer, the number of epochs, and the figures of the last one."""
        shown = {key: self.config[key] for key in ("model", "optimizer") if key in self.config}
        shown["epochs"] = len(self.epochs)
        last = self.epochs[-1] if self.epochs else {}
        shown |= {key: last[key] for key in ("loss", "test_loss", "test_metric") if last.get(key) is not None}
        return f"History({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


class Diverged(ArithmeticError):
    """A loss or the parameters were not finite. `step`: where, counted from 1 over the whole run."""

    step: int
    reason: str

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(step, reason)
        self.step, self.reason = step, reason

    def __str__(self) -> str:
        return f"training diverged at step {self.step}: {self.reason}"


@ranged
def fit(
    model: Model,
    X: Array,
    t: Array,
    optimizer: Optimizer,
    batch_size: BatchSize = 64,
    epochs: int = 10,
    seed: int = 0,
    *,
    shuffle: bool = True,
    drop_last: bool = False,
    validation: tuple[Array, Array] | None = None,
    first_epoch: int = 0,
    on_step: Callable[[int, Array], object] | None = None,
    on_epoch: Callable[[Record], object] | None = None,
) -> History:
    """Gradient descent: for each batch of each epoch, `optimizer.step` of the model's gradient over it.

    Batch descent is batch_size="full", stochastic 1, mini-batch N: see `minibatches`, which draws the
    order from seed and epoch. One batch of all the samples is not shuffled: its mean is over the same
    set. X: (n, n_features), t: what the model takes; moved to its device and dtype once, at the start.

    Trains the epochs first_epoch .. epochs - 1, so that a run taken up again with the same parameters
    and optimizer state ends with the bits of one that was not interrupted. `validation` is a pair (X, t).
    `on_step(samples, loss)` sees each step's number of samples and its loss, a scalar on the device;
    `on_epoch(record)` each epoch's record, which is then in the History returned.

    Raises Diverged at the end of the epoch in which a loss was first not finite (losses stay on the device
    until then), or after which the parameters are not. Raises ValueError or TypeError naming the
    argument, before the first step: wrong shapes, NaN or infinity, lengths that differ, no samples,
    numbers out of range, an optimizer of other parameters.
    """
    if not hasattr(model, "_loss_and_gradient"):
        raise TypeError(f"model: expected one of gdgpu.models, got {type(model).__name__}")
    X, t = model._prepare(X, t, finite=True)
    starts = batch_starts(len(X), batch_size, flag("drop_last", drop_last))
    if not len(X):
        raise ValueError(f"X: expected one sample or more, got shape {X.shape}")
    if not starts:
        raise ValueError(f"batch_size: expected at most {len(X)} samples with drop_last, got {batch_size}")
    epochs, first_epoch = count("epochs", epochs), count("first_epoch", first_epoch)
    seed, shuffle = count("seed", seed), flag("shuffle", shuffle)
    check_owner(optimizer, model)
    for name, function in (("on_step", on_step), ("on_epoch", on_epoch)):
        if not (function is None or callable(function)):
            raise TypeError(f"{name}: expected a function or None, got {type(function).__name__}")
    validation = _prepare_validation(model, validation)

    history = History(
        {
            "model": model.name,
            "optimizer": optimizer.name,
            **optimizer.current(),
            "batch_size": "full" if batch_size == "full" else starts.step,
            "epochs": epochs,
            "seed": seed,
            "shuffle": shuffle,
            "drop_last": drop_last,
            "samples": len(X),
            "dtype": model.dtype.name,
            "device": model.device.name,
        }
    )
    order = {"shuffle": shuffle and starts.step < len(X), "seed": seed, "drop_last": drop_last}
    for epoch in range(first_epoch, epochs):
        begin = time.perf_counter()
        batches = minibatches(X, t, batch_size=starts.step, epoch=epoch, **order)
        with np.errstate(all="ignore"):  # a run that diverges says so once, by Diverged
            counts, losses = _descend(model, optimizer, batches, on_step)
        _check_finite(losses, model, steps_before=epoch * len(starts))
        record: Record = {
            "epoch": epoch,
            "loss": float(np.average(losses, weights=counts)),
            "test_loss": None,
            "test_metric": None,
            "seconds": time.perf_counter() - begin,
        }
        if validation:
            with np.errstate(all="ignore"):
                record["test_loss"], record["test_metric"] = model._evaluate(*validation)
        history.epochs.append(record)
        if on_epoch:
            on_epoch(record)
    return history


def _descend(
    model: Model,
    optimizer: Optimizer,
    batches: Iterable[tuple[Array, ...]],
    on_step: Callable[[int, Array], object] | None,
) -> tuple[list[int], NDArray[np.float64]]:
    """One epoch of steps: the samples of each, and its loss, in float64 on the host."""
    counts, losses = [], []
    for X, t in batches:
        with turn(model):
            loss = model._step(X, t, optimizer)
        counts.append(len(X))
        losses.append(loss)
        if on_step:
            on_step(len(X), loss)
    return counts, on_host(model.device.xp.stack(losses)).astype("float64")


def _check_finite(losses: NDArray[np.float64], model: Model, steps_before: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise Diverged(steps_before + int(bad[0]) + 1, f"loss is {losses[bad[0]]}")
    for name, array in model.params.items():
        if not model.device.xp.isfinite(array).all():
            raise Diverged(steps_before + len(losses), f"{name} is not finite")


def _prepare_validation(model: Model, validation: tuple[Array, Array] | None) -> tuple[Array, Array] | None:
    if validation is None:
        return None
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation: expected a pair (X, t), got {type(validation).__name__}")
    names = ("validation[0]", "validation[1]")
    X, t = model._prepare(*validation, names=names, finite=True)
    if not len(X):
        raise ValueError(f"{names[0]}: expected one sample or more, got shape {X.shape}")
    return X, t
