"""SGD and Momentum mean what torch.optim.SGD and the closed forms say; state can be saved; tensors are independent."""

import itertools
import math

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.rules.table import RULES
from gdgpu.optimizers.base import Optimizer
from support.covering import usual
from support.memory import peak_of
from support.optimizers import NAMES, OPTIMIZERS, arguments_of, deciding, make, rule_of, schedule
from support.references import DTYPES, assert_same_bits, dtype_of, samples
from support.tolerances import TOLERANCE, close

SGD_TABLE = [
    {"momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov, "maximize": maximize}
    for momentum, dampening, decay, nesterov, maximize in itertools.product(
        (0, 0.9), (0, 0.3), (0, 0.1), (False, True), (False, True)
    )
    if not (nesterov and (momentum == 0 or dampening))
]


def label(hyper):
    return "-".join(f"{k}={v}" for k, v in hyper.items() if v) or "plain"


@pytest.mark.parametrize("lr", (0.05, schedule), ids=("constant", "schedule"))
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hyper", SGD_TABLE, ids=label)
def test_sgd_is_torchs(hyper, dtype, lr):
    torch = pytest.importorskip("torch", reason="torch.optim.SGD is the reference")
    w, steps = samples((200,), dtype, wide=False), 50
    gradients = samples((steps, 200), dtype, wide=False)
    theirs = torch.tensor(w, requires_grad=True)
    reference = torch.optim.SGD([theirs], lr=0.05, **hyper)
    ours = gdgpu.SGD(w, lr, **hyper)
    for step, g in enumerate(gradients):
        ours.step(g)
        reference.param_groups[0]["lr"] = lr(step) if callable(lr) else lr
        theirs.grad = torch.from_numpy(g)
        reference.step()
    close(w, theirs.detach().numpy(), dtype)
    state = ours.state_dict()["state"]
    if hyper["momentum"]:
        close(state["momentum_buffer"], reference.state[theirs]["momentum_buffer"].numpy(), dtype)
    else:
        assert state == {}


@pytest.mark.parametrize("lr", (0.05, schedule), ids=("constant", "schedule"))
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("momentum", (0.0, 0.5, 0.99))
@pytest.mark.parametrize("nesterov", (False, True))
@pytest.mark.parametrize("sign", (1, -1), ids=("minimize", "maximize"))
def test_momentum_is_the_closed_form(momentum, dtype, lr, nesterov, sign):
    """v_t = -sum_k momentum^k lr_{t-k} g_{t-k}; w_t = w_0 + sum of v, or with nesterov of momentum * v_t - lr_t g_t."""
    start, steps = samples((100,), dtype, wide=False), 40
    gradients = samples((steps, 100), dtype, wide=False)
    w = start.copy()
    optimizer = gdgpu.Momentum(w, lr, momentum=momentum, nesterov=nesterov, maximize=sign < 0)
    for g in gradients:
        optimizer.step(g)
    rates = np.array([lr(t) if callable(lr) else lr for t in range(steps)])
    pushes = -sign * rates[:, None] * gradients.astype(np.float64)
    velocities = [sum(momentum**k * pushes[t - k] for k in range(t + 1)) for t in range(steps)]
    moves = [momentum * v + p for v, p in zip(velocities, pushes, strict=True)] if nesterov else velocities
    close(optimizer.state_dict()["state"]["velocity"], velocities[-1], dtype)
    close(w, start + np.sum(moves, axis=0), dtype)


@pytest.mark.parametrize("nesterov", (False, True))
def test_momentum_is_sgd_while_lr_stays(nesterov):
    a, b = samples((300,), "float64"), samples((300,), "float64")
    ours = gdgpu.Momentum(a, 0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.2)
    torchs = gdgpu.SGD(b, 0.1, momentum=0.8, nesterov=nesterov, weight_decay=0.2)
    for g in samples((30, 300), "float64", 1):
        ours.step(g)
        torchs.step(g)
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_each_step_of_momentum_keeps_its_own_lr_and_sgds_do_not():
    """One gradient, then none: the velocity goes on with the lr that made it, torch's buffer with today's."""
    for optimizer, second in ((gdgpu.Momentum, 1.0), (gdgpu.SGD, 0.25)):
        w = np.zeros(1)
        run = optimizer(w, 2.0, momentum=0.5)
        run.step(np.ones(1))
        assert w[0] == -2
        run.lr = 0.5
        run.step(np.zeros(1))
        assert w[0] == -2 - second


def test_lr_counts_completed_steps_and_can_be_assigned():
    asked = []

    def lr(steps):
        asked.append(steps)
        return 1.0 / (steps + 1)

    w = np.zeros(3)
    optimizer = gdgpu.SGD(w, lr)
    for _ in range(3):
        optimizer.step(np.ones(3))
    assert sorted(set(asked)) == [0, 1, 2] and optimizer.steps == 3 and optimizer.lr is lr
    np.testing.assert_allclose(w, -(1 + 1 / 2 + 1 / 3), rtol=1e-15)
    optimizer.lr = 0.25
    w[:] = 0
    optimizer.step(np.ones(3))
    assert (w == -0.25).all() and optimizer.lr == 0.25


def test_weight_decay_of_zero_does_not_touch_an_infinite_parameter():
    w = np.array([np.inf, 1.0])
    gdgpu.SGD(w, 0.5).step(np.array([1.0, 1.0]))
    np.testing.assert_array_equal(w, [np.inf, 0.5])


@pytest.mark.parametrize("hyper", [{}, {"nesterov": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("structure", (list, tuple, dict))
def test_many_tensors_are_as_if_alone(structure, hyper):
    shapes = [(3, 5), (), (0,), (70_000,), (2, 0), (17,), (4, 4), (1,)]
    dtypes = (*DTYPES, *DTYPES)

    def tensors(seed):
        arrays = [np.array(samples((1, *s), d, seed)[0]) for s, d in zip(shapes, dtypes, strict=True)]
        return arrays, {f"p{k}": a for k, a in enumerate(arrays)} if structure is dict else structure(arrays)

    alone, _ = tensors(0)
    together, given = tensors(0)
    many = gdgpu.Momentum(given, 0.1, **hyper)
    each = [gdgpu.Momentum(w, 0.1, **hyper) for w in alone]
    for seed in range(1, 4):
        gradients, given = tensors(seed)
        many.step(given)
        for optimizer, g in zip(each, gradients, strict=True):
            optimizer.step(g)
    velocities = many.state_dict()["state"]["velocity"]
    velocities = list(velocities.values()) if structure is dict else velocities
    for k, optimizer in enumerate(each):
        assert_same_bits(together[k], alone[k])
        assert_same_bits(velocities[k], optimizer.state_dict()["state"]["velocity"])


def test_no_parameters():
    for empty in ([], {}, np.empty(0), [np.empty((0, 3), np.float32)]):
        optimizer = gdgpu.Momentum(empty, 0.1)
        optimizer.step(empty)
        assert optimizer.steps == 1


def test_the_order_of_keys_does_not_matter():
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    gdgpu.SGD(params, 1.0).step({"b": np.full(2, 5.0), "a": np.full(2, 3.0)})
    assert (params["a"] == -3).all() and (params["b"] == -5).all()


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_16_bit_parameters_keep_float32_state(dtype):
    """The velocity adds up steps too small for the parameter's own precision."""
    w = np.ones(4, dtype_of(dtype))
    optimizer = gdgpu.Momentum(w, 2.0**-14, momentum=0.5)
    for _ in range(3):
        optimizer.step(np.ones(4, dtype_of(dtype)))
    velocity = optimizer.state_dict()["state"]["velocity"]
    assert velocity.dtype == np.float32 and (velocity == -(2.0**-14) * 1.75).all()
    assert (w == 1).all()


@pytest.mark.parametrize("k", (10, 100, 1000))
def test_rates_on_a_quadratic(k):
    """f = 1/2 sum h_i w_i^2, h from 1 to k. Heavy ball contracts by (√k - 1)/(√k + 1), descent by (k - 1)/(k + 1)."""
    h = np.geomspace(1, k, 5)
    root = math.sqrt(k)
    table = [
        (gdgpu.Momentum, 4 / (root + 1) ** 2, {"momentum": ((root - 1) / (root + 1)) ** 2}, (root - 1) / (root + 1)),
        (gdgpu.SGD, 2 / (k + 1), {}, (k - 1) / (k + 1)),
    ]
    for optimizer, lr, hyper, rate in table:
        w = np.ones(5)
        run, norms = optimizer(w, lr, **hyper), []
        steps = min(2000, int(500 / -math.log(rate)))  # before it underflows
        for _ in range(steps):
            run.step(h * w)
            norms.append(np.abs(w).max())
        late = math.log(norms[-1] / norms[steps // 2]) / (steps - 1 - steps // 2)
        # a double root makes the error t * rate^t: its slope is off by log 2 over half the steps
        assert late == pytest.approx(math.log(rate), abs=2 * math.log(2) / (steps / 2))


OVERRIDES = {"SGD-dampening": {"weight_decay": 0.1}, "Momentum": {"nesterov": True, "maximize": True}}


LAYOUTS = [(label, structure) for label in OPTIMIZERS for structure in ("array", "list", "dict")]
FEW_LAYOUTS = [(label, x) for label, x in LAYOUTS if x == "array" or label in ("SGD-dampening", "Adam")]


@pytest.mark.parametrize(("label", "structure"), usual(LAYOUTS, FEW_LAYOUTS))
def test_state_can_be_carried_over(label, structure):
    hyper = arguments_of(label, **OVERRIDES.get(label, {}))
    arrays = {"a": samples((6, 5), "float32"), "b": samples((9,), "float64")}
    gradients = [{k: samples(v.shape, v.dtype.name, s) for k, v in arrays.items()} for s in range(1, 6)]

    def shaped(tensors):
        return {"array": tensors["a"], "list": list(tensors.values()), "dict": tensors}[structure]

    straight = make(label, shaped(arrays), **hyper)
    for g in gradients[:2]:
        straight.step(shaped(g))
    copies = {k: v.copy() for k, v in arrays.items()}
    saved = straight.state_dict()
    assert saved["optimizer"] == type(straight).__name__.lower() and saved["steps"] == 2
    assert saved["hyper"]["lr"] == 0.1 and saved["hyper"].items() >= hyper.items()
    for g in gradients[2:]:
        straight.step(shaped(g))
    # the saved state is a copy: going on did not change it; other hyperparameters are replaced
    resumed = type(straight)(shaped(copies), 0.7, **deciding(hyper))
    resumed.load_state_dict(saved)
    assert resumed.steps == 2 and resumed.lr == 0.1
    for g in gradients[2:]:
        resumed.step(shaped(g))
    for k in ("a",) if structure == "array" else arrays:
        assert_same_bits(copies[k], arrays[k])


def test_every_class_and_every_rule_is_in_the_table_of_optimizers():
    """The one that tests take theirs from."""
    public = [getattr(gdgpu, name) for name in gdgpu.__all__]
    classes = {each.__name__ for each in public if isinstance(each, type) and issubclass(each, Optimizer)}
    assert {*NAMES} == classes - {"Optimizer"}
    assert {rule_of(label).name for label in OPTIMIZERS} == {*RULES}


def test_a_schedule_survives_loading():
    saved = gdgpu.SGD(np.zeros(2), 0.5).state_dict()
    optimizer = gdgpu.SGD(np.zeros(2), schedule)
    optimizer.load_state_dict(saved)
    assert optimizer.lr is schedule


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("B", (4, 64))
@pytest.mark.parametrize("optimizer", (gdgpu.SGD, gdgpu.Momentum))
def test_a_step_allocates_nothing_that_grows_with_the_parameters(optimizer, B, weighted, use_threads):
    P = 400_000
    use_threads(2)
    weights = np.ones(B, np.float32) if weighted else None
    small = optimizer(np.zeros(10, np.float32), 0.1)  # compiles
    small.step(np.zeros(10, np.float32))
    small.step_samples(np.zeros((B, 10), np.float32), weights)
    gdgpu.reduce_samples(np.zeros((B, 10), np.float32))
    w, g, G = (np.ones(shape, np.float32) for shape in (P, P, (B, P)))
    assert peak_of(lambda: np.ones(P, np.float32)) >= w.nbytes  # it would be noticed
    run = optimizer(w, 0.1)
    for call in (lambda: run.step(g), lambda: run.step_samples(G, weights), lambda: gdgpu.reduce_samples(G, out=g)):
        first, again = peak_of(call), min(peak_of(call) for _ in range(5))  # a helper's tile comes with its first share
        # a column tile of each thread, and tables with a row for some ten thousand columns
        assert first < w.nbytes / 4 and again < 20_000


def test_the_accumulator_holds_a_sum_for_each_level():
    P = 200_000
    G = np.ones((40, P), np.float32)
    warm = gdgpu.Accumulator(np.zeros(3, np.float32))
    warm.add(np.ones((40, 3), np.float32))
    sums_of_samples = []
    sums = 2 * P * 4  # 40 rows: two levels
    assert peak_of(lambda: sums_of_samples.append(gdgpu.Accumulator(G[0]))) < 1.1 * sums / 2
    assert peak_of(lambda: sums_of_samples[0].add(G)) < 1.1 * sums + sums / 2
    assert peak_of(lambda: sums_of_samples[0].add(G[:10])) < 20_000
