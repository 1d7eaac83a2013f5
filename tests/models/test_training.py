"""fit: closed forms and loops written out in NumPy are the references."""

import json
import math
import pickle
import warnings

import numpy as np
import pytest

import gdgpu
from gdgpu.models import LinearRegression, LogisticRegression, SoftmaxRegression

N, D = 203, 4


def data(outputs=1, seed=0, dtype="float64"):
    """Features of unequal scales, and targets that are linear in them but for noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D)) * [1, 0.5, 2, 1.5] + [0, 1, -1, 0.5]
    t = X @ rng.normal(size=(D, outputs)) + 3 + 0.1 * rng.normal(size=(N, outputs))
    return X.astype(dtype), (t[:, 0] if outputs == 1 else t).astype(dtype)


def least_squares(X, t):
    solution = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), t.reshape(len(t), -1), rcond=None)[0]
    return solution[:-1], solution[-1]


def train(X, t, lr=0.02, momentum=0.0, dtype="float64", **how):
    model = LinearRegression(D, 1 if t.ndim == 1 else t.shape[1], dtype=dtype, device="cpu")
    optimizer = gdgpu.Momentum(model.params, lr, momentum)
    return model, gdgpu.fit(model, X, t, optimizer, **how)


def orders(seed, epochs):
    return [np.random.Generator(np.random.PCG64([seed, e])).permutation(N) for e in range(epochs)]


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("batch_size", ["full", N, N + 50])
def test_batch_descent_reaches_the_closed_form(batch_size, outputs):
    X, t = data(outputs)
    model, _ = train(X, t, lr=0.05, momentum=0.9, batch_size=batch_size, epochs=800)
    for ours, closed in zip(model.params.values(), least_squares(X, t), strict=True):
        np.testing.assert_allclose(ours, closed, rtol=1e-9)


@pytest.mark.parametrize(("batch_size", "lr"), [(1, 0.005), (16, 0.05), (64, 0.1)])
def test_stochastic_descent_comes_near_the_closed_form(batch_size, lr):
    X, t = data(dtype="float32")
    model, history = train(
        X,
        t,
        lr=lambda step: lr / (1 + step * batch_size / (100 * N)),
        batch_size=batch_size,
        epochs=60,
        dtype="float32",
    )
    weight, bias = least_squares(X.astype("float64"), t.astype("float64"))
    best = 1 - ((t[:, None] - X @ weight - bias) ** 2).sum() / ((t - t.mean()) ** 2).sum()
    assert best - model.metric(X, t) < 1e-3
    assert len(history.epochs) == 60


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("batch_size", [1, 32, N])
def test_every_step_is_that_of_a_loop_in_numpy(batch_size, drop_last, shuffle):
    X, t = data()
    epochs, lr, momentum = 3, 0.01, 0.5
    model, history = train(
        X,
        t,
        lr=lr,
        momentum=momentum,
        batch_size=batch_size,
        epochs=epochs,
        seed=9,
        shuffle=shuffle,
        drop_last=drop_last,
    )
    w, velocity = np.zeros(D + 1), np.zeros(D + 1)
    A = np.column_stack([X, np.ones(N)])
    for order, record in zip(orders(9, epochs), history.epochs, strict=True):
        total = count = 0
        for start in range(0, N, batch_size):
            rows = (order if shuffle else np.arange(N))[start : start + batch_size]
            if drop_last and len(rows) < batch_size:
                continue
            error = A[rows] @ w - t[rows]
            total, count = total + (error**2).sum(), count + len(rows)
            velocity = momentum * velocity - lr * 2 * A[rows].T @ error / len(rows)
            w = w + velocity
        assert record["loss"] == pytest.approx(total / count, rel=1e-11)
    np.testing.assert_allclose(np.append(model.params["weight"], model.params["bias"]), w, rtol=1e-10)


def test_logistic_regression_reaches_the_maximum_of_the_likelihood():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the reference")
    X, t = data()
    t = (t + np.random.default_rng(1).normal(size=N) * 3 > t.mean()).astype(int)
    model = LogisticRegression(D, dtype="float64", device="cpu")
    gdgpu.fit(model, X, t, gdgpu.Momentum(model.params, 0.3, 0.9), batch_size="full", epochs=2000)
    peer = linear_model.LogisticRegression(C=math.inf, tol=1e-10, max_iter=10_000).fit(X, t)
    np.testing.assert_allclose(model.params["weight"][:, 0], peer.coef_[0], rtol=1e-4)
    np.testing.assert_allclose(model.params["bias"], peer.intercept_, rtol=1e-4)


def classification(dtype="float32"):
    X, t = data(dtype=dtype)
    model = SoftmaxRegression(D, 3, dtype=dtype, device="cpu")
    return model, X, np.digitize(t, np.quantile(t, [0.3, 0.6]))


def test_a_resumed_run_ends_with_the_bits_of_one_run():
    def run(*ends):
        model, X, t = classification()
        optimizer = gdgpu.Momentum(model.params, 0.1)
        losses = []
        for first, epochs in zip((0, *ends), ends, strict=False):
            history = gdgpu.fit(model, X, t, optimizer, batch_size=16, epochs=epochs, seed=4, first_epoch=first)
            losses += [(record["epoch"], record["loss"]) for record in history.epochs]
        return model.params, losses, optimizer.steps

    (whole, losses, steps), (parts, pieces, again) = run(5), run(2, 2, 5)
    assert losses == pieces and [epoch for epoch, _ in losses] == [0, 1, 2, 3, 4]
    assert steps == again == 5 * math.ceil(N / 16)
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_history_holds_settings_and_epochs_as_plain_values():
    model, X, t = classification()
    seen = []
    optimizer = gdgpu.Momentum(model.params, 0.1, 0.8)
    history = gdgpu.fit(
        model,
        X,
        t,
        optimizer,
        np.int64(50),
        3,
        np.int32(7),
        validation=(X[:40], t[:40]),
        on_epoch=seen.append,
    )
    assert history.epochs == seen
    assert (
        history.config.items()
        >= {
            "model": "softmax",
            "optimizer": "momentum",
            "lr": 0.1,
            "momentum": 0.8,
            "batch_size": 50,
            "epochs": 3,
            "seed": 7,
        }.items()
    )
    assert json.loads(json.dumps(history.config)) == history.config
    assert json.loads(json.dumps(history.epochs)) == history.epochs
    for k, record in enumerate(seen):
        assert list(record) == ["epoch", "loss", "test_loss", "test_metric", "seconds"]
        assert record["epoch"] == k and record["seconds"] > 0
    assert seen[-1]["test_loss"] == pytest.approx(float(model.loss(X[:40], t[:40])), rel=1e-6)
    assert seen[-1]["test_metric"] == model.metric(X[:40], t[:40])


def test_without_validation_there_are_no_test_values():
    history = train(*data(), epochs=1)[1]
    assert history.epochs[0]["test_loss"] is None and history.epochs[0]["test_metric"] is None
    assert train(*data(), epochs=1, batch_size="full")[1].config["batch_size"] == "full"


def test_on_step_sees_the_samples_and_the_loss_of_each_step():
    steps = []
    history = train(*data(), batch_size=100, epochs=2, on_step=lambda *step: steps.append(step))[1]
    assert [samples for samples, _ in steps] == [100, 100, 3] * 2
    for k, record in enumerate(history.epochs):
        total = math.fsum(samples * float(loss) for samples, loss in steps[3 * k : 3 * k + 3])
        assert record["loss"] == pytest.approx(total / N, rel=1e-14)


def test_no_loss_is_read_before_the_end_of_its_epoch():
    """A GPU would wait at each look at a value."""
    looks = []

    class Watched(np.ndarray):
        def look(self, *_):
            looks.append(self.shape)
            return 0.0

        __float__ = __bool__ = item = tolist = look

    class Model(LinearRegression):
        def _step(self, X, t, optimizer):
            return np.asarray(super()._step(X, t, optimizer)).view(Watched)

    X, t = data()
    model = Model(D, dtype="float64", device="cpu")
    seen = []
    gdgpu.fit(
        model,
        X,
        t,
        gdgpu.SGD(model.params, 0.01),
        epochs=2,
        on_step=lambda _, loss: seen.append((loss, len(looks))),
    )
    assert len(seen) == 8 and all(isinstance(loss, Watched) and count == 0 for loss, count in seen)


def constant(lr, dtype="float32"):
    """Features of 0 and targets of 1: only the bias moves, its error is (1 - 2 lr)^k after k steps."""
    model = LinearRegression(1, dtype=dtype, device="cpu")
    return model, gdgpu.SGD(model.params, lr), np.zeros((4, 1)), np.ones(4)


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 3.4e38), ("float64", 1.7e308)])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_divergence_names_the_step_of_the_first_bad_loss(batch_size, dtype, largest):
    model, optimizer, X, t = constant(500.5, dtype)
    step = next(k for k in range(1, 200) if 6 * (k - 1) > math.log10(largest))  # loss of step k: 1e6^(k-1)
    per_epoch = 4 // batch_size
    finished = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(gdgpu.Diverged) as caught:
            gdgpu.fit(model, X, t, optimizer, batch_size=batch_size, epochs=300, on_epoch=finished.append)
    assert caught.value.step == step
    assert str(caught.value) == f"training diverged at step {step}: loss is inf"
    assert len(finished) == (step - 1) // per_epoch
    assert isinstance(caught.value, ArithmeticError)


def test_divergence_counts_steps_over_the_whole_run():
    model, optimizer, X, t = constant(500.5)
    with pytest.raises(gdgpu.Diverged) as caught:
        gdgpu.fit(model, X, t, optimizer, batch_size=2, epochs=300, first_epoch=10)
    assert caught.value.step == 10 * 2 + 8


def test_a_last_update_that_overflows_is_divergence():
    model, optimizer, X, t = constant(3e38)
    with pytest.raises(gdgpu.Diverged, match=r"^training diverged at step 1: bias is not finite$"):
        gdgpu.fit(model, X, t, optimizer, batch_size="full", epochs=1)


def test_diverged_survives_a_pickle():
    again = pickle.loads(pickle.dumps(gdgpu.Diverged(12, "loss is nan")))
    assert (again.step, str(again)) == (12, "training diverged at step 12: loss is nan")


def test_memory_mapped_samples_train_alike(tmp_path):
    X, t = data(dtype="float32")
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    a, b = (train(x, t, dtype="float32", epochs=2)[0] for x in (X, mapped))
    np.testing.assert_array_equal(a.params["weight"], b.params["weight"])


@pytest.mark.parametrize("how", [{"epochs": 0}, {"epochs": 3, "first_epoch": 3}, {"epochs": 1, "first_epoch": 3}])
def test_no_epochs_left_changes_nothing(how):
    model, history = train(*data(), **how)
    assert history.epochs == [] and not any(a.any() for a in model.params.values())


def changed(array, at, value):
    array = np.array(array, copy=True)
    array[at] = value
    return array


X, T = data()
BAD = [
    ({"X": X[0]}, ValueError, r"X: expected shape \(samples, 4\)"),
    ({"X": X[:0], "t": T[:0]}, ValueError, r"X: expected one sample or more, got shape \(0, 4\)"),
    ({"X": X.astype(str)}, TypeError, "X: "),
    ({"X": changed(X, (17, 2), np.nan)}, ValueError, "X: expected finite float32 values, .* row 17"),
    ({"X": changed(X, (3, 0), -np.inf)}, ValueError, "X: .* row 3"),
    ({"X": changed(X, (5, 1), 1e300)}, ValueError, "X: .*float32.* row 5"),
    ({"t": changed(T, 202, np.inf)}, ValueError, "t: .* row 202"),
    ({"t": T[1:]}, ValueError, "t: expected 203 targets, one for each sample of X, got 202"),
    ({"batch_size": 0}, ValueError, 'batch_size: expected an int >= 1 or "full", got 0'),
    ({"batch_size": "half"}, TypeError, "batch_size: .*'half'"),
    ({"batch_size": N + 1, "drop_last": True}, ValueError, "batch_size: expected at most 203 .*got 204"),
    ({"epochs": -1}, ValueError, "epochs: expected an int >= 0, got -1"),
    ({"epochs": 1.5}, TypeError, "epochs: "),
    ({"first_epoch": -1}, ValueError, "first_epoch: "),
    ({"seed": -1}, ValueError, "seed: "),
    ({"shuffle": 1}, TypeError, "shuffle: "),
    ({"drop_last": None}, TypeError, "drop_last: "),
    ({"optimizer": "momentum"}, TypeError, "optimizer: .*got str"),
    ({"optimizer": None}, TypeError, "optimizer: "),
    ({"model": "linear"}, TypeError, "model: .*got str"),
    ({"validation": 3}, TypeError, "validation: expected a pair"),
    ({"validation": (X,)}, TypeError, "validation: "),
    ({"validation": (X[:, :2], T)}, ValueError, r"validation\[0\]: expected shape"),
    ({"validation": (X, T[1:])}, ValueError, r"validation\[1\]: .*validation\[0\], got 202"),
    ({"validation": (X[:0], T[:0])}, ValueError, r"validation\[0\]: expected one sample or more"),
    ({"validation": (X, T * np.nan)}, ValueError, r"validation\[1\]: .* row 0"),
    ({"on_step": 3}, TypeError, "on_step: "),
    ({"on_epoch": "print"}, TypeError, "on_epoch: "),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD)
def test_bad_input_is_named_before_anything_moves(bad, error, message):
    model = LinearRegression(D, device="cpu")
    good = {"model": model, "X": X, "t": T, "optimizer": gdgpu.SGD(model.params, 0.01)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=f"^{message}") as caught:
            gdgpu.fit(**{**good, **bad})
    assert "\n" not in str(caught.value)
    assert good["optimizer"].steps == 0 and not any(a.any() for a in model.params.values())


@pytest.mark.parametrize("of", [lambda p: list(p.values()), lambda p: {k: a.copy() for k, a in p.items()}, dict])
def test_the_optimizer_must_hold_the_models_own_arrays(of):
    model = LinearRegression(D, device="cpu")
    optimizer = gdgpu.SGD(of(model.params), 0.01)
    if of is dict:  # another dict of the same arrays will do
        gdgpu.fit(model, X, T, optimizer, epochs=1)
        assert model.params["weight"].any()
    else:
        with pytest.raises(ValueError, match=r"^optimizer: "):
            gdgpu.fit(model, X, T, optimizer)
