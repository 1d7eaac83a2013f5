"""Every hyperparameter is assignable, of the optimizer and of a group: what follows is what torch makes of the same."""

import inspect

import numpy as np
import pytest

import gdgpu
from gdgpu.optimizers import torch_state_dict
from support.optimizers import OPTIMIZERS, arguments_of, class_of, make, snapshot
from support.papers import heavy_ball, lamb, lars, lion
from support.references import assert_same_bits
from support.tolerances import far

BEFORE, AFTER = 5, 20  # steps
ASSIGNED = {
    "lr": 0.03,
    "momentum": 0.5,
    "dampening": 0.25,
    "weight_decay": 0.1,
    "betas": (0.7, 0.95),
    "eps": 1e-3,
    "alpha": 0.8,
    "rho": 0.7,
    "lr_decay": 0.2,
    "initial_accumulator_value": 0.3,
    "momentum_decay": 0.02,
    "trust_coefficient": 0.01,
}
NEW_STATE = ("momentum_buffer", "max_exp_avg_sq", "grad_avg")  # which torch looks for, and we begin with zeros


def hyperparameters(label):
    """Names of what the optimizer of this label takes."""
    return [n for n in inspect.signature(class_of(label)).parameters if n not in ("params", "common")]


def assigned(optimizer, name):
    """Another value for it."""
    return ASSIGNED.get(name, not getattr(optimizer, name))


CASES = [(label, name) for label in OPTIMIZERS for name in hyperparameters(label)]
IN_TORCH = [(label, name) for label, name in CASES if OPTIMIZERS[label][0] in torch_state_dict.NAMES]
OTHERS = [case for case in CASES if case not in IN_TORCH]


def gradients(steps=BEFORE + AFTER, size=40):
    return np.random.default_rng(3).standard_normal((steps, size))


def is_refused(label, name):
    """nesterov needs momentum > 0 and dampening = 0."""
    h = {"momentum": 0, "dampening": 0, "nesterov": False} | arguments_of(label)
    h |= {"momentum": 0.9} if label in ("Momentum", "LARS") else {}
    h[name] = ASSIGNED.get(name, not h.get(name))
    return OPTIMIZERS[label][0] in ("SGD", "LARS") and h["nesterov"] and not (h["momentum"] and not h["dampening"])


@pytest.mark.parametrize(("label", "name"), [case for case in IN_TORCH if not is_refused(*case)])
def test_an_assignment_is_torchs(label, name, torch):
    """Of the second of two groups too, and of the optimizer for the first alone."""
    for group in (None, 0, 1):
        start = np.random.default_rng(1).standard_normal((2, 40))
        params, theirs = [w.copy() for w in start], [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in start]
        ours = make(label, [{"params": params[0]}, {"params": params[1]}], lr=0.1)
        reference = class_of(label, torch.optim)([{"params": [w]} for w in theirs], lr=0.1, **arguments_of(label))
        for step, g in enumerate(gradients()):
            if step == BEFORE:
                value = assigned(ours, name)
                setattr(ours if group is None else ours.groups[group], name, value)
                for k, their_group in enumerate(reference.param_groups):
                    if group in (None, k):
                        their_group[name] = value
                        _begin(reference, their_group)
            for w in theirs:
                w.grad = torch.from_numpy(g)
            ours.step([g, g])
            reference.step()
        for w, their_w in zip(params, theirs, strict=True):
            assert far(w, their_w.detach().numpy()) <= 1e-12
        values = [getattr(g, name) for g in ours.groups]
        assert [v == value for v in values] == ([True, True] if group is None else [k == group for k in range(2)])


def _begin(reference, group):
    """Give torch's optimizer the state that it looks for from now on."""
    for w in group["params"]:
        state = reference.state[w]
        needed = {
            "momentum_buffer": group.get("momentum", 0) > 0 and "square_avg" in state,
            "max_exp_avg_sq": group.get("amsgrad"),
            "grad_avg": group.get("centered"),
        }
        for name in NEW_STATE:
            if needed[name] and state.get(name) is None:
                state[name] = w.detach() * 0


PAPERS = {"Momentum": heavy_ball, "Lion": lion, "LARS": lars, "LAMB": lamb}


