"""Robust regression: per-sample weights shrink the gradients of outliers, reduced and applied in one pass.

Run: python examples/weighted_samples.py
"""

import numpy as np

import gdgpu


def main():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((5_000, 8)).astype("float32")
    truth = np.arange(1, 9, dtype="float32")
    t = X @ truth + 0.1 * rng.standard_normal(5_000).astype("float32")
    t[::10] += 100  # every tenth target is wrong

    model = gdgpu.models.LinearRegression(8, device="cpu")
    opt = gdgpu.Momentum(model.params, lr=lambda step: 0.02 / (1 + step / 200))
    for epoch in range(20):
        for x, y in gdgpu.minibatches(X, t, batch_size=100, epoch=epoch):
            # Huber: errors beyond 1 pull no harder than an error of 1.
            error = np.abs(model.predict(x) - y)
            opt.step_samples(model.per_sample_gradients(x, y), weights=1 / np.maximum(error, 1))

    worst = float(np.abs(model.params["weight"][:, 0] - truth).max())
    print(f"largest error of a weight: {worst:.3f}")
    return worst


if __name__ == "__main__":
    main()
