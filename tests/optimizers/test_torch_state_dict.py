"""State dicts go to torch.optim and back: whoever takes the steps, the run is the one that torch.optim takes alone."""

import copy
import sys

import numpy as np
import pytest

import gdgpu
from gdgpu.optimizers.torch_state_dict import NAMES
from support.checks import refused
from support.covering import usual
from support.optimizers import OPTIMIZERS, arguments_of, class_of, deciding, snapshot
from support.references import assert_same_bits, samples
from support.tolerances import far

# Arguments beside those of the table of optimizers, or in their place.
OVERRIDES = {
    "SGD": {"weight_decay": 0.1},
    "SGD-momentum": {"weight_decay": 0.1},
    "SGD-dampening": {"dampening": 0.4},
    "SGD-nesterov": {"momentum": 0.8, "maximize": True},
    "Adagrad": {"initial_accumulator_value": 0.2, "weight_decay": 0.1},
    "Adagrad-lr_decay": {"eps": 1e-6},
    "Adadelta": {"rho": 0.7},
    "RMSprop": {"alpha": 0.8, "maximize": True},
    "RMSprop-centered-momentum": {"momentum": 0.7, "weight_decay": 0.1},
    "Adam": {"betas": (0.8, 0.95), "weight_decay": 0.1},
    "AdamW": {"betas": (0.7, 0.99), "eps": 1e-4},
    "Adamax": {"betas": (0.8, 0.9)},
    "NAdam": {"betas": (0.95, 0.98), "momentum_decay": 0.01},
    "RAdam": {"betas": (0.5, 0.6)},
}
CASES = {
    label: arguments_of(label, **OVERRIDES.get(label, {})) for label, (name, _) in OPTIMIZERS.items() if name in NAMES
}
SHAPES = [(3, 4), (5,), ()]


def arrays(seed, dtype="float64"):
    return [np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype) for shape in SHAPES]


def laid_out(params, grouped):
    return [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}] if grouped else params


class Theirs:
    """torch.optim's optimizer, which takes gradients as NumPy arrays."""

    def __init__(self, torch, case, start, grouped, hyper, lr=0.1):
        self.torch, self.params = torch, [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in start]
        self.optimizer = class_of(case, torch.optim)(laid_out(self.params, grouped), lr=lr, **hyper)

    def step(self, grads):
        for w, g in zip(self.params, grads, strict=True):
            w.grad = self.torch.from_numpy(g)
        self.optimizer.step()

    def values(self):
        return [w.detach().numpy() for w in self.params]


class Ours:
    def __init__(self, case, start, grouped, hyper, lr=0.1):
        self.params, self.grouped = [w.copy() for w in start], grouped
        self.optimizer = class_of(case)(laid_out(self.params, grouped), lr=lr, **hyper)

    def step(self, grads):
        self.optimizer.step([grads[:1], grads[1:]] if self.grouped else grads)

    def values(self):
        return self.params


def steps(first, last):
    return [arrays(k + 1) for k in range(first, last)]


def assert_same(actual, expected, torch):
    for a, b in zip(actual.values(), expected.values(), strict=True):
        assert far(a, b) <= 1e-12
    saved = [x.optimizer.state_dict(**{"torch": True} if isinstance(x, Ours) else {}) for x in (actual, expected)]
    assert saved[0]["param_groups"] == saved[1]["param_groups"]
    assert saved[0]["state"].keys() == saved[1]["state"].keys()
    for k, entry in saved[1]["state"].items():
        assert saved[0]["state"][k].keys() == entry.keys()
        for name, tensor in entry.items():
            assert far(saved[0]["state"][k][name].numpy(), tensor.numpy()) <= 1e-12


@pytest.mark.parametrize("grouped", (False, True), ids=("one group", "groups"))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("before", (0, 10))
def test_ours_then_theirs(case, before, grouped, torch):
    start, hyper = arrays(0), CASES[case]
    alone = Theirs(torch, case, start, grouped, hyper)
    first = Ours(case, start, grouped, hyper)
    for grads in steps(0, before):
        alone.step(grads)
        first.step(grads)
    then = Theirs(torch, case, first.values(), grouped, {}, lr=0.7)
    then.optimizer.load_state_dict(first.optimizer.state_dict(torch=True))
    for grads in steps(before, 20):
        alone.step(grads)
        then.step(grads)
    assert_same(then, alone, torch)


