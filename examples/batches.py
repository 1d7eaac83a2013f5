"""Batch, mini-batch and stochastic descent on least squares: loss against epochs and seconds, and each step's noise.

Run: python examples/batches.py [FOLDER]        writes batches.png and batches.gif; takes 1 GB of memory
"""

import sys
import time

import numpy as np
from drawing import COLORS, PICTURES, figure, finish, save

import gdgpu

DESCENTS = {"batch: all": ("full", 20), "mini-batch: 64": (64, 5), "stochastic: 1": (1, 5)}  # batch size, epochs


def problem(samples, features):
    """Independent features of deviation 1, targets of deviation 1 and a tenth of noise, float32."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((samples, features), "float32")
    w = rng.standard_normal(features, "float32") / np.float32(features**0.5)
    return X, X @ w + np.float32(0.1) * rng.standard_normal(samples, "float32")


def descend(X, t, batch_size, epochs, looks=20):
    """(epochs, seconds, loss over all samples), `looks` an epoch; (epochs, loss over its batch) of every step."""
    size = len(X) if batch_size == "full" else batch_size
    ratio = X.shape[1] / len(X)
    lr = 0.5 / ((1 + ratio**0.5) ** 2 + X.shape[1] / size)  # half the largest curvature, and the noise of a batch

    def start():
        model = gdgpu.models.LinearRegression(X.shape[1])
        return model, gdgpu.SGD(model.params, lr / size)

    model, optimizer = start()
    model.step(X[:size], t[:size], optimizer, reduction="sum")  # compiles
    model, optimizer = start()
    seen, seconds, looked, steps = 0, 0.0, [(0, 0, float(model.loss(X, t)))], []
    for _ in range(epochs):
        begin = time.perf_counter()
        for x, y in gdgpu.minibatches(X, t, batch_size=batch_size, shuffle=False):  # random already: views, no copies
            # "sum", and lr / size: the last batch, which is shorter, counts for as much less
            steps.append((seen / len(X), float(model.step(x, y, optimizer, reduction="sum"))))
            seen += len(x)
            if seen * looks // len(X) > (seen - len(x)) * looks // len(X):
                seconds += time.perf_counter() - begin
                looked.append((seen / len(X), seconds, float(model.loss(X, t))))
                begin = time.perf_counter()
    return np.array(looked), np.array(steps)


def noise(looked, steps):
    """Deviation, over the first epoch, of the loss that a step sees from the loss over all samples; relative."""
    first = steps[steps[:, 0] < 1]
    return np.std(first[:, 1] / np.interp(first[:, 0], looked[:, 0], looked[:, 2]))


def main(folder=PICTURES, samples=10_000, features=10_000, frames=40):
    X, t = map(gdgpu.devices.resolve(None).xp.asarray, problem(samples, features))
    runs = {name: descend(X, t, *how) for name, how in DESCENTS.items()}

    picture = figure(height=4)
    axes = picture.subplots(1, 2, sharey=True)
    finish(axes[0], xlabel="epochs", ylabel="loss", yscale="log", ylim=(3e-3, 10))
    finish(axes[1], xlabel="seconds", xscale="log")
    last = max(looked[-1, 1] for looked, _ in runs.values())
    times = np.geomspace(min(looked[1, 1] for looked, _ in runs.values()), last, frames)
    axes[0].set_xlim(-0.3, max(epochs for _, epochs in DESCENTS.values()))
    axes[1].set_xlim(times[0], last)
    drawn = []
    for color, (name, (looked, steps)) in zip(COLORS, runs.items(), strict=False):
        dots = axes[0].plot([], [], ".", color=color, alpha=0.3, markersize=4)[0]
        lines = [axis.plot([], [], color=color, linewidth=2, label=name)[0] for axis in axes]
        drawn.append((dots, lines, looked, steps[:: -(-len(steps) // 300)]))
    axes[1].legend(frameon=False, title="descent: samples a step")

    def draw(now):
        for dots, lines, looked, steps in drawn:
            past = looked[looked[:, 1] <= now]
            dots.set_data(*steps[steps[:, 0] <= past[-1, 0]].T)
            lines[0].set_data(past[:, 0], past[:, 2])
            lines[1].set_data(past[1:, 1], past[1:, 2])

    save(picture, draw, times, folder, "batches")
    for name, (looked, steps) in runs.items():
        print(f"{name:14} loss {looked[-1, 2]:.3f} after {looked[-1, 1]:.2f} s, noise {noise(looked, steps):.2f}")
    return runs


if __name__ == "__main__":
    main(*sys.argv[1:])
