"""A training loop of one's own with CuPy: gradients by hand, batches on the device, steps that check nothing twice.

Run: python examples/cupy_training.py        (without a GPU: the same loop, with NumPy)
"""

import gdgpu

xp = gdgpu.devices.resolve().xp  # cupy where it finds a GPU, else numpy


def softmax(z):
    p = xp.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def main(epochs=15, batch_size=64, hidden=32, lr=0.05):
    digits = gdgpu.datasets.digits()
    data = gdgpu.datasets.split(digits.X, digits.t)
    X, t, X_test, t_test = map(xp.asarray, (data.X, data.t, data.X_test, data.t_test))
    wanted = xp.eye(10, dtype="float32")[t]

    normal = xp.random.default_rng(0).standard_normal
    params = {
        "W1": normal((64, hidden), dtype="float32") / 8,
        "b1": xp.zeros(hidden, "float32"),
        "W2": normal((hidden, 10), dtype="float32") / hidden**0.5,
        "b2": xp.zeros(10, "float32"),
    }
    grads = {name: xp.empty_like(array) for name, array in params.items()}
    # All tensors in one launch. bind checks the arrays once, so new gradients must be written into the old arrays.
    step = gdgpu.Momentum(params, lr, momentum=0.9).bind(grads)

    def outputs(x):
        a = xp.tanh(x @ params["W1"] + params["b1"])
        return a, a @ params["W2"] + params["b2"]

    for epoch in range(epochs):
        # drop_last: a short last batch, averaged, would give its samples more weight than the others have.
        for x, y in gdgpu.minibatches(X, wanted, batch_size=batch_size, epoch=epoch, drop_last=True):
            a, z = outputs(x)
            dz = (softmax(z) - y) / len(x)  # of the mean cross entropy
            da = dz @ params["W2"].T * (1 - a * a)
            xp.matmul(a.T, dz, out=grads["W2"])
            dz.sum(axis=0, out=grads["b2"])
            xp.matmul(x.T, da, out=grads["W1"])
            da.sum(axis=0, out=grads["b1"])
            step()

    accuracy = float((outputs(X_test)[1].argmax(axis=1) == t_test).mean())
    print(f"test accuracy {accuracy:.3f} on {xp.__name__}")
    return accuracy


if __name__ == "__main__":
    main()