@pytest.mark.parametrize(("label", "name"), OTHERS)
def test_an_assignment_is_the_formulas(label, name):
    """Of those that torch has not, in float64."""
    w = np.random.default_rng(1).standard_normal(40)
    expected, state, ours = w.copy(), {}, make(label, w, lr=0.1)
    for t, g in enumerate(gradients(), 1):
        if t == BEFORE + 1:
            setattr(ours, name, assigned(ours, name))
        hyper = ours.current()
        expected, state = PAPERS[label](expected, g, state, t, **hyper)
        ours.step(g)
    assert hyper[name] == getattr(ours, name) and far(w, expected) <= 1e-12


@pytest.mark.parametrize(("label", "name"), [case for case in CASES if is_refused(*case)])
def test_what_does_not_go_together_is_refused(label, name):
    optimizer = make(label, np.ones(3), lr=0.1)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"\Anesterov: needs [^\n]*\Z"):
        setattr(optimizer, name, assigned(optimizer, name))
    assert snapshot(optimizer) == before


BAD = {
    "lr": -1,
    "momentum": 1.0,
    "dampening": 2,
    "betas": (0.9, 1.0),
    "maximize": 1,
    "amsgrad": "yes",
    "eps": float("nan"),
}


@pytest.mark.parametrize("label", OPTIMIZERS)
def test_what_is_refused_changes_nothing(label):
    optimizer = make(label, [{"params": np.ones(3, np.float32)}, {"params": np.ones(2, np.float32)}], lr=0.1)
    run = optimizer.bind([np.ones(3, np.float32), np.ones(2, np.float32)])
    run()
    before = snapshot(optimizer), repr(optimizer)
    for name in hyperparameters(label):
        bad = {"weight_decay": 1e39} | BAD  # too large for float32
        for holder in (optimizer, optimizer.groups[1]):
            with pytest.raises((TypeError, ValueError), match=rf"\A{name}[^\n]*\Z"):
                setattr(holder, name, bad.get(name, -0.5 if name in ASSIGNED else None if holder is optimizer else 2))
    for holder in (optimizer, optimizer.groups[0]):
        for name in ("params", "groups", "kernel_device", "ema", "state", "weightdecay", "_something"):
            with pytest.raises(AttributeError, match=name):
                setattr(holder, name, 0.25)
    assert (snapshot(optimizer), repr(optimizer)) == before
    for name in ("lr", "maximize", "weight_decay"):  # nothing of what was refused comes back
        setattr(optimizer, name, assigned(optimizer, name))
    run()


@pytest.mark.parametrize("name", ("lr", "betas", "amsgrad", "maximize"))
@pytest.mark.parametrize("where", ("renew", "after"))
def test_an_interrupt_in_an_assignment_leaves_the_optimizer_as_it_was(name, where, monkeypatch):
    optimizers = [gdgpu.Adam([{"params": np.ones(9)}, {"params": np.ones(4)}], lr=0.1) for _ in range(2)]
    runs = [optimizer.bind([np.ones(9), np.ones(4)]) for optimizer in optimizers]
    for run in runs:
        run()
    engine, times = optimizers[0]._engine, []
    renew = type(engine).renew

    def interrupted(self):
        times.append(where == "after" and renew(self))
        if self is engine and len(times) == 1:
            raise KeyboardInterrupt
        renew(self)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(engine), "renew", interrupted)
        setattr(optimizers[0].groups[1], name, assigned(optimizers[0], name))
    assert len(times) == 2 and repr(optimizers[0]) == repr(optimizers[1])
    for run in (*runs, *runs):
        run()
    assert snapshot(optimizers[0]) == snapshot(optimizers[1])


def test_a_buffer_that_begins_late_is_not_dampened(torch):
    """The first gradient enters it whole, as the first of all would."""
    start = np.random.default_rng(1).standard_normal(40)
    w, their_w = start.copy(), torch.nn.Parameter(torch.from_numpy(start.copy()))
    ours, theirs = gdgpu.SGD(w, 0.1, dampening=0.5), torch.optim.SGD([their_w], 0.1, dampening=0.5)
    for step, g in enumerate(gradients()):
        if step == BEFORE:
            ours.momentum = theirs.param_groups[0]["momentum"] = 0.9
        their_w.grad = torch.from_numpy(g)
        ours.step(g)
        theirs.step()
    assert far(w, their_w.detach().numpy()) <= 1e-12