@pytest.mark.parametrize("grouped", (False, True), ids=("one group", "groups"))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("before", (0, 10))
def test_theirs_then_ours(case, before, grouped, torch):
    start, hyper = arrays(0), CASES[case]
    alone = Theirs(torch, case, start, grouped, hyper)
    for grads in steps(0, before):
        alone.step(grads)
    then = Ours(case, alone.values(), grouped, deciding(hyper), lr=0.7)
    then.optimizer.load_state_dict(alone.optimizer.state_dict())
    counted = before if not case.startswith("SGD") else 1 if before and case != "SGD" else 0  # torch's SGD has no count
    assert then.optimizer.steps == counted
    for grads in steps(before, 20):
        alone.step(grads)
        then.step(grads)
    assert_same(then, alone, torch)


THERE_AND_BACK = [(case, dtype) for case in CASES for dtype in ("float32", "bfloat16", "float64")]
OFTEN = [(case, dtype) for case, dtype in THERE_AND_BACK if dtype != "bfloat16" or case in ("SGD-dampening", "NAdam")]


@pytest.mark.parametrize(("case", "dtype"), usual(THERE_AND_BACK, OFTEN))
def test_there_and_back_keeps_every_bit(case, dtype, torch):
    """The running products too, which torch does not keep: they are taken again."""
    w, grads = samples((40,), dtype), [samples((40,), dtype, k) for k in range(1, 9)]
    straight, again = (class_of(case)(x, 0.01, **CASES[case]) for x in (w, w.copy()))
    for g in grads[:5]:
        straight.step(g)
    again.params[...] = w
    again.load_state_dict(straight.state_dict(torch=True))
    ours, theirs = straight.state_dict(), again.state_dict()
    if not case.startswith("SGD"):
        assert ours["steps"] == theirs["steps"] == 5
        assert ours.get("carried") == theirs.get("carried")
    for g in grads[5:]:
        straight.step(g)
        again.step(g)
    assert_same_bits(w, again.params)
    for name, array in straight.state_dict()["state"].items():
        assert_same_bits(again.state_dict()["state"][name], array)


CARRYING = [case for case in CASES if class_of(case)(np.ones(1), 0.1, **CASES[case])._engine.parts[0].rule.carried]


@pytest.mark.parametrize("case", [case for case in CARRYING if not case.startswith("SGD")])
def test_running_products_are_those_of_the_rule(case, torch):
    """By applying the rule's own step function, in Python; for each group with its own hyperparameters."""
    ours = class_of(case)([{"params": np.ones(3)}, {"params": np.ones(3, np.float32), "lr": 0.3}], 0.1, **CASES[case])
    expected = {}
    for part, lr, sums in zip(ours._engine.parts, (0.1, 0.3), ("float64", "float32"), strict=True):
        rule, carried = part.rule, list(part.rule.carried.values())
        for _ in range(700):
            taken = dict(zip(rule.carried, carried, strict=True)) | {"lr": lr} | part.numbers
            carried = rule.step(*(taken[name] for name in rule.taken))[: len(carried)]
        expected[f"{rule.name}/{sums}"] = [list(carried)]
    saved = ours.state_dict(torch=True)
    for entry in saved["state"].values():
        entry["step"] = torch.tensor(700.0)
        if "mu_product" in entry:
            entry["mu_product"] = torch.tensor(carried[list(rule.carried).index("product")], dtype=torch.float32)
    ours.load_state_dict(saved)
    assert ours.state_dict()["carried"] == expected and ours.steps == 700


def test_nadams_product_is_torchs_where_betas_changed_on_the_way(torch):
    start = arrays(0)
    alone = Theirs(torch, "NAdam", start, False, {"betas": (0.99, 0.9)})
    for k, grads in enumerate(steps(0, 10)):
        alone.optimizer.param_groups[0]["betas"] = (0.99 - 0.01 * k, 0.9)
        alone.step(grads)
    then = Ours("NAdam", alone.values(), False, {})
    then.optimizer.load_state_dict(alone.optimizer.state_dict())
    for grads in steps(10, 20):
        alone.step(grads)
        then.step(grads)
    assert_same(then, alone, torch)


