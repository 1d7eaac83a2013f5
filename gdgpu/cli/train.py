"""One training run from a file to a table: what `gdgpu train` does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

import gdgpu

from .. import datasets, models
from ..core.checks import count
from ..core.files import check_writable, write_json
from ..datasets.formats import LARGEST
from ..datasets.minibatches import batch_starts
from ..devices import resolve
from ..training import fit
from . import plotting, progress, resume
from .info import describe
from .options import HIDDEN, MODELS, OPTIMIZERS, RATES, TASKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..devices import Device
    from ..optimizers.base import Optimizer
    from .options import Options


def train(options: Options) -> None:
    """Check everything, train, write the files asked for, show the table. options: options.Options.

    Raises ValueError or TypeError naming the option, OSError, Diverged.
    """
    _check_outputs(options)
    replaced = None if options.resume else resume.check_replaceable(options.checkpoint, options.epochs)
    session = Session(options)
    session.note(session.left_out)
    session.note(resume.restore(session, options.checkpoint) if options.resume else replaced)
    session.train()
    if options.history:
        write_json(options.history, {"config": session.config, "epochs": session.epochs})
    if options.plot:
        title = f"{session.source}: {session.model.name}, {options.optimizer}"
        plotting.plot(options.plot, session.epochs, session.model.metric_name, title)
    if not options.quiet:
        progress.show_table(session.summary())


class Session:
    """Data, model and optimizer of a run, and how far it is: `epochs` holds the records of its History."""

    def __init__(self, options: Options) -> None:
        self.options, self.epochs = options, []
        device = resolve(options.device)
        count("epochs", options.epochs, least=1)
        data = datasets.load(options.data, options.target, options.header)
        name, t, self.labels, reason = _choose_model(data, options.model, options.task)
        taken = f"{len(self.labels)} classes" if self.labels else "numbers"
        self.notes = data.notes | {"target": f"{taken}: {reason}"}
        self.split = datasets.split(data.X, t, options.test_fraction, options.seed, options.standardize)
        self.model = _new_model(name, self.split, self.labels, options, device)
        self.optimizer, self.hyper = self._new_optimizer()
        self.source = data.source
        self.fingerprint = data.fingerprint() if options.checkpoint else None

    def _new_optimizer(self) -> tuple[Optimizer, dict[str, Any]]:
        options, row = self.options, OPTIMIZERS[self.options.optimizer]
        given = {"lr": options.lr, "momentum": options.momentum}
        given = {name: value for name, value in given.items() if value is not None}
        if given.keys() - {"lr", *row.defaults}:
            raise ValueError(f"momentum: {options.optimizer} takes none, got {options.momentum}")
        hyper = {"lr": 0.0} | row.defaults | given
        optimizer = getattr(gdgpu, row.new)(self.model.params, **hyper, **row.fixed)
        batch_size = batch_starts(len(self.split.X), options.batch_size).step
        if "lr" not in row.defaults | given:
            rate = RATES[self.model.criterion.kind]
            if self.model.name == "poisson":  # whose curvature grows with the counts
                rate /= 1 + self.split.t.mean(dtype=np.float64)
            optimizer.lr = default_lr(rate, hyper.get("momentum", 0), batch_size, self.split.X)
        return optimizer, hyper | {"lr": optimizer.lr}

    @property
    def settings(self) -> dict[str, Any]:
        """All that the bits of the result depend on, but for the number of epochs."""
        options, model = self.options, self.model
        return {
            "model": model.name,
            "features": model.n_features,
            "outputs": model.n_outputs,
            **_particular_settings(model),
            "dtype": model.dtype.name,
            "optimizer": options.optimizer,
            **self.hyper,
            "batch_size": options.batch_size,
            "seed": options.seed,
            "test_fraction": options.test_fraction,
            "standardize": options.standardize,
        }

    @property
    def config(self) -> dict[str, Any]:
        """What --history keeps: the settings, and where they were applied."""
        return self.settings | {
            "task": "classification" if self.labels else "regression",
            "epochs": len(self.epochs),
            "data": self.source,
            "labels": self.labels,
            "training_samples": len(self.split.X),
            "test_samples": len(self.split.X_test),
            "device": self.model.device.name,
            "version": gdgpu.__version__,
        }

    def train(self) -> None:
        """Train the epochs that are missing, and write a checkpoint after each."""
        options, split, done = self.options, self.split, len(self.epochs)
        if done >= options.epochs:
            return

        def on_epoch(record: dict[str, Any]) -> None:
            self.epochs.append(record)
            if options.checkpoint:
                resume.store(self, options.checkpoint)

        watched = not options.quiet and progress.is_terminal()
        with progress.TrainingBar(self) if watched else nullcontext() as bar:
            fit(
                self.model,
                split.X,
                split.t,
                self.optimizer,
                batch_size=options.batch_size,
                epochs=options.epochs,
                seed=options.seed,
                validation=(split.X_test, split.t_test) if len(split.X_test) else None,
                first_epoch=done,
                on_step=bar and bar.on_step,
                on_epoch=on_epoch,
            )

    @property
    def left_out(self) -> str | None:
        """Which columns were no features, if any."""
        return f"{self.source}: left out {self.notes['left out']}" if "left out" in self.notes else None

    def note(self, text: str | None) -> None:
        """Tell the user, unless asked to be quiet."""
        if text and not self.options.quiet:
            progress.note(text)

    def summary(self) -> list[tuple[str, object]]:
        """Rows of the final table."""
        split, model, last = self.split, self.model, self.epochs[-1]
        samples = f"{len(split.X)} training and {len(split.X_test)} test samples"
        hyper = ", ".join(f"{name} {value:g}" for name, value in self.hyper.items())
        particular = [
            f"{name} {','.join(f'{v:g}' for v in np.ravel(value))}"
            for name, value in _particular_settings(model).items()
        ]
        tested = last["test_loss"] is not None
        return [
            ("data", f"{self.source}, {samples} of {model.n_features} features"),
            *self.notes.items(),
            ("model", ", ".join([model.name, *particular])),
            ("optimizer", f"{self.options.optimizer}, {hyper}, batch size {self.options.batch_size}"),
            ("device", describe(model.device)),
            ("epochs", len(self.epochs)),
            ("training loss", _shown(last["loss"])),
            ("test loss", _shown(last["test_loss"]) if tested else None),
            (f"test {model.metric_name}", _shown(last["test_metric"]) if tested else None),
            ("seconds", f"{sum(record['seconds'] for record in self.epochs):.2f}"),
        ]


def default_lr(rate: float, momentum: float, batch_size: int, X: NDArray[Any]) -> float:
    """rate * (1 - momentum) * B / (B + 32) / (1 + mean |x|^2), to two digits.

    Stable for every batch size and scale of the features: squared error has a curvature of at most
    2 (1 + |x|^2) along a sample, momentum multiplies the step by 1 / (1 - momentum), and the noisy gradient of
    a small batch takes a small step.
    """
    square = np.einsum("ij,ij->", X, X, dtype=np.float64) / len(X)
    return float(f"{rate * (1 - momentum) * batch_size / (batch_size + 32) / (1 + square):.2g}")


def _choose_model(
    data: datasets.Dataset, name: str | None, task: str | None
) -> tuple[str, NDArray[Any], list[Any] | None, str]:
    """(name, targets, labels or None, why), the model after the kind of the targets unless asked for."""
    asked, taken = TASKS.get(task), name and MODELS[name].kind
    if asked and taken and asked != taken:
        raise ValueError(f"model: {name} takes {taken}, which is not --task {task}")
    kind = asked or taken or data.kind
    reason = f"--task {task}" if asked else f"--model {name}" if taken else data.reason
    if kind == "values":
        return name or "linear", data.values(), None, reason
    t, labels = data.classes()
    if name == "logistic" and len(labels) != 2:
        raise ValueError(f"model: logistic takes 2 classes, {data.source} has {len(labels)}; try softmax")
    return name or ("logistic" if len(labels) == 2 else "softmax"), t, labels, reason


def _new_model(
    name: str, split: datasets.Split, labels: list[Any] | None, options: Options, device: Device
) -> models.base.Model:
    """A model for these samples."""
    new, n_features, values = getattr(models, MODELS[name].new), split.X.shape[1], split.t.shape[1:]
    if name == "mlp":
        loss, outputs = ("softmax", len(labels)) if labels else ("squared", (*values, 1)[0])
        sizes = n_features, *_hidden(options.hidden or HIDDEN), outputs
        return new(sizes, loss=loss, seed=options.seed, device=device)
    if options.hidden is not None:
        raise ValueError(f"hidden: expected --model mlp with it, got {name}")
    outputs = {"linear": values, "huber": values, "softmax": (len(labels or ()),)}.get(name, ())
    settings = {"delta": _spread(split.t)} if name == "huber" else {}
    return new(n_features, *outputs, **settings, device=device)


def _spread(t: NDArray[Any]) -> float:
    """Twice the median distance of targets from their median, about 1.35 deviations of normal ones; 1 where it is 0."""
    with np.errstate(over="ignore"):
        return min(2 * float(np.median(abs(t - np.median(t, axis=0)))), LARGEST) or 1.0


def _particular_settings(model: Any) -> dict[str, Any]:
    """Those that not every model has."""
    if model.name == "mlp":
        return {"hidden": list(model.sizes[1:-1])}
    return {"delta": model.criterion.delta} if model.name == "huber" else {}


def _hidden(text: str) -> Iterator[int]:
    """The sizes of hidden layers, of text such as 128,64."""
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        raise ValueError(f"hidden: expected sizes >= 1 with commas between them, got {text!r}")
    return map(int, sizes)


def _check_outputs(options: Options) -> None:
    if options.resume and options.checkpoint is None:
        raise ValueError("resume: needs --checkpoint FILE.safetensors")
    used = {os.path.realpath(path): name for name, path in (("DATA", options.data),) if path}
    for name in ("target", "plot", "history", "checkpoint"):
        path = getattr(options, name)
        if path is None:
            continue
        if (real := os.path.realpath(path)) in used and name != "target":
            raise ValueError(f"{name}: {path} is the file of {used[real]} already")
        used[real] = f"--{name}"
        if name != "target":
            check_writable(path, name)
    if options.plot is not None:
        plotting.check(options.plot)


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
