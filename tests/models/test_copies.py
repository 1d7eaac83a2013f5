"""Copies of models and accumulators: what they say, and that their steps have the bits of the original's."""

import copy
import pickle

import numpy as np
import pytest

import gdgpu
from gdgpu import models
from support.copies import COPIES, pickled
from support.references import assert_same_bits

DEVICE = {"device": "cpu"}
MODELS = {
    "linear": lambda: models.LinearRegression(5, 2, **DEVICE),
    "bytes": lambda: models.LinearRegression(5, scale=0.5, **DEVICE),
    "huber": lambda: models.HuberRegression(5, delta=0.25, dtype="float64", **DEVICE),
    "poisson": lambda: models.PoissonRegression(5, **DEVICE),
    "logistic": lambda: models.LogisticRegression(5, **DEVICE),
    "softmax": lambda: models.SoftmaxRegression(5, 3, **DEVICE),
    "mlp": lambda: models.MLP((5, 7, 3), "tanh", seed=4, **DEVICE),
    "mlp of values": lambda: models.MLP((5, 2), loss="huber", dtype="float64", **DEVICE),
}
SHOWN = {
    "linear": "LinearRegression(n_features=5, n_outputs=2, dtype='float32', device='cpu')",
    "bytes": "LinearRegression(n_features=5, n_outputs=1, scale=0.5, dtype='float32', device='cpu')",
    "huber": "HuberRegression(n_features=5, n_outputs=1, delta=0.25, dtype='float64', device='cpu')",
    "poisson": "PoissonRegression(n_features=5, dtype='float32', device='cpu')",
    "logistic": "LogisticRegression(n_features=5, dtype='float32', device='cpu')",
    "softmax": "SoftmaxRegression(n_features=5, n_classes=3, dtype='float32', device='cpu')",
    "mlp": "MLP(sizes=(5, 7, 3), activation='tanh', loss='softmax', dtype='float32', device='cpu')",
    "mlp of values": "MLP(sizes=(5, 2), activation='relu', loss='huber', dtype='float64', device='cpu')",
}


def batches(model, count=3):
    """Batches of different sizes, with targets that the model takes."""
    rng = np.random.default_rng(1)
    for size in (9, 64, 33)[:count]:
        X = rng.integers(0, 4, (size, 5), np.uint8) if model.__dict__.get("scale") else rng.normal(size=(size, 5))
        shape = size if model.n_outputs == 1 else (size, model.n_outputs)
        t = rng.integers(0, max(2, model.n_outputs), size) if model.criterion.kind == "classes" else rng.random(shape)
        yield X, t


def momentum(model):
    return gdgpu.Momentum(model.params, lr=0.01)


def trained(model, optimizer):
    """The losses of a few steps."""
    return [float(model.step(X, t, optimizer)) for X, t in batches(model)]


def assert_same_params(a, b):
    assert a.params.keys() == b.params.keys()
    for name, array in a.params.items():
        assert_same_bits(array, b.params[name])
        assert not np.shares_memory(array, b.params[name])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_it_is(name):
    model = MODELS[name]()
    assert repr(model) == SHOWN[name]
    again = eval(repr(model), vars(models))
    assert repr(again) == repr(model)


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("name", MODELS)
def test_a_copy_goes_on_with_the_bits_of_the_original(name, duplicate):
    model = MODELS[name]()
    trained(model, momentum(model))
    other = COPIES[duplicate](model)
    assert type(other) is type(model) and repr(other) == repr(model)
    assert_same_params(model, other)
    assert trained(model, momentum(model)) == trained(other, momentum(other))
    assert_same_params(model, other)
    [(X, t)] = batches(model, 1)
    for call in ("loss", "sample_norms", "metric"):
        assert_same_bits(np.asarray(getattr(model, call)(X, t)), np.asarray(getattr(other, call)(X, t)))
    assert_same_bits(model.predict(X), other.predict(X))


@pytest.mark.parametrize("duplicate", COPIES)
def test_steps_of_a_copy_leave_the_original(duplicate):
    model = MODELS["mlp"]()
    before = {name: array.copy() for name, array in model.params.items()}
    other = COPIES[duplicate](model)
    trained(other, momentum(other))
    for name, array in before.items():
        assert_same_bits(model.params[name], array)