@pytest.mark.parametrize("kind", ("float64", "float32", "bfloat16", "float16"))
def test_tensors_of_any_dtype_are_widened_exactly(kind, torch):
    tensors = {k: torch.from_numpy(samples((4,), "float64", k)).to(getattr(torch, kind)) for k in (1, 2)}
    ours = gdgpu.Adam(np.ones(4, np.float32))
    saved = ours.state_dict(torch=True)
    saved["state"][0] |= {"exp_avg": tensors[1], "exp_avg_sq": tensors[2].abs(), "step": 3}
    ours.load_state_dict(saved)
    state = ours.state_dict()["state"]
    assert_same_bits(state["exp_avg"], tensors[1].to(torch.float32).numpy())
    assert_same_bits(state["exp_avg_sq"], tensors[2].abs().to(torch.float32).numpy())
    assert ours.steps == 3


def test_what_torchs_groups_hold_besides(torch):
    """A scheduler's keys, a name, an lr in a tensor, a file from before maximize, a state that has not begun."""
    ours = gdgpu.SGD([np.ones(2), np.ones(3)], 0.1, momentum=0.5, dampening=0.5)
    ours.step([np.ones(2), np.ones(3)])
    saved = torch.optim.SGD([torch.ones(2), torch.ones(3)], 0.1, momentum=0.5, dampening=0.5).state_dict()
    saved["param_groups"][0] |= {"initial_lr": 0.4, "name": "all", "lr": torch.tensor(0.25, dtype=torch.float64)}
    del saved["param_groups"][0]["maximize"]
    saved["state"] = {0: {"momentum_buffer": None}}
    ours.load_state_dict(saved)
    assert ours.lr == 0.25 and ours.steps == 0
    ours.params[0][...] = 0
    ours.step([np.ones(2), np.ones(3)])
    assert (ours.params[0] == -0.25).all()  # the first gradient is not dampened


def test_a_schedule_survives_loading(torch):
    ours = gdgpu.Adam(np.ones(2), lambda step: 0.5**step)
    saved = ours.state_dict(torch=True)
    assert saved["param_groups"][0]["lr"] == 1.0
    saved["state"][0]["step"] += 3
    ours.load_state_dict(saved)
    assert callable(ours.lr) and ours.current()["lr"] == 0.125


def test_masters_and_averages_begin_with_the_parameters(torch):
    """torch has none."""
    w = samples((40,), "bfloat16")
    ours = gdgpu.Adam(w, 0.01, master=True, ema=0.5)
    for k in range(3):
        ours.step(samples((40,), "bfloat16", k + 1))
    saved = ours.state_dict(torch=True)
    assert saved["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    ours.load_state_dict(saved)
    state = ours.state_dict()["state"]
    for name in ("master", "ema"):
        assert_same_bits(state[name], w.astype(np.float32))
    assert_same_bits(state["exp_avg"], saved["state"][0]["exp_avg"].numpy())


@pytest.mark.parametrize("make", (lambda w: gdgpu.Momentum(w, 0.1), lambda w: gdgpu.Lion(w)), ids=("momentum", "lion"))
def test_optimizers_that_torch_has_not(make):
    optimizer = make(np.ones(3))
    with refused("torch", ValueError):
        optimizer.state_dict(torch=True)
    with refused("state_dict", ValueError):
        optimizer.load_state_dict({"state": {}, "param_groups": []})


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"\Atorch: .*pip install.*\Z"):
        gdgpu.SGD(np.ones(3), 0.1).state_dict(torch=True)
    with refused("torch", TypeError):
        gdgpu.SGD(np.ones(3), 0.1).state_dict(torch=1)


def changed(where, **new):
    """A case in which one group (0) or the state of one tensor (1) is another; None leaves a key out."""

    def change(saved):
        entry = saved["param_groups"][0] if where == "group" else saved["state"][1]
        entry.update(new)
        for key in [key for key, value in new.items() if value is None]:
            del entry[key]
        return saved

    return change


