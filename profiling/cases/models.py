"""Cases of models: loss and gradient from one read of the features, and epochs of mini-batches."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from peers import reader

import gdgpu

BATCH = 64
CLASSES = 10
LR = 0.1


@dataclass(frozen=True)
class Batch:
    """Features (samples, features) and targets of a model, as arrays and as torch tensors."""

    arrays: object
    shape: tuple
    kind: str
    narrow: bool = False

    def __post_init__(self):
        xp, (rows, _) = self.arrays.xp, self.shape
        X = self.arrays.normal(*self.shape)
        if X.dtype.name not in ("float32", "float64"):
            raise ValueError(f"dtype: models are measured in float32 and float64, got {X.dtype}")
        if self.narrow:
            X = (X * 32 + 128).clip(0, 255).astype("uint8")
        rng = np.random.default_rng(1)
        if self.kind == "linear":
            t = rng.standard_normal(rows).astype(self.arrays.sums)
        else:
            t = rng.integers(2 if self.kind == "logistic" else CLASSES, size=rows)
        object.__setattr__(self, "X", X)
        object.__setattr__(self, "t", xp.asarray(t))

    def model(self):
        """gdgpu's, with weights that are not 0."""
        how = {"device": "cpu" if self.arrays.xp is np else "cuda", "dtype": self.arrays.sums}
        features = self.shape[1]
        scale = {"scale": 1 / 255} if self.narrow else {}
        if self.kind == "linear":
            model = gdgpu.models.LinearRegression(features, **scale, **how)
        elif self.kind == "logistic":
            model = gdgpu.models.LogisticRegression(features, **scale, **how)
        else:
            model = gdgpu.models.SoftmaxRegression(features, CLASSES, **scale, **how)
        weight = model.params["weight"]
        weight[...] = self.arrays.normal(*weight.shape) / features**0.5
        return model

    def tensors(self, model):
        """(X, t, *params) as torch has them."""
        return [self.arrays.tensor(a) for a in (self.X, self.t, *model.params.values())]


def gradient(arrays, shape, kind, narrow=False):
    """Loss and gradients: reads the features once, and little beside them. Peers use two matrix products.

    narrow: features are bytes, which peers convert first.
    """
    batch = Batch(arrays, shape, kind, narrow)
    X, t, xp, rows = batch.X, batch.t, arrays.xp, shape[0]
    model = batch.model()
    weight, bias = model.params.values()

    def plain():
        def run():
            x = X * xp.asarray(1 / 255, weight.dtype) if narrow else X
            z = x @ weight + bias
            if kind == "linear":
                residual = 2 * (z - t[:, None])
                loss = residual.ravel() @ residual.ravel() / (4 * rows)
            else:
                z -= z.max(axis=1, keepdims=True)
                residual = xp.exp(z)
                total = residual.sum(axis=1, keepdims=True)
                residual /= total
                at = xp.arange(rows), t
                loss = (xp.log(total[:, 0]) - z[at]).mean()
                residual[at] -= 1
            return loss, x.T @ residual / rows, residual.mean(axis=0)

        return run

    def torch():
        import torch

        tensor, target, w, b = batch.tensors(model)

        def run():
            x = tensor * torch.tensor(1 / 255, dtype=w.dtype) if narrow else tensor
            z = torch.addmm(b, x, w) if w.shape[1] > 1 else (x @ w[:, 0] + b)[:, None]
            if kind == "linear":
                residual = 2 * (z - target[:, None])
                loss = residual.ravel() @ residual.ravel() / (4 * rows)
            else:
                log_p = torch.log_softmax(z, 1)
                loss = torch.nn.functional.nll_loss(log_p, target)
                residual = log_p.exp_()
                residual[torch.arange(rows, device=residual.device), target] -= 1
            return loss, x.T @ residual / rows, residual.mean(0)

        return run

    def ours():
        fresh = batch.model()

        def run():
            loss, grads = fresh.gradient(X, t)
            return loss, *grads.values()

        return run

    nbytes = X.nbytes + t.nbytes + 2 * weight.nbytes
    return nbytes, {"gdgpu": ours, "numpy": plain, "torch": torch, "cupy": plain, "read": lambda: reader(X)}


def epoch(arrays, shape):
    """Logistic regression in batches of 64, each a step of gradient descent: the features are read once.

    `sklearn`: SGDClassifier.partial_fit of the same batches, which steps sample by sample; `sklearn_fit`: its fit, one
    call for the epoch.
    """
    batch = Batch(arrays, shape, "logistic")
    pieces = [slice(k, k + BATCH) for k in range(0, shape[0], BATCH)]
    batches = [(batch.X[piece], batch.t[piece]) for piece in pieces]

    def ours():
        model = batch.model()
        optimizer = gdgpu.SGD(model.params, LR)

        def run():
            for X, t in batches:
                model.step(X, t, optimizer)
            return model.params.values()

        return run

    def torch():
        import torch

        X, t, *params = batch.tensors(batch.model())
        weight, bias = map(torch.nn.Parameter, params)
        step = torch.optim.SGD([weight, bias], LR, fused=True).step
        tensors = [(X[piece], t[piece].to(X.dtype)) for piece in pieces]

        def run():
            for x, y in tensors:
                residual = (torch.sigmoid(torch.addmm(bias.detach(), x, weight.detach())) - y[:, None]) / len(x)
                weight.grad, bias.grad = x.T @ residual, residual.sum(0)
                step()
            return weight.detach(), bias.detach()

        return run

    def sklearn(whole):
        from sklearn.linear_model import SGDClassifier

        how = {"loss": "log_loss", "alpha": 0.0, "learning_rate": "constant", "eta0": LR / BATCH, "shuffle": False}
        estimator = SGDClassifier(max_iter=1, tol=None, **how)

        def run():
            if whole:
                estimator.fit(batch.X, batch.t)
            else:
                for X, t in batches:
                    estimator.partial_fit(X, t, classes=(0, 1))
            return estimator.coef_.T, estimator.intercept_

        return run

    return batch.X.nbytes + batch.t.nbytes, {
        "gdgpu": ours,
        "torch": torch,
        "sklearn": partial(sklearn, False),
        "sklearn_fit": partial(sklearn, True),
        "read": lambda: reader(batch.X),
    }
