"""Clipping each sample's gradient, without privacy: a few wild samples no longer decide where a batch goes.

Run: python examples/clipping.py
"""

import numpy as np

import gdgpu


def problem(samples, features):
    """Least squares whose errors have such heavy tails that their variance is infinite (Student's t, 1.5 degrees)."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((samples, features), "float32")
    truth = np.linspace(-1, 1, features, dtype="float32")
    return X, X @ truth + rng.standard_t(1.5, samples).astype("float32"), truth


def train(X, t, quantile=None, epochs=10, batch_size=64):
    """The weights, with the gradients whose norm is above this quantile of all norms clipped to it."""
    model = gdgpu.models.LinearRegression(X.shape[1])
    X, t = map(model.device.xp.asarray, (X, t))
    opt = gdgpu.SGD(model.params, lr=lambda step: 0.05 / (1 + step / 100))
    for epoch in range(epochs):
        max_norm = None
        if quantile is not None:
            # Gradients shrink as the model learns: what is large is asked again, of a few samples, every epoch.
            max_norm = float(model.device.xp.quantile(model.sample_norms(X[:1000], t[:1000]), quantile))
        for x, y in gdgpu.minibatches(X, t, batch_size=batch_size, epoch=epoch):
            # Gradients that are at hand, G: opt.step_samples(G, max_norm=max_norm), with gdgpu.sample_norms(G).
            model.step(x, y, opt, max_norm=max_norm)
    return gdgpu.devices.on_host(model.params["weight"])[:, 0]


def main(samples=10_000, features=20):
    X, t, truth = problem(samples, features)
    errors = {}
    for name, quantile in (("mean", None), ("clipped at the 90 % quantile", 0.9), ("at the median", 0.5)):
        errors[name] = float(np.linalg.norm(train(X, t, quantile) - truth))
        print(f"{name:28} distance from the true weights {errors[name]:.3f}")
    return errors


if __name__ == "__main__":
    main()
