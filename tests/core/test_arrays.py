"""What arrays and arguments are taken, and that all others are refused on one line before anything is touched."""

import numpy as np
import pytest

import gdgpu
from support.arrays import OnlyDLPack, readonly, shifted, torch_with_grad
from support.checks import BAD_GRADIENTS, BAD_SAMPLES, optimizer_and_inputs, refused
from support.optimizers import snapshot
from support.references import assert_same_bits, dtype_of, samples

NAN, INF = np.nan, np.inf


TWO = np.zeros(8, np.float32)
PARAMS = {
    "read-only": lambda: readonly(np.zeros(4)),
    "every second": lambda: np.zeros(8)[::2],
    "backwards": lambda: np.zeros(4)[::-1],
    "transposed": lambda: np.zeros((3, 4)).T,
    "broadcast": lambda: np.broadcast_to(np.zeros(1), (4,)),
    "integers": lambda: np.zeros(4, int),
    "complex": lambda: np.zeros(4, complex),
    "objects": lambda: np.zeros(4, object),
    "records": lambda: np.zeros(4, [("a", "f4")]),
    "foreign byte order": lambda: np.zeros(4, ">f4"),
    "between elements": lambda: shifted(np.zeros(4)),
    "a list of numbers": lambda: [1.0, 2.0],
    "a number": lambda: 1.0,
    "none": lambda: None,
    "text": lambda: "weights",
    "nested": lambda: {"a": {"b": np.zeros(3)}},
    "one array twice": lambda: [TWO, TWO],
    "overlapping": lambda: {"a": TWO[:5], "b": TWO[4:]},
    "one inside the other": lambda: [np.zeros(3), TWO, TWO[2:3]],
    "requires grad": lambda: [torch_with_grad(4)],
}


@pytest.mark.parametrize("case", PARAMS)
def test_parameters_that_are_refused(case):
    with refused("params"):
        gdgpu.SGD(PARAMS[case](), 0.1)


@pytest.mark.parametrize("case", ("integers", "objects", "foreign byte order", "a number", "nested", "requires grad"))
def test_an_accumulators_parameters_that_are_refused(case):
    with refused("params"):
        gdgpu.Accumulator(PARAMS[case]())


RANGES = {
    "lr": (-1e-9, NAN, INF, -INF, "0.1", True, None, 1j, [0.1], 10**400),
    "momentum": (-0.1, 1, 1.5, NAN, INF, "0.9", True, None),
    "dampening": (-0.1, 1.5, NAN, "0", False),
    "weight_decay": (-0.1, NAN, INF, "0", None),
    "nesterov": (1, 0.0, "yes", None),
    "maximize": (1, "yes", None),
}


OUT_OF_RANGE = [
    pytest.param(optimizer, name, value, id=f"{optimizer.__name__}-{name}-{value!s:.9}")
    for optimizer in (gdgpu.SGD, gdgpu.Momentum)
    for name, values in RANGES.items()
    for value in values
    if optimizer is gdgpu.SGD or name != "dampening"
]


@pytest.mark.parametrize(("optimizer", "name", "value"), OUT_OF_RANGE)
def test_hyperparameters_that_are_refused(optimizer, name, value):
    with refused(name):
        optimizer(np.zeros(3), **({"lr": 0.1} | {name: value}))


