"""Differentially private training: DP-SGD (Abadi et al. 2016, arXiv:1607.00133) of a softmax regression on the digits.

Run: pip install -e ".[private]" && python examples/private_training.py

The epsilon holds for adding or removing one training sample, in exact arithmetic; how many there are is public. Not
claimed: that rounding hides what it should (Mironov 2012: low bits of noise can give a value away), that Philox is a
cipher, or anything about settings tuned on the data: each trial costs privacy. Keep the seed secret, for one training.
"""

import numpy as np

import gdgpu


def randoms(seed, step):
    """The random numbers of one step: its counter is far from every other step's, so that none is used twice."""
    # On the host: CuPy's Philox4x3210 keeps 32 bits of its seed, few enough to try them all; this key has 128.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))


def private_gradient(model, X, t, rate, max_norm, noise, random):
    """The sum of clipped gradients, plus noise of deviation noise * max_norm, over the expected batch size."""
    # Poisson sampling: each sample is in or out by itself. The accounting is of this, not of shuffled batches.
    rows = model.device.xp.asarray(np.flatnonzero(random.random(len(X)) < rate))
    # The sum, not the mean: one sample moves it by max_norm at most. An empty batch is a step too, of noise.
    _, grads = model.gradient(X[rows], t[rows], max_norm=max_norm, reduction="sum")
    for grad in grads.values():
        grad += model.device.xp.asarray(random.normal(0, noise * max_norm, grad.shape))
        grad /= rate * len(X)  # never len(rows): how many were drawn is private
    return grads


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
    optimizer = gdgpu.SGD(model.params, lr)
    seed = np.random.SeedSequence(seed).entropy  # None: 128 bits from the operating system
    for step in range(steps):
        optimizer.step(private_gradient(model, X, t, rate, max_norm, noise, randoms(seed, step)))
    accuracy, spent = model.metric(X_test, t_test), epsilon(rate, noise, steps, delta)
    known = "unknown" if spent is None else f"{spent:.2f}"
    print(f"test accuracy {accuracy:.3f}, epsilon {known} at delta {delta:g}, {len(X)} training samples")
    return accuracy, spent


if __name__ == "__main__":
    main()
