"""Descent in a ravine: SGD bounces from wall to wall, momentum at the same learning rate settles sooner.

Run: python examples/ravine.py [FOLDER]        writes ravine.png and ravine.gif there, or to a new temporary folder
"""

import sys

import numpy as np
from drawing import COLORS, figure, finish, path, save

import gdgpu

CURVATURE = np.array([1.0, 40.0])  # along the ravine, across it
START, LR, STEPS = (-10.0, 1.0), 1.95 / 40, 60  # SGD diverges from 2 / 40 on
DESCENTS = {
    "SGD": lambda w: gdgpu.SGD(w, lr=LR),
    "SGD with momentum 0.6": lambda w: gdgpu.Momentum(w, lr=LR, momentum=0.6),
}


def height(w):
    """(w_1^2 + 40 w_2^2) / 2"""
    return (w**2 @ CURVATURE) / 2


def main(folder=None, steps=STEPS, every=1):
    paths = {name: path(descent, lambda w: CURVATURE * w, START, steps) for name, descent in DESCENTS.items()}

    picture = figure(height=4.6)
    grid = picture.add_gridspec(2, 2, width_ratios=(3, 2))
    loss = picture.add_subplot(grid[:, 1])
    finish(loss, xlabel="step", ylabel="loss", yscale="log", xlim=(0, steps), ylim=(1e-8, 1e4))
    x, y = np.meshgrid(np.linspace(-11, 4, 200), np.linspace(-1.3, 1.3, 100))
    drawn = []
    for row, (color, name) in enumerate(zip(COLORS, paths, strict=False)):
        walls = picture.add_subplot(grid[row, 0])
        walls.contour(x, y, height(np.stack([x, y], -1)), levels=np.geomspace(0.3, 60, 9), colors="0.75", linewidths=1)
        finish(walls, xlabel="$w_1$ (along)" if row else "", ylabel="$w_2$ (across)")
        walls.set_title(name, color=color, fontsize=10)
        trail = walls.plot([], [], "o-", color=color, linewidth=1.5, markersize=3)[0]
        curve = loss.plot([], [], color=color, linewidth=2, label=name)[0]
        drawn.append((trail, curve, paths[name]))
    loss.legend(frameon=False, loc="upper right")

    def draw(step):
        for trail, curve, w in drawn:
            trail.set_data(*w[: step + 1].T)
            curve.set_data(range(step + 1), height(w[: step + 1]))

    save(picture, draw, range(0, steps + 1, every), folder, "ravine")
    for name, w in paths.items():
        print(f"{name:22} loss {height(w[-1]):.2g} after {steps} steps")
    return paths


if __name__ == "__main__":
    main(*sys.argv[1:])
