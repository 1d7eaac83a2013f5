"""Parameter groups: each is updated as an optimizer of its own would, all of them by the launches of one."""

from functools import cache

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.backend import threads
from support.checks import refused
from support.covering import usual
from support.optimizers import schedule, snapshot
from support.references import DTYPES, assert_same_bits, samples
from support.structures import arrays, leaves, mapped, params_of
from support.tolerances import close

STRUCTURES = [(7,), [(3, 4), (), (70_000,)], {"a": (0,), "b": (33,)}]  # shapes of one array, a list, a dict
ROWS = {
    "SGD": ({"lr": 0.1}, [{}, {"momentum": 0.9, "nesterov": True, "lr": 0.02}, {"maximize": True, "lr": schedule}]),
    "SGD, one rule": (
        {"lr": schedule, "momentum": 0.9, "dampening": 0.5},
        [{"weight_decay": 0.1}, {"momentum": 0.5, "lr": 0.3}, {"dampening": 0}],
    ),
    "Momentum": ({"lr": 0.1, "nesterov": True}, [{"nesterov": False}, {"momentum": 0}, {"maximize": True}]),
    "Adam": ({"lr": 0.01}, [{"betas": (0.5, 0.9)}, {"eps": 0.1, "weight_decay": 0.1}, {"lr": schedule}]),
    "Adam, two ways": ({"maximize": True}, [{"lr": 0.5}, {"maximize": False, "betas": (0.0, 0.5)}, {"lr": 0}]),
}

MIXED = ("SGD, one rule", "Adam")  # the rows that are run for all dtypes too


def optimizer_of(row):
    return getattr(gdgpu, row.partition(",")[0])


def batches(dtypes, steps=3, rows=40):
    """For each step, a gradient and per-sample gradients in the structure of the groups: only to be read."""
    for seed in range(10, 10 * (steps + 1), 10):
        yield batch(seed, tuple(dtypes), rows)


@cache
def batch(seed, dtypes, rows):
    return tuple([arrays(s, seed, dtypes, batch) for s in STRUCTURES] for batch in ((), (rows,)))


def grouped(row, dtypes=("float32",)):
    """(optimizer over groups, one optimizer for each group over copies)."""
    base, overrides = ROWS[row]
    parts, copies = ([arrays(s, 0, dtypes) for s in STRUCTURES] for _ in range(2))
    together = optimizer_of(row)([{"params": p} | o for p, o in zip(parts, overrides, strict=True)], **base)
    return together, [optimizer_of(row)(p, **base | o) for p, o in zip(copies, overrides, strict=True)]


def assert_same(optimizer, other):
    for one, two in zip(params_of(optimizer), params_of(other), strict=True):
        assert_same_bits(one, two)


ALONE = [(row, ("float32",)) for row in ROWS] + [(row, DTYPES) for row in MIXED]


@pytest.mark.parametrize(("row", "dtypes"), usual(ALONE, [case for case in ALONE if case != (MIXED[0], DTYPES)]))
def test_each_group_is_as_if_alone(row, dtypes):
    together, alone = grouped(row, dtypes)
    weights = samples((40,), "float64")
    for grads, G in batches(dtypes):
        together.step(grads)
        together.step_samples(tuple(G), weights, "sum")
        for optimizer, g, g_samples in zip(alone, grads, G, strict=True):
            optimizer.step(g)
            optimizer.step_samples(g_samples, weights, "sum")
    saved = together.state_dict()
    for k, optimizer in enumerate(alone):
        group, single = together.groups[k], optimizer.state_dict()
        for one, two in zip(leaves(group.params), leaves(optimizer.params), strict=True):
            assert_same_bits(one, two)
        assert saved["hyper"][k] == single["hyper"]
        assert saved["state"][k].keys() == single["state"].keys()
        for name, tree in single["state"].items():
            assert type(saved["state"][k][name]) is type(tree)
            for one, two in zip(leaves(saved["state"][k][name]), leaves(tree), strict=True):
                assert_same_bits(one, two)


@pytest.mark.parametrize("row", [row for row in ROWS if "Momentum" not in row])
def test_groups_are_torchs(row):
    torch = pytest.importorskip("torch", reason="torch.optim is the reference")
    ours, _ = grouped(row, ("float64",))
    base, overrides = ROWS[row]
    theirs = [[torch.tensor(w, requires_grad=True) for w in leaves(group.params)] for group in ours.groups]
    given = [{"params": p} | base | o for p, o in zip(theirs, overrides, strict=True)]
    rates = [group.get("lr", 1e-3) for group in given]
    given = [group | {"lr": 0.0} for group in given]
    reference = getattr(torch.optim, type(ours).__name__)(given)
    for step, (grads, _) in enumerate(batches(("float64",), steps=20, rows=1)):
        ours.step(grads)
        for group, part, lr, g in zip(reference.param_groups, theirs, rates, grads, strict=True):
            group["lr"] = lr(step) if callable(lr) else lr
            for tensor, array in zip(part, leaves(g), strict=True):
                tensor.grad = torch.from_numpy(array)
        reference.step()
    for w, tensor in zip(params_of(ours), (tensor for part in theirs for tensor in part), strict=True):
        if w.size:
            close(w, tensor.detach().numpy(), "float64")


