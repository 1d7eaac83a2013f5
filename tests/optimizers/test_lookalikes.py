"""What looks like an array and does not hold its values: one line that names the argument, and nothing is touched."""

import numpy as np
import pytest

import gdgpu

torch = pytest.importorskip("torch", reason="needs torch: install gdgpu[peers]")


def wrapping():
    """A tensor that only wraps another, as DTensor and FakeTensor do."""

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        def __init__(self, inner):
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            raise AssertionError("nothing is asked of it")

    return Wrapper(torch.ones(4))


def fake():
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake_tensor.FakeTensorMode():
        return torch.ones(4)


def without_memory():
    tensor = torch.ones(4)
    tensor.untyped_storage().resize_(0)
    return tensor


LOOKALIKES = {
    "wrapper": (wrapping, "only wraps"),
    "fake": (fake, "only wraps"),
    "sparse": (lambda: torch.ones(4).to_sparse(), "dense"),
    "sparse rows": (lambda: torch.ones(4, 1).to_sparse_csr(), "dense"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(2)]), "nested"),
    "meta": (lambda: torch.ones(4, device="meta"), "without memory"),
    "freed": (without_memory, "without memory"),
    "zeros that are not there": (lambda: torch._efficientzerotensor(4), "without memory"),
    "not initialised": (lambda: torch.nn.parameter.UninitializedParameter(requires_grad=False), "without memory"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "quantized"),
    "negated": (lambda: torch._neg_view(torch.ones(4)), "resolve_neg"),
    "conjugated": (lambda: torch.ones(4, dtype=torch.complex64).conj(), "resolve_conj"),
    "float8": (lambda: torch.ones(4).to(torch.float8_e4m3fn), "[Ff]loat8"),
    "requires grad": (lambda: torch.ones(4, requires_grad=True), "detach"),
    "masked": (lambda: np.ma.masked_array(np.ones(4, np.float32), [0, 1, 0, 0]), "mask"),
}


def model():
    return gdgpu.models.LinearRegression(1, device="cpu")


CALLS = {
    "params": (lambda a, w: gdgpu.SGD(a, 0.1), "params"),
    "step": (lambda a, w: gdgpu.SGD(w, 0.1).step(a), "grads"),
    "bind": (lambda a, w: gdgpu.SGD(w, 0.1).bind(a), "grads"),
    "step_samples": (lambda a, w: gdgpu.SGD(w, 0.1).step_samples(a), "G"),
    "weights": (lambda a, w: gdgpu.SGD(w, 0.1).step_samples(np.ones((4, 4), np.float32), weights=a), "weights"),
    "reduce": (lambda a, w: gdgpu.reduce_samples(a), "G"),
    "out": (lambda a, w: gdgpu.reduce_samples(w[None], out=a), "out"),
    "clip": (lambda a, w: gdgpu.clip_weights(a, 1.0), "norms"),
    "X": (lambda a, w: model().gradient(a, w), "X"),
    "t": (lambda a, w: model().gradient(w[:, None], a), "t"),
    "minibatches": (lambda a, w: gdgpu.minibatches(w, a, batch_size=2), r"arrays\[1\]"),
}
TAKEN = {("float8", "minibatches"), ("requires grad", "minibatches")}  # indexed as they are


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", LOOKALIKES)
def test_a_lookalike_is_refused(kind, call):
    make, says = LOOKALIKES[kind]
    (run, name), w = CALLS[call], np.ones(4, np.float32)
    if (kind, call) in TAKEN:
        pytest.skip("its rows are its own")
    with pytest.raises((TypeError, ValueError), match=rf"\A{name}: [^\n]*{says}[^\n]*\Z"):
        run(make(), w)
    assert (w == 1).all()


@pytest.mark.parametrize("make", [torch.nn.Buffer, lambda t: torch.nn.Parameter(t, requires_grad=False)])
def test_tensors_by_another_name_are_taken(make):
    w = make(torch.ones(4))
    gdgpu.SGD(w, 0.5).step(torch.ones(4))
    assert (w == 0.5).all()


class Labelled:
    """Stands for a series of pandas: its brackets take labels, `iloc` and NumPy positions."""

    def __init__(self, values, labels):
        self.values, self.labels, self.shape = np.asarray(values), list(labels), np.shape(values)

    def __getitem__(self, labels):
        return np.array([self.values[self.labels.index(label)] for label in np.atleast_1d(labels)])

    @property
    def iloc(self):
        return self.values

    def __array__(self, dtype=None, copy=None):
        return self.values


def frames(X, t, labels):
    """The samples as they may come: with labels that are a permutation of the positions."""
    yield X, Labelled(t, labels)
    try:
        import pandas
    except ImportError:
        return
    table = pandas.DataFrame(X, index=labels)
    table["t"] = t
    yield X, table["t"]
    yield table.drop(columns="t"), table["t"]


@pytest.mark.parametrize("shuffle", (False, True))
def test_data_frames_are_taken_by_position(shuffle):
    rng = np.random.default_rng(0)
    X, labels = rng.standard_normal((50, 3)), rng.permutation(50)
    t = X @ [1, 2, 3]
    plain = list(gdgpu.minibatches(X, t, batch_size=8, shuffle=shuffle))
    for x, y in frames(X, t, labels):
        batches = list(gdgpu.minibatches(x, y, batch_size=8, shuffle=shuffle))
        assert len(batches) == len(plain)
        for (found_X, found_t), (wanted_X, wanted_t) in zip(batches, plain, strict=True):
            assert np.array_equal(found_X, wanted_X) and np.array_equal(found_t, wanted_t)
        model = gdgpu.models.LinearRegression(3, device="cpu")
        assert model.loss(x, y) == model.loss(X, t)
