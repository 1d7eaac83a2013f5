"""Models linear in their inputs, with gradients of the batch and of each sample.

Each is z = X @ weight + bias, and an error E_n of the sample n that has a simple derivative by z, the
residual r_n = dE_n/dz. All gradients follow: dE_n/dweight = outer(x_n, r_n), dE_n/dbias = r_n.
Source: C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, sections 3.1 and 4.3.

They contain exp, log and matrix products: two devices agree to rounding, not to the bit.
"""

import numpy as np

from .checks import count
from .devices import resolve
from .ranges import ranged


class _LinearModel:
    """What the models share. A model adds its targets, its error with the residual, and its answer."""

    name = metric_name = None

    def __init__(self, n_features, n_outputs, device, dtype):
        try:
            name = dtype and np.dtype(dtype).name  # np.dtype(None) is float64
        except TypeError:
            name = None
        if name not in ("float32", "float64"):
            raise ValueError(f'dtype: expected "float32" or "float64", got {dtype!r}')
        self.dtype = np.dtype(name)
        self.n_features, self.n_outputs = count("n_features", n_features, least=1), n_outputs
        self.device = resolve(device)
        zeros = self.device.xp.zeros
        self.params = {
            "weight": zeros((self.n_features, n_outputs), self.dtype),
            "bias": zeros(n_outputs, self.dtype),
        }

    @ranged
    def loss(self, X, t):
        """Mean over the samples of their errors: a scalar of the model's dtype, on its device.

        X: (B, n_features), any real dtype, converted to the model's; t: see the model. 0 for B = 0.
        Raises ValueError for a wrong shape, a wrong class or lengths that differ, TypeError for what
        is not numeric. Looking at the classes waits for a GPU; `fit` does so only once.
        """
        X, t = self._prepare(X, t)
        return self._mean(self._errors(self._outputs(X), t)[0])

    @ranged
    def gradient(self, X, t):
        """(loss, grads): the loss, and its gradient, a dict of arrays like `params`. Errors: see loss.

        weight: X^T r / B;  bias: sum_n r_n / B;  +0 for B = 0.
        """
        return self._loss_and_gradient(*self._prepare(X, t))

    @ranged
    def per_sample_gradients(self, X, t):
        """Gradients of each sample's error, not scaled: their mean over axis 0 is that of `gradient`.

        A dict like `params`, with one more axis in front: (B, n_features, n_outputs) and
        (B, n_outputs). Errors: see loss.
        """
        X, t = self._prepare(X, t)
        residual = self._errors(self._outputs(X), t)[1]
        return {"weight": X[:, :, None] * residual[:, None, :], "bias": residual}

    @ranged
    def predict(self, X):
        """The model's answer for each row of X (B, n_features). Errors: see loss."""
        return self._answer(self._outputs(self._samples(X, "X")))

    def metric(self, X, t):
        """How good the answers are, as a float: what `metric_name` says. Errors: see loss, and B = 0."""
        X, t = self._prepare(X, t)
        if not len(X):
            raise ValueError(f"X: expected one sample or more, got shape {X.shape}")
        return self._score(self._outputs(X), t)

    def _loss_and_gradient(self, X, t):
        """`gradient` of what `_prepare` returned: checks nothing, and never waits for a GPU."""
        errors, residual = self._errors(self._outputs(X), t)
        residual /= max(len(X), 1)
        return self._mean(errors), {"weight": X.T @ residual, "bias": residual.sum(axis=0)}

    def _evaluate(self, X, t):
        """(loss, metric) as floats, of what `_prepare` returned."""
        z = self._outputs(X)
        return float(self._mean(self._errors(z, t)[0])), self._score(z, t)

    def _outputs(self, X):
        return X @ self.params["weight"] + self.params["bias"]

    def _mean(self, errors):
        return errors.sum() / max(len(errors), 1)

    def _score(self, z, t):
        return float((self._answer(z) == t.ravel()).mean())

    def _prepare(self, X, t, names=("X", "t"), finite=False):
        """X and t checked, on the model's device, as its steps take them; copied only if they must be.

        With `finite` NaN and infinity are errors too. `names` are what errors call them.
        """
        X, t = self._samples(X, names[0]), self._targets(self._array(t, names[1]), names[1])
        if len(X) != len(t):
            raise ValueError(f"{names[1]}: expected {len(X)} targets, one for each sample of {names[0]}, got {len(t)}")
        if finite:
            self._check_finite(X, names[0])
            self._check_finite(t, names[1])
        return X, t

    def _samples(self, X, name):
        X = self._array(X, name)
        if X.ndim != 2 or X.shape[1] != self.n_features:
            raise ValueError(f"{name}: expected shape (samples, {self.n_features}), got {X.shape}")
        return self._cast(X)

    def _array(self, array, name):
        xp = self.device.xp
        if xp is np and hasattr(array, "__cuda_array_interface__"):
            raise TypeError(f"{name}: expected an array on the CPU, as the model, got one on a CUDA device")
        if getattr(array, "requires_grad", False):
            raise TypeError(f"{name}: a tensor that requires grad; pass its .detach()")
        try:
            array = xp.asarray(array)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise TypeError(f"{name}: expected a numeric array, got {type(array).__name__} ({reason})") from None
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: expected a numeric array, got dtype {array.dtype}")
        return array

    def _cast(self, array):
        with np.errstate(over="ignore"):  # what does not fit becomes infinite; `fit` says so
            return array.astype(self.dtype, copy=False)

    def _check_finite(self, array, name):
        # Minimum and maximum show any NaN and infinity, and need no temporary of the array's size.
        isfinite = self.device.xp.isfinite
        if array.size and not (isfinite(array.min()) and isfinite(array.max())):
            row = int((~isfinite(array.reshape(len(array), -1)).all(axis=1)).argmax())
            raise ValueError(f"{name}: expected finite {self.dtype} values, got NaN or infinity in row {row}")

    def _check_vector(self, t, name):
        if t.ndim != 1:
            raise ValueError(f"{name}: expected shape (samples,), got {t.shape}")