def moved(optimizer):
    """How far each group goes in a step with a gradient of 1: its lr, when nothing else is asked for."""
    for w in params_of(optimizer):
        w[...] = 0
    optimizer.step([np.ones_like(group.params) for group in optimizer.groups])
    return [float(-group.params[0]) for group in optimizer.groups]


def test_lr_of_the_optimizer_and_of_groups():
    def falling(steps):
        return 8.0 - steps

    optimizer = gdgpu.SGD([{"params": np.zeros(2)}, {"params": np.zeros(2), "lr": 0.5}, {"params": np.zeros(2)}], 1.0)
    first, second, third = optimizer.groups
    assert moved(optimizer) == [1, 0.5, 1]
    optimizer.lr = 2.0
    assert moved(optimizer) == [2, 0.5, 2] and second.lr == 0.5
    third.lr = falling
    assert moved(optimizer) == [2, 0.5, 8 - 2] and third.lr is falling and optimizer.lr == 2
    optimizer.lr = lambda steps: 100.0 + steps
    assert moved(optimizer) == [103, 0.5, 8 - 3] and first.lr is optimizer.lr
    second.lr = 0.25
    first.lr = 0.125
    assert moved(optimizer) == [0.125, 0.25, 8 - 4]
    first.lr = third.lr = None  # they follow the optimizer again
    assert moved(optimizer) == [105, 0.25, 105]
    assert optimizer.steps == 6 and [hyper["lr"] for hyper in optimizer.current()] == [106, 0.25, 106]


@pytest.mark.parametrize("holder", (lambda o: o, lambda o: o.groups[0]), ids=("optimizer", "group"))
@pytest.mark.parametrize("value", (-1.0, np.nan, np.inf, "0.1", True, 1e39))
@pytest.mark.parametrize("lr", (0.5, schedule))
def test_an_lr_that_is_refused_changes_nothing(lr, value, holder):
    """1e39 is infinite in float32. A schedule goes on."""

    def optimizer():
        return gdgpu.SGD([{"params": np.ones(2, np.float32)}, {"params": np.ones(2, np.float32), "lr": 0.1}], lr)

    one, two = optimizer(), optimizer()
    with refused("lr"):
        holder(one).lr = value
    assert [group.lr for group in one.groups] == [lr, 0.1]
    for _ in range(3):
        assert moved(one) == moved(two)


@pytest.mark.parametrize("row", ROWS)
def test_state_can_be_carried_over(row):
    straight, _ = grouped(row)
    steps = list(batches(("float32",), steps=5))
    for grads, G in steps[:2]:
        straight.step(grads)
        straight.step_samples(G, np.ones(40))
    saved = straight.state_dict()
    assert len(saved["hyper"]) == len(saved["state"]) == len(STRUCTURES)
    base, overrides = ROWS[row]
    copies = [mapped(np.copy, group.params) for group in straight.groups]
    # other numbers, which loading replaces; functions stay
    changed = [o | {"weight_decay": 0.7} | {k: 0.9 for k in o if k == "lr" and not callable(o[k])} for o in overrides]
    resumed = optimizer_of(row)([{"params": p} | c for p, c in zip(copies, changed, strict=True)], **base)
    resumed.load_state_dict(saved)
    for grads, G in steps[2:]:
        for optimizer in (straight, resumed):
            optimizer.step(grads)
            optimizer.step_samples(G, np.ones(40))
    assert_same(straight, resumed)
    assert straight.state_dict()["hyper"] == resumed.state_dict()["hyper"]


def test_a_loaded_optimizer_still_moves_the_groups_that_follow_it():
    """Going on from a file is going on: the same assignments have the same effect."""
    optimizer = gdgpu.SGD([{"params": np.zeros(2)}, {"params": np.zeros(2), "lr": 0.5}], 1.0)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.lr = 2.0
    assert moved(optimizer) == [2, 0.5]


def of_group(key, change):
    """A case that changes what is saved of the last group."""
    return lambda saved: saved | {key: [*saved[key][:-1], change(saved[key][-1])]}