@pytest.mark.parametrize("hyper", [{"momentum": 0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_without_dampening(hyper):
    with refused("nesterov", ValueError):
        gdgpu.SGD(np.zeros(3), 0.1, nesterov=True, **hyper)


@pytest.mark.parametrize("value", (0, 0.0, 3, np.float32(0.5), np.int64(2)))
def test_numbers_that_are_taken(value):
    assert gdgpu.SGD(np.zeros(3), value).lr == value


@pytest.mark.parametrize("case", [*BAD_GRADIENTS, "the parameters", "another's parameter"])
def test_gradients_that_are_refused(case):
    optimizer, grads, _ = optimizer_and_inputs()
    before = snapshot(optimizer)
    if case == "the parameters":
        bad = optimizer.params
    elif case == "another's parameter":
        wide = np.zeros(20)
        params = {"a": wide[:6], "b": np.zeros(6, np.float32)}
        optimizer, bad = gdgpu.Momentum(params, 0.1), {"a": wide[5:11], "b": np.ones(6, np.float32)}
        before = snapshot(optimizer)
    else:
        bad = BAD_GRADIENTS[case](grads, optimizer.params)
    for _ in range(2):  # the second time from what is remembered of the first
        with refused("grads|params"):
            optimizer.step(bad)
        assert snapshot(optimizer) == before
    if case != "another's parameter":
        optimizer.step(grads)


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_samples_that_are_refused(case):
    optimizer, _, G = optimizer_and_inputs()
    bad, before = BAD_SAMPLES[case](G, optimizer.params), snapshot(optimizer)
    for _ in range(2):
        with refused("G|params"):
            optimizer.step_samples(bad)
        assert snapshot(optimizer) == before
    optimizer.step_samples(G)


BAD_WEIGHTS = {
    "too short": lambda: np.ones(6),
    "too long": lambda: np.ones(8),
    "a number": lambda: 2.0,
    "a column": lambda: np.ones((7, 1)),
    "text": lambda: ["a"] * 7,
    "complex": lambda: np.ones(7, complex),
    "objects": lambda: [None] * 7,
    "ragged": lambda: [[1.0], [2.0, 3.0]],
    "requires grad": lambda: torch_with_grad(7),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_are_refused(case):
    optimizer, _, G = optimizer_and_inputs()
    before = snapshot(optimizer)
    out = np.full(6, 7.0)
    with refused("weights"):
        gdgpu.reduce_samples(G["b"], BAD_WEIGHTS[case](), out=out)
    assert (out == 7).all()
    with refused("weights"):
        optimizer.step_samples(G, BAD_WEIGHTS[case]())
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("reduction", ("avg", "", None, 1, "Mean", ["mean"]))
def test_reductions_that_are_refused(reduction):
    optimizer, _, G = optimizer_and_inputs()
    before = snapshot(optimizer)
    with refused("reduction"):
        gdgpu.reduce_samples(G["b"], reduction=reduction)
    with refused("reduction"):
        optimizer.step_samples(G, reduction=reduction)
    assert snapshot(optimizer) == before


OVERLAPS = {
    "weights in the parameters": lambda w, G, c: gdgpu.SGD(w, 0.1).step_samples(G, w),
    "weights in out": lambda w, G, c: gdgpu.reduce_samples(G, w, out=w),
    "samples in out": lambda w, G, c: gdgpu.reduce_samples(G, c, out=G[2]),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_what_is_written_must_not_be_read(case):
    w, G, c = np.ones(8), samples((8, 8), "float64"), np.ones(8)
    before = w.tobytes(), G.tobytes()
    with refused("weights|G|params|out"):
        OVERLAPS[case](w, G, c)
    assert (w.tobytes(), G.tobytes()) == before


OUT = {
    "shape": lambda G: np.zeros(5),
    "dtype": lambda G: np.zeros(6, np.float32),
    "read-only": lambda G: readonly(np.zeros(6)),
    "every second": lambda G: np.zeros(12)[::2],
    "a list": lambda G: [0.0] * 6,
    "in G": lambda G: G[3],
}


@pytest.mark.parametrize("case", OUT)
def test_out_that_is_refused(case):
    G = samples((7, 6), "float64")
    before = G.tobytes()
    with refused("out|G"):
        gdgpu.reduce_samples(G, out=OUT[case](G))
    assert G.tobytes() == before


@pytest.mark.parametrize("bad", (NAN, -1.0, "fast", None))
def test_a_schedule_that_fails_leaves_everything(bad):
    optimizer, grads, G = optimizer_and_inputs()
    optimizer.lr = lambda steps: bad
    arrays = [array.tobytes() for array in optimizer.params.values()]
    for step, given in ((optimizer.step, grads), (optimizer.step_samples, G)):
        with refused("lr"):
            step(given)
        assert [array.tobytes() for array in optimizer.params.values()] == arrays and optimizer.steps == 1


@pytest.mark.parametrize("value", RANGES["lr"], ids=lambda value: f"{value!s:.9}")
def test_an_lr_that_is_refused_is_not_kept(value):
    optimizer = gdgpu.SGD(np.zeros(3), 0.5)
    with refused("lr"):
        optimizer.lr = value
    assert optimizer.lr == 0.5


BAD_STATE = {
    "not a dict": lambda s: None,
    "a key short": lambda s: {k: v for k, v in s.items() if k != "steps"},
    "another optimizer": lambda s: gdgpu.SGD({"a": np.zeros((4, 3), np.float32), "b": np.zeros(6)}, 0.1).state_dict(),
    "steps": lambda s: s | {"steps": -1},
    "steps of text": lambda s: s | {"steps": "3"},
    "momentum": lambda s: s | {"hyper": s["hyper"] | {"momentum": 2.0}},
    "lr": lambda s: s | {"hyper": s["hyper"] | {"lr": NAN}},
    "hyper short": lambda s: s | {"hyper": {"lr": 0.1}},
    "hyper": lambda s: s | {"hyper": None},
    "state": lambda s: s | {"state": {}},
    "state shape": lambda s: s | {"state": {"velocity": s["state"]["velocity"] | {"b": np.zeros(5)}}},
    "state dtype": lambda s: s | {"state": {"velocity": s["state"]["velocity"] | {"b": np.zeros(6, np.float32)}}},
    "state keys": lambda s: s | {"state": {"velocity": {"a": s["state"]["velocity"]["a"]}}},
    "state structure": lambda s: s | {"state": {"velocity": list(s["state"]["velocity"].values())}},
}


@pytest.mark.parametrize("case", BAD_STATE)
def test_states_that_are_refused(case):
    optimizer, grads, _ = optimizer_and_inputs()
    saved = optimizer.state_dict()
    optimizer.step(grads)
    before = snapshot(optimizer)
    with refused("state_dict"):
        optimizer.load_state_dict(BAD_STATE[case](saved))
    assert snapshot(optimizer) == before
    optimizer.load_state_dict(saved)


def test_any_array_that_speaks_dlpack():
    w, g, G = np.ones(4), np.full(4, 2.0), np.full((3, 4), 5.0)
    optimizer = gdgpu.SGD([OnlyDLPack(w)], 0.5)
    optimizer.step([OnlyDLPack(g)])
    assert (w == 0).all()
    optimizer.step_samples([OnlyDLPack(G)])
    assert (w == -2.5).all()
    out = np.zeros(4)
    assert gdgpu.reduce_samples(OnlyDLPack(G), out=out) is out and (out == 5).all()


@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32", "float64"))
def test_torch_tensors_are_updated_in_place(dtype):
    torch = pytest.importorskip("torch", reason="zero copy from torch")
    start, gradient = samples((40,), dtype, 1), samples((40,), dtype, 2)

    def tensor(array):
        return torch.from_numpy(array.astype(np.float64)).to(getattr(torch, dtype))

    w, g, G = tensor(start), tensor(gradient), tensor(samples((9, 40), dtype, 3))
    address, same = w.data_ptr(), start.copy()
    for params, grads, batch in ((w, g, G), (same, gradient, samples((9, 40), dtype, 3))):
        optimizer = gdgpu.Momentum(params, 0.1)
        optimizer.step(grads)
        optimizer.step_samples(batch)
        assert optimizer.params is params
    assert w.data_ptr() == address and w.dtype == getattr(torch, dtype)
    assert_same_bits(w.double().numpy().astype(dtype_of(dtype)), same)
    assert_same_bits(gdgpu.reduce_samples(G), gdgpu.reduce_samples(samples((9, 40), dtype, 3)))
    module = torch.nn.Parameter(w)
    with refused("params", TypeError):
        gdgpu.SGD(module, 0.1)
    gdgpu.SGD(module.detach(), 0.1)


@pytest.mark.parametrize("asked", ("gpu", "cuda"))
def test_asking_for_a_device_that_is_not_there_says_why(asked, python):
    script = (
        "import numpy, gdgpu\n"
        "from gdgpu import devices\n"
        "devices.why_no_cuda = lambda: 'no CUDA device was found'\n"
        "out = numpy.full(2, 7.0)\n"
        "try: gdgpu.reduce_samples(numpy.zeros((3, 2)), out=out)\n"
        "except ValueError as error: print(error)\n"
        "assert (out == 7).all()\n"
    )
    shown = python(script, GDGPU_DEVICE=asked, NUMBA_ENABLE_CUDASIM=None)
    assert shown.startswith("GDGPU_DEVICE: ") and asked in shown and shown.count("\n") == 1


def test_lr_must_fit_the_parameters_precision():
    w = np.ones(3, np.float32)
    with refused("lr"):
        gdgpu.SGD(w, 1e39)
    optimizer = gdgpu.SGD(w, lambda steps: 1e39)
    with refused("lr"):
        optimizer.step(np.ones(3, np.float32))
    assert (w == 1).all() and optimizer.steps == 0