BAD = {
    "no such group": (
        lambda s: s | {"param_groups": s["param_groups"] * 2},
        r"\['param_groups'\]: expected a list of 1",
    ),
    "a group of text": (lambda s: s | {"param_groups": ["a"]}, r"\['param_groups'\]\[0\]: expected a dict"),
    "a tensor more": (changed("group", params=[0, 1, 2]), r"\['param_groups'\]\[0\]\['params'\]: expected a list of 2"),
    "state of text": (lambda s: s | {"state": "a"}, r"\['state'\]: expected a dict"),
    "state of a tensor": (lambda s: s | {"state": {0: 1}}, r"\['state'\]\[0\]: expected a dict"),
    "other steps": (changed("state", step=7), r"\['state'\]\[1\]\['step'\]: expected 3"),
    "half a step": (changed("state", step=2.5), r"\['state'\]\[1\]\['step'\]: expected a whole number"),
    "not begun": (lambda s: s | {"state": {0: s["state"][0]}}, r"\['state'\]\[1\]\['step'\]: expected 3"),
    "no step": (changed("state", step=None), r"\['state'\]\[1\]: expected .*step"),
    "no exp_avg": (changed("state", exp_avg=None), r"\['state'\]\[1\]: expected .*exp_avg"),
    "amsgrad's state": (changed("state", max_exp_avg_sq=1), r"\['state'\]\[1\]: expected .*got .*max_exp_avg_sq"),
    "amsgrad": (changed("group", amsgrad=True), r"\['param_groups'\]\[0\]: .*rule adam_amsgrad, .* runs adam$"),
    "decoupled": (
        changed("group", decoupled_weight_decay=True),
        r"\['decoupled_weight_decay'\]: expected False for Adam",
    ),
    "another optimizer": (changed("group", momentum_decay=0.1), r"\['param_groups'\]\[0\]: .*got momentum_decay"),
    "no betas": (changed("group", betas=None), r"\['param_groups'\]\[0\]: .*got no betas"),
    "betas": (changed("group", betas=(0.5, 1.0)), r"\['param_groups'\]\[0\]: betas"),
    "lr": (changed("group", lr=-1.0), r"\['param_groups'\]\[0\]: lr"),
    "a list": (changed("state", exp_avg=[1.0]), r"\['state'\]\[1\]\['exp_avg'\]: expected a floating-point tensor"),
}


def adam_after_three_steps():
    ours = gdgpu.Adam([np.ones(2, np.float32), np.ones(3, np.float32)])
    for _ in range(3):
        ours.step([np.full(2, 0.5, np.float32), np.ones(3, np.float32)])
    return ours


@pytest.mark.parametrize("case", BAD)
def test_states_that_are_refused(case, torch):
    change, says = BAD[case]
    ours = adam_after_three_steps()
    saved = change(copy.deepcopy(ours.state_dict(torch=True)))
    ours.step([np.ones(2, np.float32), np.ones(3, np.float32)])
    before = snapshot(ours)
    with pytest.raises(ValueError, match=rf"\Astate_dict[^\n]*{says}[^\n]*\Z") as caught:
        ours.load_state_dict(saved)
    assert "\n" not in str(caught.value) and snapshot(ours) == before


@pytest.mark.parametrize("tensor", ("shape", "integers"))
def test_tensors_that_are_refused(tensor, torch):
    ours = adam_after_three_steps()
    saved = ours.state_dict(torch=True)
    saved["state"][1]["exp_avg"] = torch.ones(4) if tensor == "shape" else torch.ones(3, dtype=torch.int64)
    before = snapshot(ours)
    with pytest.raises(ValueError, match=r"\Astate_dict\['state'\]\[1\]\['exp_avg'\]: expected [^\n]*\Z"):
        ours.load_state_dict(saved)
    assert snapshot(ours) == before


@pytest.mark.parametrize(("given", "to"), [("Adam", "RAdam"), ("RAdam", "Adam"), ("AdamW", "Adam"), ("NAdam", "Adam")])
def test_a_state_of_another_optimizer(given, to, torch):
    """Their arrays have the same names."""
    saved = getattr(gdgpu, given)(np.ones(3)).state_dict(torch=True)
    with refused("state_dict", ValueError):
        getattr(gdgpu, to)(np.ones(3)).load_state_dict(saved)
