"""The pictures of a run, epoch by epoch, and of several side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without the pale yellow: told apart by colour-blind eyes, legible on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def check(path: str) -> None:
    """Raise a ValueError if `plot` could not draw to `path`: no matplotlib, or no such format."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ValueError('plot: needs matplotlib; pip install "gdgpu[plot]"') from None
    known = FigureCanvasAgg.get_supported_filetypes()
    if _format(path) not in known:
        raise ValueError(f"plot: expected a file named .png, .pdf or .svg, got {path}")


def plot(path: str, epochs: list[dict[str, Any]], metric_name: str, title: str = "") -> None:
    """Draw the losses (left) and the test metric (right) of History.epochs to `path`, atomically.

    The training loss of an epoch is the mean of the losses seen at its steps, while the parameters moved; the
    test loss is taken after it.
    """
    tested = any(record["test_loss"] is not None for record in epochs)
    figure = _figure(9.6 if tested else 5.6, 4)
    axes = figure.subplots(1, 2 if tested else 1, squeeze=False)[0]
    number = [record["epoch"] + 1 for record in epochs]

    def curve(axis: Axes, key: str, color: str, label: str) -> None:
        values = [float("nan") if record[key] is None else record[key] for record in epochs]
        axis.plot(number, values, color=color, label=label, marker="o" if len(values) < 2 else None, linewidth=2)

    curve(axes[0], "loss", "#4269d0", "training")
    if tested:
        curve(axes[0], "test_loss", "#ff725c", "test")
        curve(axes[1], "test_metric", "#ff725c", "test")
        axes[1].set_ylabel({"R^2": "$R^2$"}.get(metric_name, metric_name))
    axes[0].set_ylabel("loss")
    if all((record["loss"] or 0) > 0 for record in epochs):
        _logarithmic(axes[0], "y")
    for axis in axes:
        _finish(axis, epochs=True)
        axis.legend(frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def plot_runs(path: str, lines: Mapping[tuple[str, ...], tuple[Any, Any, Any] | None], title: str = "") -> None:
    """Draw training losses against epochs (left) and seconds (right) to `path`, atomically.

    lines: {label: (epochs, seconds, losses)}: the seconds since the start at the end of each epoch, and the losses
    of one seed or more, (seeds, epochs). A line is the mean of the seeds; a band reaches from the lowest to the
    highest. None in place of the three: a run that diverged. A label is a tuple: the first part has a colour, the
    rest a style.
    """
    figure = _figure(9.6, 4.4)
    axes = figure.subplots(1, 2, sharey=True)
    colors = dict(zip(dict.fromkeys(first for first, *_ in lines), cycle(COLORS), strict=False))
    styles = dict(zip(dict.fromkeys(label[1:] for label in lines), cycle(("-", "--", ":", "-.")), strict=False))
    for label, drawn in lines.items():
        look = {"color": colors[label[0]], "linestyle": styles[label[1:]], "linewidth": 2}
        if drawn is None:
            axes[0].plot([], [], label=", ".join([*label, "diverged"]), **look)
            continue
        *places, losses = drawn
        mark = "o" if losses.shape[1] == 1 else None
        for axis, x in zip(axes, places, strict=True):
            axis.plot(x, losses.mean(axis=0), label=", ".join(label), marker=mark, **look)
            axis.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=look["color"], alpha=0.2, linewidth=0)
    if all(drawn is None or (drawn[2] > 0).all() for drawn in lines.values()):
        _logarithmic(axes[0], "y")
    axes[0].set_ylabel("training loss")
    _logarithmic(axes[1], "x")  # runs differ by powers of ten: a batch of 1 against all samples at once
    axes[1].set_xlabel("seconds")
    _finish(axes[0], epochs=True)
    _finish(axes[1])
    handles, labels = axes[0].get_legend_handles_labels()
    columns = max(1, 110 // (max(map(len, labels)) + 10))  # a line holds about as many characters
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(title)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axis: Axes, epochs: bool = False) -> None:
    from matplotlib.ticker import MaxNLocator

    if epochs:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _logarithmic(axis: Axes, which: str) -> None:
    """A logarithmic axis whose labels stay apart, over half a decade or over eight."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set(**{f"{which}scale": "log"})
    scale = getattr(axis, f"{which}axis")
    scale.set_major_locator(LogLocator(subs=(1, 3)))
    scale.set_major_formatter(StrMethodFormatter("{x:g}"))
    scale.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: str) -> None:
    from ..core.files import replacing

    with replacing(path) as file:
        figure.savefig(file, format=_format(path), dpi=160)


def _format(path: str) -> str:
    return os.path.splitext(path)[1].lower().removeprefix(".")
