"""Bound steps: the bits of step() with what the arrays hold by then; checked once, with no work per tensor."""

import gc
import sys
import weakref

import numpy as np
import pytest

import gdgpu
from support.arrays import shifted
from support.checks import BAD_GRADIENTS, BAD_SAMPLES, optimizer_and_inputs, refused
from support.optimizers import make, schedule, snapshot
from support.references import assert_same_bits, samples, sums_of
from support.structures import arrays, leaves, mapped, params_of

SHAPES = [(7,), [(3, 4), ()], {"a": (0,), "b": (33,)}]  # of one array, a list, a dict
ROWS = {
    "SGD": {"lr": 0.1},
    "SGD-dampening": {"lr": 0.1},
    "Momentum": {"lr": schedule, "nesterov": True},
    "Adam": {"lr": 0.01, "weight_decay": 0.1},
}


class Pair:
    """Equal optimizers over groups: the inputs are bound to one of them, the other is told each time."""

    def __init__(self, row="Momentum", dtypes=("float32",), rows=40, **hyper):
        def optimizer():
            groups = [{"params": arrays(s, 0, dtypes)} for s in SHAPES]
            return make(row, groups, **ROWS[row] | hyper)

        self.bound, self.plain, self.seed = optimizer(), optimizer(), 0
        self.grads, self.G = ([arrays(s, 1, dtypes, batch) for s in SHAPES] for batch in ((), (rows,)))
        self.weights = samples((rows,), sums_of(dtypes[0]).name, 3)

    def refill(self):
        """New contents for all that is read."""
        for array in leaves([self.grads, self.G, self.weights]):
            self.seed += 1
            array[...] = np.random.default_rng(self.seed).standard_normal(array.shape)

    def same(self):
        for one, two in zip(params_of(self.bound), params_of(self.plain), strict=True):
            assert_same_bits(one, two)
        one, two = self.bound.state_dict(), self.plain.state_dict()
        for actual, expected in zip(leaves(one.pop("state")), leaves(two.pop("state")), strict=True):
            assert_same_bits(actual, expected)
        assert one == two


@pytest.mark.parametrize(
    ("row", "dtypes"),
    [(row, ("float32",)) for row in ROWS]
    + [("Momentum", ("float64",)), ("Momentum", ("float16", "bfloat16", "float32"))],
)
def test_a_run_is_a_step_with_what_the_arrays_hold(row, dtypes):
    pair = Pair(row, dtypes)
    step, step_samples = pair.bound.bind(pair.grads), pair.bound.bind_samples(pair.G, pair.weights)
    pair.same()  # binding takes no step
    for _ in range(3):
        pair.refill()
        step()
        pair.plain.step(pair.grads)
        step_samples()
        pair.plain.step_samples(pair.G, pair.weights)
        pair.same()
    assert pair.bound.steps == 6


@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("reduction", ("mean", "sum"))
@pytest.mark.parametrize("rows", (0, 1, 2100))
@pytest.mark.parametrize("threads", ((1, 2), (3, 1)))
def test_batches_of_any_size_on_any_threads(rows, reduction, weighted, threads, use_threads):
    """Rows are split, or not, for the threads of the time when it was bound."""
    pair = Pair(rows=rows)
    weights = pair.weights if weighted else None
    use_threads(threads[0])
    run = pair.bound.bind_samples(pair.G, weights, reduction)
    use_threads(threads[1])
    for _ in range(2):
        pair.refill()
        run()
        pair.plain.step_samples(pair.G, weights, reduction)
        pair.same()


@pytest.mark.parametrize("row", ROWS)
def test_bound_and_plain_steps_take_turns(row):
    pair = Pair(row)
    others = [mapped(lambda g: np.array(-g), part) for part in pair.grads]
    batch = [mapped(lambda g: np.repeat(2 * g, 3, axis=0), part) for part in pair.G]
    runs = [
        (pair.bound.bind(pair.grads), "step", pair.grads),
        (pair.bound.bind(others), "step", others),
        (pair.bound.bind_samples(pair.G), "step_samples", pair.G),
        (pair.bound.bind_samples(batch), "step_samples", batch),
    ]
    for _ in range(2):
        for run, name, given in runs:
            run()
            getattr(pair.plain, name)(given)
            for optimizer in (pair.bound, pair.plain):
                optimizer.step(others)
                optimizer.step_samples(pair.G)
            pair.same()


def to_optimizer(value):
    return lambda optimizer: setattr(optimizer, "lr", value)