BAD_STATE = {
    "hyper of one": lambda s: s | {"hyper": s["hyper"][0]},
    "a group less": lambda s: s | {"hyper": s["hyper"][:-1]},
    "a group more": lambda s: s | {"state": [*s["state"], s["state"][0]]},
    "state of one": lambda s: s | {"state": s["state"][0]},
    "no lr": of_group("hyper", lambda h: {k: v for k, v in h.items() if k != "lr"}),
    "negative lr": of_group("hyper", lambda h: h | {"lr": -1.0}),
    "lr too large": lambda s: s | {"hyper": [h | {"lr": 1e39} for h in s["hyper"]]},
    "betas": of_group("hyper", lambda h: h | {"betas": (0.5, 1.0)}),
    "betas of text": of_group("hyper", lambda h: h | {"betas": "ab"}),
    "state": of_group("state", lambda s: {}),
    "state dtype": of_group("state", lambda s: s | {"exp_avg": {k: a.astype("f8") for k, a in s["exp_avg"].items()}}),
    "state structure": of_group("state", lambda s: s | {"exp_avg": list(s["exp_avg"].values())}),
    "carried": lambda s: s | {"carried": {"adam/float32": s["carried"]["adam/float32"][:-1]}},
}


@pytest.mark.parametrize("case", BAD_STATE)
def test_states_that_are_refused(case):
    optimizer, _ = grouped("Adam")
    (grads, _), *_ = batches(("float32",))
    saved = optimizer.state_dict()
    optimizer.step(grads)
    before = snapshot(optimizer)
    with refused("lr" if case == "lr too large" else "state_dict"):
        optimizer.load_state_dict(BAD_STATE[case](saved))
    assert snapshot(optimizer) == before
    optimizer.load_state_dict(saved)
    assert optimizer.steps == 0


def test_a_state_that_is_refused_changes_no_later_step():
    """Dampening begins with the second step, whatever was nearly loaded before."""

    def optimizer(**hyper):
        return gdgpu.SGD([{"params": np.ones(2, np.float32)}], 0.1, momentum=0.5, **hyper)

    one, two = (optimizer(dampening=0.5) for _ in range(2))
    saved = optimizer().state_dict()
    saved["hyper"][0]["lr"] = 1e39
    with refused("lr"):
        one.load_state_dict(saved)
    for _ in range(3):
        assert moved(one) == moved(two)


W, V, WIDE = np.zeros(4, np.float32), np.zeros(4, np.float32), np.zeros(8, np.float32)
BAD_GROUPS = {
    "an unknown key": ([{"params": W}, {"params": V, "betas": (0.9, 0.99)}], r"params\[1\]"),
    "a key that is no text": ([{"params": W, 3: 0.1}], r"params\[0\]"),
    "no params": ([{"params": W}, {"lr": 0.1}], r"params\[1\]"),
    "an array first": ([W, {"params": V}], r"params\[0\]"),
    "an array last": ([{"params": W}, V], r"params\[1\]"),
    "negative lr": ([{"params": W}, {"params": V, "lr": -1}], r"params\[1\]: lr"),
    "lr of text": ([{"params": W, "lr": "0.1"}], r"params\[0\]: lr"),
    "momentum": ([{"params": W}, {"params": V, "momentum": 1.0}], r"params\[1\]: momentum"),
    "nesterov": ([{"params": W, "nesterov": True}, {"params": V}], r"params\[0\]: nesterov"),
    "a flag that is a number": ([{"params": W, "maximize": 1}], r"params\[0\]: maximize"),
    "groups in a group": ([{"params": [{"params": W}]}], r"params\[0\]\['params'\]\[0\]"),
    "integers": ([{"params": W}, {"params": {"b": np.zeros(3, int)}}], r"params\[1\]\['params'\]\['b'\]"),
    "twice": ([{"params": W}, {"params": [V, W]}], r"params\[[01]\]\['params'\]"),
    "overlapping": ([{"params": WIDE[:5]}, {"params": {"x": WIDE[4:]}}], r"params\[[01]\]\['params'\]"),
    "overlapping in one": ([{"params": W}, {"params": [WIDE[:5], WIDE[4:]]}], r"params\[1\]\['params'\]\[[01]\]"),
    "lr too large": ([{"params": W}, {"params": V, "lr": 1e39}], r"(params\[1\]: )?lr"),
}


@pytest.mark.parametrize("case", BAD_GROUPS)
def test_groups_that_are_refused(case):
    params, named = BAD_GROUPS[case]
    with pytest.raises((ValueError, TypeError), match=rf"\A{named}[^\n]*\Z"):
        gdgpu.SGD(params, 0.1)


