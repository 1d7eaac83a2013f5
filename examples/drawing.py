"""What the pictures of ball.py, ravine.py and batches.py share. Needs matplotlib: pip install -e ".[plot]"."""

from pathlib import Path

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from gdgpu.cli.plotting import COLORS  # noqa: F401

PICTURES = Path(__file__).parent / "pictures"


def path(optimizer, gradient, start, steps):
    """Where an optimizer goes from `start`, (steps + 1, parameters); optimizer: made from the parameters."""
    w = np.array(start, "float64")
    run, points = optimizer(w), [w.copy()]
    for _ in range(steps):
        run.step(gradient(w))
        points.append(w.copy())
    return np.array(points)


def figure(height=3.6):
    """An empty figure, 8 inches wide: 800 pixels as a GIF, 1280 as a PNG."""
    return Figure(figsize=(8, height), layout="constrained")


def finish(axis, **labels):
    """Axis labels, titles and limits; no box."""
    axis.set(**labels)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure, draw, frames, folder, name, fps=10):
    """Write folder/name.png, the last frame, and folder/name.gif, all of them; draw(frame) changes the figure."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw(frames[-1])
    figure.savefig(folder / f"{name}.png", dpi=160, pil_kwargs={"optimize": True})
    figure.set_layout_engine("none")  # as it is now in every frame
    held = [*frames, *[frames[-1]] * (2 * fps)]  # two seconds
    FuncAnimation(figure, draw, held).save(folder / f"{name}.gif", PillowWriter(fps), dpi=100)