class LinearRegression(_LinearModel):
    """Least squares: y = z, E_n = sum_k (t_nk - y_nk)^2, r = 2 (y - t). No factor 1/2.

    t: (B,) for one output, or (B, n_outputs). `predict`: y, of shape (B,) for one output.
    `metric`: R^2 = 1 - SSE / SST, both summed over the outputs in float64, SST about each output's
    mean; where SST is 0, R^2 is 1 for SSE = 0 and 0 otherwise.
    """

    name, metric_name = "linear", "R^2"

    def __init__(self, n_features, n_outputs=1, *, device=None, dtype="float32"):
        super().__init__(n_features, count("n_outputs", n_outputs, least=1), device, dtype)

    def _targets(self, t, name):
        shapes = f"(samples, {self.n_outputs})" + (" or (samples,)" if self.n_outputs == 1 else "")
        if t.shape[1:] != (self.n_outputs,) and (t.ndim, self.n_outputs) != (1, 1):
            raise ValueError(f"{name}: expected shape {shapes}, got {t.shape}")
        return self._cast(t).reshape(len(t), self.n_outputs)

    def _errors(self, z, t):
        difference = z - t
        return (difference * difference).sum(axis=1), 2 * difference

    def _answer(self, z):
        return z[:, 0] if self.n_outputs == 1 else z

    def _score(self, z, t):
        t = t.astype("float64")
        sse = float(((t - z) ** 2).sum())
        sst = float(((t - t.mean(axis=0)) ** 2).sum())
        return 1 - sse / sst if sst else float(sse == 0)


class LogisticRegression(_LinearModel):
    """Two classes: p = 1 / (1 + exp(-z)), E_n = -t ln p - (1 - t) ln(1 - p), r = p - t.

    Computed as E_n = max(z, 0) - t z + ln(1 + exp(-|z|)), which never overflows.
    t: (B,) of 0 and 1. `predict`: 1 where z > 0, else 0, int64. `metric`: accuracy.
    """

    name, metric_name = "logistic", "accuracy"

    def __init__(self, n_features, *, device=None, dtype="float32"):
        super().__init__(n_features, 1, device, dtype)

    def _targets(self, t, name):
        self._check_vector(t, name)
        wrong = (t != 0) & (t != 1)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"{name}: expected 0 or 1, got {t[row].item()!r} in row {row}")
        return self._cast(t).reshape(len(t), 1)

    def _errors(self, z, t):
        xp = self.device.xp
        e = xp.exp(-abs(z))
        errors = xp.maximum(z, 0) - t * z + xp.log1p(e)
        return errors[:, 0], xp.where(z >= 0, 1, e) / (1 + e) - t

    def _answer(self, z):
        return (z[:, 0] > 0).astype("int64")


class SoftmaxRegression(_LinearModel):
    """Several classes: p_k = exp(z_k) / sum_j exp(z_j), E_n = -ln p_t, r_k = p_k - [k = t].

    Computed from z - max_k z_k, which never overflows.
    t: (B,) integers in 0 .. n_classes - 1. `predict`: the class of the largest z_k, the first of
    equals, int64. `metric`: accuracy.
    """

    name, metric_name = "softmax", "accuracy"

    def __init__(self, n_features, n_classes, *, device=None, dtype="float32"):
        super().__init__(n_features, count("n_classes", n_classes, least=2), device, dtype)

    def _targets(self, t, name):
        self._check_vector(t, name)
        if t.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected integer classes, got dtype {t.dtype}")
        low, high = (int(t.min()), int(t.max())) if len(t) else (0, 0)
        if low < 0 or high >= self.n_outputs:
            wrong = low if low < 0 else high
            raise ValueError(f"{name}: expected classes in 0 .. {self.n_outputs - 1}, got {wrong}")
        return t.astype("int64", copy=False)

    def _errors(self, z, t):
        xp = self.device.xp
        z = z - z.max(axis=1, keepdims=True)
        p = xp.exp(z)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        target = xp.arange(len(t)), t
        errors = xp.log(total[:, 0]) - z[target]
        p[target] -= 1
        return errors, p

    def _answer(self, z):
        return z.argmax(axis=1).astype("int64", copy=False)
