"""Differentially private training: DP-SGD (Abadi et al. 2016, arXiv:1607.00133) of a softmax regression on the digits.

Run: pip install dp-accounting && python examples/private_training.py

The epsilon printed holds for adding or removing one training sample, in exact arithmetic; how many there are is taken
as public. Not claimed: that rounding hides what it should (Mironov 2012: the low bits of floating-point noise can give
a value away), that Philox withstands cryptanalysis, or anything about settings that were chosen by looking at the
data: each trial of a search costs privacy too. The seed must stay secret, and must not be used for a second training.
"""

import secrets

import numpy as np

import gdgpu


def train(model, optimizer, X, t, rate, max_norm, noise, steps, seed):
    """Steps by the sum of clipped gradients, plus noise of deviation noise * max_norm, over the expected batch size."""
    xp = model.device.xp
    for step in range(steps):
        # A counter far from every other step's, so that no random number is used twice. Drawn on the host: CuPy's
        # Philox4x3210 keeps 32 bits of its seed, few enough to try them all, NumPy's has a key of 128.
        random = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
        # Poisson sampling: each sample is in or out by itself. The accounting is of this, not of shuffled batches.
        rows = xp.asarray(np.flatnonzero(random.random(len(X)) < rate))
        # The sum, not the mean: one sample moves it by max_norm at most. An empty batch is a step too, of noise.
        _, grads = model.gradient(X[rows], t[rows], max_norm=max_norm, reduction="sum")
        for grad in grads.values():
            grad += xp.asarray(noise * max_norm * random.standard_normal(grad.shape, grad.dtype))
            grad /= rate * len(X)  # never len(rows): how many were drawn is private
        optimizer.step(grads)


def epsilon(rate, noise, steps, delta):
    """What `steps` such steps spend at this delta; None where dp-accounting is not installed."""
    try:
        import dp_accounting
    except ImportError:
        return None
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return dp_accounting.pld.PLDAccountant().compose(step, steps).get_epsilon(delta)


def main(rate=0.2, max_norm=1.0, noise=6.0, steps=300, lr=2.0, delta=1e-4, seed=None):
    digits = gdgpu.datasets.digits()
    data = gdgpu.datasets.split(digits.X / 16, digits.t, standardize=False)  # mean and deviation would be private
    model = gdgpu.models.SoftmaxRegression(64, 10)
    X, t, X_test, t_test = map(model.device.xp.asarray, (data.X, data.t, data.X_test, data.t_test))
    seed = secrets.randbits(128) if seed is None else seed
    train(model, gdgpu.SGD(model.params, lr), X, t, rate, max_norm, noise, steps, seed)
    accuracy, spent = model.metric(X_test, t_test), epsilon(rate, noise, steps, delta)
    known = "unknown (pip install dp-accounting)" if spent is None else f"{spent:.2f}"
    print(f"test accuracy {accuracy:.3f}, epsilon {known} at delta {delta:g}, {len(X)} training samples")
    return accuracy, spent


if __name__ == "__main__":
    main()
