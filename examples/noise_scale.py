"""How large a batch should be: the gradient noise scale, and the trade that it predicts (McCandlish et al. 2018).

Run: python examples/noise_scale.py

At batch size B, and the best learning rate for it, a loss takes about S (1 + N / B) steps: S is the least that any
batch takes, N the noise scale. So B = N takes some twice the fewest steps and twice the fewest samples; smaller batches
cost steps, larger ones samples. N grows as the loss falls: measured at one place, it is good to a factor of two or so.
"""

import numpy as np

import gdgpu


def draws(samples, batch_size, count, seed=0):
    """The rows of `count` batches, drawn with replacement."""
    return np.random.default_rng(seed).integers(samples, size=(count, batch_size))


def noise_scale(model, X, t, batch_size=64, count=50):
    """tr(covariance of a sample's gradient) / |mean gradient|^2, where the model is now."""
    trace = square = 0.0
    for rows in draws(len(X), batch_size, count):
        mean, variance, _ = gdgpu.sample_statistics(model.per_sample_gradients(X[rows], t[rows]))
        spread = sum(float(v.sum()) for v in variance.values())
        trace += spread
        # Noise makes the mean of a batch longer than the true gradient.
        square += sum(float((m * m).sum()) for m in mean.values()) - spread / batch_size
    return trace / square  # of sums: the mean of the batches' ratios is biased


def descend(X, t, target, batch_size, lr, max_steps=1000):
    """(steps until the loss over all samples is below target, at most `max_steps`; the model)."""
    model = gdgpu.models.SoftmaxRegression(X.shape[1], 10, device="cpu")
    optimizer = gdgpu.SGD(model.params, lr)
    for step, rows in enumerate(draws(len(X), batch_size, max_steps)):
        if model.loss(X, t) < target:
            return step, model
        model.step(X[rows], t[rows], optimizer)
    return max_steps, model


def main(ratios=(4, 1, 1 / 4, 1 / 16), target=0.1, halfway=0.3, rates=(0.8, 1.6, 3.2, 6.4, 12.8)):
    data = gdgpu.datasets.split(gdgpu.datasets.digits().X, gdgpu.datasets.digits().t)
    X, t = data.X, data.t
    scale = noise_scale(descend(X, t, halfway, batch_size=64, lr=0.4)[1], X, t)
    print(f"noise scale {scale:.0f} at loss {halfway}; to loss {target}:\n batch   steps   predicted   samples")
    steps = {}
    for size in (max(1, round(ratio * scale)) for ratio in ratios):
        steps[size] = 1000
        for lr in rates:
            steps[size], _ = descend(X, t, target, size, lr, max_steps=steps[size])
        least = steps[max(steps)] / (1 + scale / max(steps))  # so that the largest batch is as predicted
        print(f"{size:6} {steps[size]:7} {least * (1 + scale / size):11.0f} {size * steps[size]:9}")
    return scale, steps


if __name__ == "__main__":
    main()
