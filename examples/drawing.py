"""What the pictures of ball.py, ravine.py and batches.py share. Needs matplotlib: pip install -e ".[plot]"."""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.figure import Figure

COLORS = "#0072b2", "#d55e00", "#009e73"


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
    """Write folder/name.png, the last frame, and folder/name.gif, all of them; draw(frame) changes the figure.

    folder None: a new temporary one. Prints where they are.
    """
    folder = Path(folder or tempfile.mkdtemp(prefix="gdgpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    draw(frames[-1])
    figure.savefig(folder / f"{name}.png", dpi=160, pil_kwargs={"optimize": True})
    figure.set_layout_engine("none")  # as it is now in every frame
    shown = [*frames, *[frames[-1]] * (2 * fps)]  # two seconds
    FuncAnimation(figure, draw, shown).save(folder / f"{name}.gif", PillowWriter(fps), dpi=100)
    print(f"pictures: {folder / name}.png, {folder / name}.gif")


def race(runs, frames, folder, name):
    """The picture of descents, label -> (looked, steps): losses against epochs, with those that steps see, and seconds.

    looked: (epochs, seconds, loss over all samples) rows; steps: (epochs, loss over its batch) rows.
    """
    picture = figure(height=4)
    axes = picture.subplots(1, 2, sharey=True)
    finish(axes[0], xlabel="epochs", ylabel="loss", yscale="log", ylim=(3e-3, 10))
    finish(axes[1], xlabel="seconds", xscale="log")
    first, last = (pick(looked[k, 1] for looked, _ in runs.values()) for pick, k in ((min, 1), (max, -1)))
    times = np.geomspace(first, last, frames)
    axes[0].set_xlim(-0.3, max(looked[-1, 0] for looked, _ in runs.values()))
    axes[1].set_xlim(first, last)
    drawn = []
    for color, (label, (looked, steps)) in zip(COLORS, runs.items(), strict=False):
        dots = axes[0].plot([], [], ".", color=color, alpha=0.3, markersize=4)[0]
        lines = [axis.plot([], [], color=color, linewidth=2, label=label)[0] for axis in axes]
        drawn.append((dots, lines, looked, steps[:: -(-len(steps) // 300)]))
    axes[1].legend(frameon=False, title="descent: samples a step")

    def draw(now):
        for dots, lines, looked, steps in drawn:
            past = looked[looked[:, 1] <= now]
            dots.set_data(*steps[steps[:, 0] <= past[-1, 0]].T)
            lines[0].set_data(past[:, 0], past[:, 2])
            lines[1].set_data(past[1:, 1], past[1:, 2])

    save(picture, draw, times, folder, name)