def to_group(value):
    return lambda optimizer: setattr(optimizer.groups[1], "lr", value)


def loaded(**hyper):
    """Load what an optimizer with other hyperparameters and state holds."""

    def load(optimizer):
        other = Pair(type(optimizer).__name__, lr=0.3, **hyper)
        other.plain.step_samples(other.G)
        optimizer.load_state_dict(other.plain.state_dict())

    return load


CHANGES = {
    "lr": ("Momentum", to_optimizer(0.5)),
    "a function": ("Adam", to_optimizer(lambda steps: 1 / (steps + 2))),
    "a group's lr": ("SGD", to_group(0.5)),
    "a group's function": ("SGD-dampening", to_group(lambda steps: 1 / (steps + 2))),
    "another flag": ("Momentum", loaded(nesterov=False)),
    "two flags and numbers": ("Momentum", loaded(nesterov=False, maximize=True, momentum=0.25, weight_decay=0.5)),
    "running products": ("Adam", loaded(betas=(0.25, 0.5), eps=0.125, maximize=True)),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_changes_after_binding_is_seen(case):
    row, change = CHANGES[case]
    pair, unchanged = Pair(row), Pair(row)
    runs = [(pair.bound.bind(pair.grads), pair.bound.bind_samples(pair.G)) for _ in range(2)]
    for pass_ in range(3):
        for step, step_samples in runs:
            step()
            step_samples()
            for optimizer in (pair.plain, unchanged.plain):
                optimizer.step(pair.grads)
                optimizer.step_samples(pair.G)
        pair.same()
        if pass_ == 0:
            change(pair.bound)
            change(pair.plain)
    assert any((a != b).any() for a, b in zip(params_of(pair.bound), params_of(unchanged.plain), strict=True))


def test_a_state_that_is_refused_leaves_bound_steps_as_they_are():
    pair = Pair("Adam")
    run = pair.bound.bind(pair.grads)
    run()
    with refused("state_dict"):
        pair.bound.load_state_dict(pair.bound.state_dict() | {"carried": {}})
    run()
    for _ in range(2):
        pair.plain.step(pair.grads)
    pair.same()


@pytest.mark.parametrize("bad", (np.nan, -1.0, "fast", 1e39))
def test_a_schedule_that_fails_leaves_everything(bad):
    pair = Pair("Adam", lr=lambda steps: 0.1 if steps < 2 else bad)
    runs = pair.bound.bind(pair.grads), pair.bound.bind_samples(pair.G)
    for run in runs:
        run()
    pair.plain.step(pair.grads)
    pair.plain.step_samples(pair.G)
    for run in runs:
        with refused("lr"):
            run()
    pair.bound.lr = pair.plain.lr = 0.25
    pair.same()
    runs[0]()
    pair.plain.step(pair.grads)
    pair.same()


@pytest.mark.parametrize("case", BAD_GRADIENTS)
def test_gradients_that_are_refused(case):
    optimizer, grads, _ = optimizer_and_inputs()
    before = snapshot(optimizer)
    with refused("grads|params"):
        optimizer.bind(BAD_GRADIENTS[case](grads, optimizer.params))
    assert snapshot(optimizer) == before
    optimizer.bind(grads)()


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_samples_that_are_refused(case):
    optimizer, _, G = optimizer_and_inputs()
    before = snapshot(optimizer)
    with refused("G|params"):
        optimizer.bind_samples(BAD_SAMPLES[case](G, optimizer.params))
    assert snapshot(optimizer) == before
    optimizer.bind_samples(G)()


BAD_WEIGHTS = {
    "float64": lambda w: np.ones(5),
    "float16": lambda w: np.ones(5, np.float16),
    "integers": lambda w: np.ones(5, np.int32),
    "bools": lambda w: np.ones(5, bool),
    "a list": lambda w: [1.0] * 5,
    "a number": lambda w: 1.0,
    "too short": lambda w: np.ones(4, np.float32),
    "too long": lambda w: np.ones(6, np.float32),
    "a column": lambda w: np.ones((5, 1), np.float32),
    "every second": lambda w: np.ones(10, np.float32)[::2],
    "backwards": lambda w: np.ones(5, np.float32)[::-1],
    "broadcast": lambda w: np.broadcast_to(np.float32(1), (5,)),
    "between elements": lambda w: shifted(np.ones(5, np.float32)),
    "foreign byte order": lambda w: np.ones(5, ">f4"),
    "in the parameters": lambda w: w[3:],
}
OF_DTYPE = ("float64", "float16", "integers", "bools", "a list", "a number", "foreign byte order")


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights_that_are_refused(case):
    w = np.ones(8, np.float32)
    optimizer = gdgpu.SGD(w, 0.1)
    with refused("weights|params", TypeError if case in OF_DTYPE else ValueError):
        optimizer.bind_samples(samples((5, 8), "float32"), BAD_WEIGHTS[case](w))
    assert (w == 1).all() and optimizer.steps == 0


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_weights_cannot_have_two_dtypes(dtype):
    """What step_samples casts for each, bind_samples reads as it is."""
    params = [np.ones(3, np.float32), np.ones(3)]
    G = [np.ones((5, 3), np.float32), np.ones((5, 3))]
    with refused("weights", TypeError):
        gdgpu.SGD(params, 0.1).bind_samples(G, np.ones(5, dtype))


def test_reductions_that_are_refused():
    optimizer, _, G = optimizer_and_inputs()
    with refused("reduction"):
        optimizer.bind_samples(G, reduction="avg")


@pytest.mark.parametrize("row", ("SGD", "Adam"))
def test_arrays_live_as_long_as_they_are_bound(row):
    pair = Pair(row)
    runs = [pair.bound.bind(pair.grads), pair.bound.bind_samples(pair.G, pair.weights)]
    pair.plain.step(pair.grads)
    pair.plain.step_samples(pair.G, pair.weights)
    bound, plain = pair.bound, pair.plain
    watched = [weakref.ref(array) for array in leaves([pair.grads, pair.G, pair.weights])]
    params = params_of(bound)
    del pair, bound
    gc.collect()
    assert all(ref() is not None for ref in watched)
    for run in runs:
        run()
    for one, two in zip(params, params_of(plain), strict=True):
        assert_same_bits(one, two)
    del runs, run
    gc.collect()
    assert all(ref() is None for ref in watched)


def operations(call):
    """The bytecode instructions that a call executes, in order: (function, offset) of each."""
    seen, before = [], sys.gettrace()

    def trace(frame, event, argument):
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen.append((frame.f_code.co_qualname, frame.f_lasti))
        return trace

    gc.disable()  # what it calls is not the step's
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
        gc.enable()
    return seen


@pytest.mark.parametrize("dtypes", [("float32",), ("float32", "bfloat16")], ids="+".join)
@pytest.mark.parametrize("row", ROWS)
def test_a_run_does_nothing_for_each_tensor(row, dtypes, use_threads):
    use_threads(1)

    def found(count):
        params, grads, G = (arrays([(*batch, 3)] * count, 0, dtypes) for batch in ((), (), (5,)))
        optimizer = make(row, params, **ROWS[row])
        calls = [
            optimizer.bind(grads),
            optimizer.bind_samples(G, np.ones(5, np.float32)),
            lambda: optimizer.step(grads),
        ]
        for call in calls:  # dampening begins with the second step
            call()
        return [operations(call) for call in calls]

    (*few, _), (*some, _), (*many, plain) = map(found, (2, 10, 1000))
    assert few == some == many
    assert len(plain) > 1000  # what is not bound is checked, tensor by tensor: this would be seen


@pytest.mark.parametrize("kind", ("step", "samples"))
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_gradient_that_torch_has_dropped(dtype, kind):
    """Where nobody else has what is bound, no new gradient ever comes there."""
    torch = pytest.importorskip("torch", reason="needs torch: install gdgpu[peers]")
    w = torch.nn.Parameter(torch.ones(3, dtype=getattr(torch, dtype)))

    def bound(keep):
        w.grad = torch.ones_like(w)
        optimizer = gdgpu.SGD(w.detach(), 0.125)
        if kind == "step":
            return optimizer.bind(keep(w.grad))
        w.grad_sample = torch.ones((2, 3), dtype=w.dtype)
        return optimizer.bind_samples(keep(w.grad_sample))

    def drop():
        w.grad = w.grad_sample = None

    references = []
    for keep in (lambda g: references.append(g) or g, lambda g: references.append(g.view(-1)) or g, lambda g: g[:]):
        run = bound(keep)
        run()
        if references:
            drop()
        run()  # the user has it, or a view of it; or what was bound is a view, and gone at once
    run = bound(lambda g: g)
    run()
    w.grad.zero_()
    run()
    before = w.tolist()
    drop()
    with pytest.raises(RuntimeError, match=r"\A(grads|G): nobody else has this tensor[^\n]*zero_grad[^\n]*\Z"):
        run()
    assert w.tolist() == before
