"""A ball on a surface with two minima: SGD stops in the first, momentum carries it on to the lower one.

Run: python examples/ball.py [FOLDER]        writes ball.png and ball.gif there, or to a new temporary folder
"""

import sys

import numpy as np
from drawing import COLORS, figure, finish, path, save

import gdgpu

START, LR, STEPS = 1.7, 0.01, 100
BALLS = {
    "SGD": lambda w: gdgpu.SGD(w, lr=LR),
    "SGD with momentum 0.9": lambda w: gdgpu.Momentum(w, lr=LR, momentum=0.9),
}


def surface(w):
    """Minima at w = -1.04, the lower one, and w = 0.96; a hill at 0.08 between them."""
    return (w**2 - 1) ** 2 + 0.3 * w


def slope(w):
    return 4 * w * (w**2 - 1) + 0.3


def main(folder=None, steps=STEPS, every=1):
    paths = {name: path(ball, slope, [START], steps)[:, 0] for name, ball in BALLS.items()}

    picture = figure()
    hill, loss = picture.subplots(1, 2)
    hill.plot(w := np.linspace(-1.75, 1.75, 300), surface(w), color="0.6")
    finish(hill, xlabel="w", ylabel="loss", xticks=(-1, 0, 1))
    finish(loss, xlabel="step", ylabel="loss", xlim=(0, steps), ylim=hill.get_ylim())
    drawn = []
    for color, name, size in zip(COLORS, paths, (4, 3), strict=False):
        trail = hill.plot([], [], "o", color=color, alpha=0.35, markersize=size)[0]
        ball = hill.plot([], [], "o", color=color, markersize=12, markeredgecolor="white")[0]
        curve = loss.plot([], [], color=color, linewidth=2, label=name)[0]
        drawn.append((trail, ball, curve, paths[name]))
    loss.legend(frameon=False)

    def draw(step):
        hill.set_title(f"after {step} steps", fontsize=10)
        for trail, ball, curve, w in drawn:
            trail.set_data(w[: step + 1], surface(w[: step + 1]))
            ball.set_data(w[step : step + 1], surface(w[step : step + 1]))
            curve.set_data(range(step + 1), surface(w[: step + 1]))

    save(picture, draw, range(0, steps + 1, every), folder, "ball")
    for name, w in paths.items():
        print(f"{name:22} stops at w = {w[-1]:.2f}, loss {surface(w[-1]):.2f}")
    return paths


if __name__ == "__main__":
    main(*sys.argv[1:])