BAD_GRADS = {
    "one for all": lambda g: g[0],
    "a dict": lambda g: dict(enumerate(g)),
    "none": lambda g: None,
    "a group less": lambda g: g[:-1],
    "a group more": lambda g: [*g, g[0]],
    "other keys": lambda g: [*g[:-1], {"a": g[2]["a"], "c": g[2]["b"]}],
    "a list for a dict": lambda g: [*g[:-1], list(g[2].values())],
    "a list for an array": lambda g: [[g[0]], *g[1:]],
    "a tensor less": lambda g: [g[0], g[1][:-1], g[2]],
    "shape": lambda g: [*g[:-1], g[2] | {"b": g[2]["b"][..., :-1].copy()}],
    "float64 for float32": lambda g: [*g[:-1], g[2] | {"b": g[2]["b"].astype("f8")}],
}


@pytest.mark.parametrize("case", BAD_GRADS)
@pytest.mark.parametrize("row", ("SGD", "Adam"))
def test_gradients_that_are_refused(row, case):
    optimizer, _ = grouped(row)
    (grads, G), *_ = batches(("float32",))
    optimizer.step(grads)
    before = snapshot(optimizer)
    for call, name, good in ((optimizer.step, "grads", grads), (optimizer.step_samples, "G", G)):
        with refused(name):
            call(BAD_GRADS[case](good))
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("empty", ([], (), {}, np.zeros(0), {"a": np.zeros((3, 0))}))
@pytest.mark.parametrize("name", ("SGD", "Adam"))
def test_empty_groups(name, empty):
    w, alone = np.ones(3), np.ones(3)
    optimizer = getattr(gdgpu, name)([{"params": empty, "lr": 0.5}, {"params": w}], 0.1)
    single = getattr(gdgpu, name)(alone, 0.1)
    for G in samples((3, 5, 3), "float64"):
        optimizer.step([empty, G[0]])
        optimizer.step_samples([mapped(lambda w: np.zeros((5, *w.shape)), empty), G])
        single.step(G[0])
        single.step_samples(G)
    assert_same_bits(w, alone)
    optimizer.load_state_dict(optimizer.state_dict())
    nothing = getattr(gdgpu, name)([{"params": empty}, {"params": []}], 0.1)
    nothing.step([empty, []])
    assert nothing.steps == 1 and len(nothing.state_dict()["state"]) == 2


@pytest.fixture
def launches(monkeypatch):
    """The kernels that were launched: their names as the tables of rules give them."""
    seen, calls = [], threads.Launch.calls

    def counted(launch, jobs):
        seen.append(launch.kernel)
        return calls(launch, jobs)

    monkeypatch.setattr(threads.Launch, "calls", counted)
    return seen


def groups_of(count, options=({},), dtypes=("float32",), size=3):
    return [
        {"params": np.zeros(size, dtypes[k % len(dtypes)]), "lr": 0.01 * k} | options[k % len(options)]
        for k in range(count)
    ]


LAUNCHES = {
    "one group": ("Momentum", groups_of(1), 1),
    "5 groups": ("Momentum", groups_of(5), 1),
    "1000 groups": ("SGD", groups_of(1000), 1),
    "1000 tensors in a group": ("Momentum", [{"params": [np.zeros(2) for _ in range(1000)]}], 1),
    "two flags": ("Momentum", groups_of(5, ({}, {"nesterov": True})), 2),
    "two rules": ("SGD", groups_of(5, ({}, {"momentum": 0.5})), 2),
    "two dtypes": ("Momentum", groups_of(5, dtypes=("float32", "float16")), 2),
    "flags and dtypes": ("Momentum", groups_of(8, ({}, {}, {"nesterov": True}), ("float32", "float64")), 4),
    "Adam": ("Adam", groups_of(5), 2),
    "Adam, flags": ("Adam", groups_of(5, ({}, {"maximize": True})), 3),  # its scalars are made once for both
    "Adam, sums": ("Adam", groups_of(5, dtypes=("float32", "float64")), 4),
    "Adam, 16 bits": ("Adam", groups_of(5, dtypes=("float32", "float16")), 3),
}


@pytest.mark.parametrize("case", LAUNCHES)
def test_groups_cost_no_launch(case, launches):
    name, groups, expected = LAUNCHES[case]
    optimizer = getattr(gdgpu, name)(groups, 0.1)
    grads = [mapped(np.ones_like, group["params"]) for group in groups]
    G = [mapped(lambda g: g[None], part) for part in grads]
    for step, given in ((optimizer.step, grads), (optimizer.step_samples, G), (optimizer.step, grads)):
        launches.clear()
        step(given)
        assert len(launches) == expected
