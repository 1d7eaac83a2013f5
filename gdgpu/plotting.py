"""The picture of a run: its losses and its metric, epoch by epoch."""

import os


def check(path):
    """Raise a ValueError if `plot` could not draw to `path`: no matplotlib, or no such format."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ValueError('plot: needs matplotlib; pip install "gdgpu[plot]"') from None
    known = FigureCanvasAgg.get_supported_filetypes()
    if _format(path) not in known:
        raise ValueError(f"plot: expected a file named .png, .pdf or .svg, got {path}")


def plot(path, epochs, metric_name, title=""):
    """Draw the losses (left) and the test metric (right) of History.epochs to `path`, atomically.

    The training loss of an epoch is the mean of the losses seen at its steps, while the parameters moved; the
    test loss is taken after it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from .files import replacing

    tested = any(record["test_loss"] is not None for record in epochs)
    figure = Figure(figsize=(9.6, 4) if tested else (5.6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if tested else 1, squeeze=False)[0]
    number = [record["epoch"] + 1 for record in epochs]

    def curve(axis, key, color, label):
        values = [float("nan") if record[key] is None else record[key] for record in epochs]
        axis.plot(number, values, color=color, label=label, marker="o" if len(values) < 2 else None, linewidth=2)

    curve(axes[0], "loss", "#4269d0", "training")
    if tested:
        curve(axes[0], "test_loss", "#ff725c", "test")
        curve(axes[1], "test_metric", "#ff725c", "test")
        axes[1].set_ylabel({"R^2": "$R^2$"}.get(metric_name, metric_name))
    axes[0].set_ylabel("loss")
    if all((record["loss"] or 0) > 0 for record in epochs):
        axes[0].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.suptitle(title)
    with replacing(path) as file:
        figure.savefig(file, format=_format(path), dpi=160)


def _format(path):
    return os.path.splitext(path)[1].lower().removeprefix(".")