@pytest.mark.parametrize("label", OPTIMIZERS)
@pytest.mark.parametrize("kind", ("plain", "bound", "counted in memory"))
def test_however_steps_are_taken(label, kind):
    """Assigned to a bound step, or where only the device knows how many were taken: the bits of the plain step."""
    weights = []
    for how in ("plain", kind):
        w, g = np.random.default_rng(1).standard_normal((2, 300)).astype("float32")
        optimizer = make(label, w, lr=0.1)
        run = optimizer.bind(g) if how == "bound" else None
        for step, row in enumerate(gradients(size=300).astype("float32")):
            if step == BEFORE:
                for name in hyperparameters(label):
                    if not is_refused(label, name) and name not in ("amsgrad", "centered", "nesterov"):
                        setattr(optimizer, name, assigned(optimizer, name))
            g[:] = row
            if run:
                run()
            else:
                optimizer.step(g, **({"found_inf": False} if how == "counted in memory" else {}))
        weights.append(w)
    assert_same_bits(*weights)


def test_a_group_follows_until_it_has_its_own():
    optimizer = gdgpu.Adam([{"params": np.ones(2), "eps": 1e-3}, {"params": np.ones(2)}], lr=0.1)
    optimizer.eps = 1e-4
    assert [group.eps for group in optimizer.groups] == [1e-3, 1e-4] and optimizer.eps == 1e-4
    optimizer.groups[0].eps = None  # follows from now on
    optimizer.groups[1].betas = (0.5, 0.5)
    optimizer.betas, optimizer.eps = (0.25, 0.75), 1e-5
    assert [group.eps for group in optimizer.groups] == [1e-5, 1e-5]
    assert [group.betas for group in optimizer.groups] == [(0.25, 0.75), (0.5, 0.5)]
    other = gdgpu.Adam([{"params": np.ones(2)}, {"params": np.ones(2)}], lr=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert [group.betas for group in other.groups] == [(0.25, 0.75), (0.5, 0.5)]
    other.eps = 1e-6  # of both, which have the same and followed before
    assert [group.eps for group in other.groups] == [1e-6, 1e-6]


def test_a_users_rule_goes_on_with_what_it_carries():
    """A flag is compiled anew, a number is not; what its step function carries is its own."""

    def step(power, lr, beta):
        power = power * beta
        step_size = lr / (1 - power)
        return power, step_size

    @gdgpu.rule(state=("mean",), step=step, carried={"power": 1.0}, beta=0.5, twice=False)
    def debiased(w, g, mean, step_size, beta, twice):
        mean = beta * mean + (1 - beta) * g
        if twice:
            return w - step_size * (mean + mean), mean
        return w - step_size * mean, mean

    w = np.ones(3)
    optimizer = debiased(w, lr=0.5)
    expected, mean, power = 1.0, 0.0, 1.0
    for k in range(4):
        beta, twice = (0.5, 1) if k < 2 else (0.25, 2)
        if k == 2:
            optimizer.beta, optimizer.groups[0].twice = 0.25, True
        mean, power = beta * mean + (1 - beta) * 2, power * beta
        expected -= 0.5 / (1 - power) * twice * mean
        optimizer.step(np.full(3, 2.0))
    np.testing.assert_allclose(w, expected, rtol=1e-15)
    assert (optimizer.beta, optimizer.twice, optimizer.groups[0].twice) == (0.25, False, True)


def test_a_keyword_that_there_is_not():
    for kind, given, said in (
        (gdgpu.SGD, {"weightdecay": 0.1}, "weightdecay: SGD has no such keyword, did you mean 'weight_decay'?"),
        (gdgpu.Adam, {"foreach": True}, "foreach: Adam has no such keyword; it takes lr, betas, eps, "),
    ):
        with pytest.raises(TypeError) as error:
            kind(np.ones(3), lr=0.1, **given)
        assert str(error.value).startswith(said)


def test_what_an_optimizer_is():
    params = [{"params": np.ones((2, 3), np.float16)}, {"params": [np.ones(2)], "eps": 1e-3}]
    optimizer = gdgpu.Adam(params, lr=gdgpu.schedules.constant(0.1), rounding="stochastic")
    assert repr(optimizer).startswith("Adam(lr=")
    for part in (
        "betas=(0.9, 0.999)",
        "eps=1e-08",
        "rounding='stochastic'",
        "groups[1]: eps=0.001",
        "8 parameters in 2 arrays",
    ):
        assert part in repr(optimizer)
    assert repr(gdgpu.SGD(np.ones(3), 0.5)) == (
        "SGD(lr=0.5, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False; "
        "3 parameters in 1 array, float64, cpu)"
    )
    lion = gdgpu.Lion(np.ones(3), 0.5)
    assert repr(lion.groups[0]) == "Group(lr=0.5, betas=(0.9, 0.99), weight_decay=0, maximize=False)"