@pytest.mark.parametrize("duplicate", COPIES)
def test_params_are_one_dict_wherever_they_are_named_in_a_structure(duplicate):
    """So an optimizer that comes along has the arrays of the model that comes along."""
    model = MODELS["softmax"]()
    params, other = COPIES[duplicate]((model.params, model))
    assert other.params is params
    other, params = COPIES[duplicate]([model, model.params])
    assert other.params is params
    assert trained(other, gdgpu.Momentum(params, lr=0.01)) == trained(model, momentum(model))


@pytest.mark.parametrize("order", [("model", "optimizer"), ("optimizer", "model")])
@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("name", ["huber", "mlp"])
def test_a_pair_goes_on_together(name, duplicate, order):
    model = MODELS[name]()
    optimizer = gdgpu.Adam(model.params, lr=0.01)
    trained(model, optimizer)
    pair = {"model": model, "optimizer": optimizer}
    other = COPIES[duplicate]({part: pair[part] for part in order})
    assert other["optimizer"].params is other["model"].params
    assert trained(model, optimizer) == trained(other["model"], other["optimizer"])
    assert_same_params(model, other["model"])


def test_a_shallow_copy_has_the_same_arrays():
    model = MODELS["linear"]()
    other = copy.copy(model)
    assert other.params is model.params
    trained(other, momentum(model))
    [(X, _)] = batches(model, 1)
    assert_same_bits(model.predict(X), other.predict(X))


def test_replaced_params_are_what_is_copied():
    model = MODELS["linear"]()
    model.params["weight"] = np.ones_like(model.params["weight"])
    other = copy.deepcopy(model)
    assert trained(model, momentum(model)) == trained(other, momentum(other))
    assert_same_params(model, other)


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("pieces", [(3, 40), (1,), ()])
def test_an_accumulator_goes_on_with_the_bits_of_the_original(duplicate, pieces):
    rng = np.random.default_rng(2)
    params = {"a": np.zeros((3, 5), "float32"), "b": np.zeros(7, "float64")}

    def piece(count):
        return {name: rng.normal(size=(count, *w.shape)).astype(w.dtype) for name, w in params.items()}

    sums = gdgpu.Accumulator(params)
    for count in pieces:
        sums.add(piece(count))
    other = COPIES[duplicate](sums)
    assert repr(other) == repr(sums) == f"Accumulator(2 arrays of 22 elements, count={sum(pieces)}, device='cpu')"
    more, last = piece(65), piece(2)
    for each in (sums, other):
        each.add(more, weights=np.arange(65))
    other_before = other.result("sum")
    sums.add(last)
    assert sums.count == other.count + 2
    for name in params:
        assert_same_bits(other.result("sum")[name], other_before[name])
    other.add(last)
    for name, array in sums.result().items():
        assert_same_bits(array, other.result()[name])


def test_a_shallow_copy_of_an_accumulator_counts_alone():
    sums = gdgpu.Accumulator(np.zeros(4, "float32"))
    sums.add(np.ones((3, 4), "float32"))
    other = copy.copy(sums)
    other.add(np.ones((2, 4), "float32"))
    assert (sums.count, other.count) == (3, 5)
    np.testing.assert_array_equal(sums.result("sum"), np.full(4, 3, "float32"))


def test_a_history_says_how_it_ended_on_one_line():
    model = MODELS["linear"]()
    X, t = next(batches(model))
    history = gdgpu.fit(model, X, t, momentum(model), epochs=2, validation=(X, t))
    last = history.epochs[-1]
    figures = f"loss={last['loss']!r}, test_loss={last['test_loss']!r}, test_metric={last['test_metric']!r}"
    assert repr(history) == f"History(model='linear', optimizer='momentum', epochs=2, {figures})"
    assert repr(gdgpu.History({})) == "History(epochs=0)"
    assert pickled(history) == history


def test_a_pickle_comes_back_to_the_device_of_its_name(monkeypatch):
    """With arrays on the host: where that device is not, it says why."""
    text = pickle.dumps(MODELS["mlp"]())
    monkeypatch.setattr(gdgpu.devices, "NAMES", ("auto", "cuda"))
    with pytest.raises(ValueError, match="device: expected one of auto, cuda, got 'cpu'"):
        pickle.loads(text)
