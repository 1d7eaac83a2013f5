"""Batch, mini-batch and stochastic descent on least squares: loss against epochs and seconds, and each step's noise.

Run: python examples/batches.py [FOLDER]    writes batches.png and batches.gif there, or to a new folder; takes 1 GB
"""

import sys
import time

import numpy as np
from drawing import race

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
    size, ratio = len(X) if batch_size == "full" else batch_size, X.shape[1] / len(X)
    lr = 0.5 / ((1 + ratio**0.5) ** 2 + X.shape[1] / size)  # half the largest curvature, and the noise of a batch
    for is_first in (True, False):
        model = gdgpu.models.LinearRegression(X.shape[1])
        optimizer = gdgpu.SGD(model.params, lr / size)
        if is_first:
            model.step(X[:size], t[:size], optimizer, reduction="sum")  # compiles
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


def main(folder=None, samples=10_000, features=10_000, frames=40):
    X, t = map(gdgpu.devices.resolve(None).xp.asarray, problem(samples, features))
    runs = {name: descend(X, t, *how) for name, how in DESCENTS.items()}
    race(runs, frames, folder, "batches")
    for name, (looked, steps) in runs.items():
        print(f"{name:14} loss {looked[-1, 2]:.3f} after {looked[-1, 1]:.2f} s, noise {noise(looked, steps):.2f}")
    return runs


if __name__ == "__main__":
    main(*sys.argv[1:])
