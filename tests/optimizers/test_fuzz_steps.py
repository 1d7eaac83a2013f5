"""Random steps of every optimizer, storage and option against formulas in float64, within a running error bound."""

import itertools

import numpy as np
import pytest

from support import bounded, formulas
from support.bounded import exactly, norm_of, outside, stored, unit_of
from support.optimizers import OPTIMIZERS, arguments_of, class_of, rule_of
from support.references import dtype_of

SHAPES = ((300,), (7, 9), (1,))
W_DTYPES = ("float32", "bfloat16", "float16", "float64")
STATES = ("float32", "bfloat16", "uint8")
STEPS = {"float32": 12, "bfloat16": 8, "uint8": 4}  # of one run: errors of narrow state add up soon
RUNS, KERNELS = 8, 6  # of each of so many random cases of an optimizer
DECIDED = ("momentum", "centered", "amsgrad", "lr_decay", "betas", "dampening", "nesterov")  # by the optimizer's label


def hyper_of(label, rng):
    """Random hyperparameters, of those that the class has."""
    parameters, given = class_of(label)(np.ones(1), lr=0.1, **arguments_of(label)).current(), arguments_of(label)
    drawn = {
        "weight_decay": float(rng.choice([0, rng.uniform(0, 0.3)])),
        "eps": float(10.0 ** rng.uniform(-8, -3)),
        "betas": (float(rng.uniform(0, 0.95)), float(rng.uniform(0.5, 0.999))),
        "alpha": float(rng.uniform(0.5, 0.99)),
        "rho": float(rng.uniform(0.5, 0.99)),
        "momentum": float(rng.uniform(0.3, 0.95)),
        "dampening": float(rng.uniform(0.1, 1)),
        "lr_decay": float(rng.uniform(0.01, 0.5)),
        "initial_accumulator_value": float(rng.uniform(0, 1)),
        "momentum_decay": float(rng.uniform(0, 0.1)),
        "trust_coefficient": float(rng.uniform(0.1, 1)),
    }
    fixed = {name for name in DECIDED if not parameters.get(name)} | {n for n, v in given.items() if v is True}
    return parameters | given | {name: value for name, value in drawn.items() if name in {*parameters} - fixed}


class Case:
    """What is compiled: dtypes, storage, flags, and which options a step has."""

    def __init__(self, label, seed, plain=False):
        rule, rng = rule_of(label), np.random.default_rng([*seed, *label.encode()])
        self.label, self.seed, self.rng, self.w_dtype = label, seed, rng, str(rng.choice(W_DTYPES))
        self.state_dtype = str(rng.choice(STATES[: 1 if rule.early else 3]))
        self.rounding = str(rng.choice(("nearest", "stochastic")))
        self.master, self.ema = bool(rng.random() < 0.5), bool(rng.random() < 0.3)
        self.options = {n for n in ("scale", "found", "clip_value", "clip_norm", "zero") if rng.random() < 0.3}
        self.flags = {n: bool(rng.random() < 0.5) for n in ("maximize", "decoupled_weight_decay")}
        if label.endswith("nesterov") or label in ("Momentum", "LARS"):
            self.flags["nesterov"] = bool(rng.random() < 0.5) or label.endswith("nesterov")
        self.g_dtype = str(rng.choice((self.w_dtype, "float32", "float16")))
        if plain:
            self.w_dtype, self.master, self.ema, self.options, self.flags = "float32", False, False, set(), {}
            self.state_dtype, self.rounding, self.g_dtype = plain, "nearest", "float32"
        if self.w_dtype == "float64":
            self.g_dtype, self.state_dtype = "float64", "float32"
        self.master &= self.w_dtype in ("float16", "bfloat16")
        self.unit = unit_of(self.w_dtype)

    def __repr__(self):
        return ", ".join(f"{name}={value}" for name, value in vars(self).items() if name != "rng")

    @property
    def is_wide(self):
        return self.w_dtype in ("float32", "float64") and self.state_dtype == "float32"

    def storage(self):
        common = {"rounding": self.rounding, "seed": int(self.rng.integers(1 << 30))}
        common |= {"ema": float(self.rng.uniform(0.1, 0.99))} if self.ema else {}
        common |= {"master": True} if self.master else {}
        return common | ({} if self.w_dtype == "float64" else {"state_dtype": self.state_dtype})

    def kind_of(self, state):
        """How a state is held."""
        if self.w_dtype == "float64" or state in ("master", "ema"):
            return "float64" if self.w_dtype == "float64" else "float32"
        return formulas.code_of(state) if self.state_dtype == "uint8" else self.state_dtype


class Run:
    """An optimizer, and what its parameters and state may be by the formulas: values and bounds, of each tensor."""

    def __init__(self, case):
        self.case, self.at_random, rng = case, case.rounding == "stochastic", case.rng
        starts = [rng.uniform(0.3, 2, shape) * rng.choice([-1, 1], shape) for shape in SHAPES]
        self.params = [np.asarray(w, dtype_of(case.w_dtype)) for w in starts]
        drawn = [hyper_of(case.label, rng) for _ in range(2)]
        self.hyper = [h | {n: v for n, v in case.flags.items() if n in h} for h in drawn]
        base, fall = float(10.0 ** rng.uniform(-3, -1)), float(rng.uniform(0, 0.2))
        self.rate = (lambda t: base / (1 + fall * t)) if rng.random() < 0.5 else base
        rates = [self.rate, float(10.0 ** rng.uniform(-3, -1))]
        fields = [{n: v for n, v in h.items() if n != "lr"} for h in self.hyper]
        groups = [{"params": self.params[:2], **fields[0]}, {"params": self.params[2:], **fields[1], "lr": rates[1]}]
        self.common = case.storage()
        self.optimizer = class_of(case.label)(groups, lr=rates[0], **self.common)
        self.rates, self.t = [rates[0], rates[0], rates[1]], 0
        self.hyper = [self.hyper[0], self.hyper[0], self.hyper[1]]
        self.w = [exactly(w, case.unit) for w in self.params]
        self.extra = [self._copies(w) for w in self.w]
        self.state = [self._new(k) for k in range(len(SHAPES))]
        self.formula = getattr(formulas, class_of(case.label).__name__.lower())

    def _copies(self, w):
        return {name: w for name, on in (("master", self.case.master), ("ema", self.case.ema)) if on}

    def _new(self, k):
        names = self.optimizer._engine.parts[k // 2].rule.state
        first = self.hyper[k].get("initial_accumulator_value", 0.0)
        new = {n: bounded.Bounded(np.full(SHAPES[k], first), first * self.case.unit, self.case.unit) for n in names}
        return {n: stored(x, self.case.kind_of(n)) for n, x in new.items()}

    def step(self):
        case, rng = self.case, self.case.rng
        grads = [rng.standard_normal(shape) * 2.0 ** rng.integers(-4, 3, shape) for shape in SHAPES]
        grads = [np.asarray(g, dtype_of(case.g_dtype)) for g in grads]
        keywords = {"grad_scale": float(np.float32(rng.uniform(0.3, 9)))} if "scale" in case.options else {}
        keywords |= {"found_inf": bool(rng.random() < 0.3)} if "found" in case.options else {}
        keywords |= {"clip_value": float(rng.uniform(0.3, 2))} if "clip_value" in case.options else {}
        keywords |= {"clip_norm": float(rng.uniform(1, 20))} if "clip_norm" in case.options else {}
        given = [exactly(g, case.unit) for g in grads]
        zero = "zero" in case.options
        self.optimizer.step([grads[:2], grads[2:]], zero_grads=zero, **keywords)
        assert not zero or not any(g.any() for g in grads), f"{case}: gradients that are not 0"
        if not keywords.get("found_inf"):
            self._expect(self._prepared(given, **keywords))
        self._compare()

    def _prepared(self, given, grad_scale=None, found_inf=None, clip_value=None, clip_norm=None):
        if grad_scale:
            given = [g / grad_scale for g in given]
        if clip_value:
            given = [g.clipped(clip_value) for g in given]
        if clip_norm:
            factor = (clip_norm / norm_of(given)).minimum(1)
            given = [g * factor for g in given]
        return given

    def _expect(self, given):
        self.t += 1
        for k, g in enumerate(given):
            rate = self.rates[k](self.t - 1) if callable(self.rates[k]) else self.rates[k]
            before = self.extra[k].get("master", self.w[k])
            new = self.formula(before, g, self.state[k], self.hyper[k] | {"lr": rate}, self.t)
            if "ema" in self.extra[k]:
                decay = self.common["ema"]
                self.extra[k]["ema"] = self.extra[k]["ema"] * decay + new * (1 - decay)
            if "master" in self.extra[k]:
                self.extra[k]["master"] = new
            self.w[k] = stored(new, self.case.w_dtype, self.at_random)
            for name, value in self.state[k].items():
                if not name.startswith("."):
                    self.state[k][name] = stored(value, self.case.kind_of(name), self.at_random)

    def _compare(self):
        assert self.optimizer.steps == self.t, f"{self.case}: steps"
        saved = self.optimizer.state_dict()["state"]
        for k, w in enumerate(self.params):
            actual = {name: arrays[k % 2] for name, arrays in saved[k // 2].items()} | {"w": w}
            expected = self.state[k] | self.extra[k] | {"w": self.w[k]}
            expected = {name: x for name, x in expected.items() if not name.startswith(".")}
            assert actual.keys() == expected.keys()
            for name, x in expected.items():
                if len(places := np.argwhere(outside(actual[name], x))):
                    at = tuple(places[0])
                    found = f"{actual[name][at]} is not within {x.error[at]:.3g} of {x.value[at]}"
                    where = f"step {self.t}, tensor {k}, {name}{[*at]}: {found} ({len(places)} such)"
                    raise AssertionError(f"{self.case}; {self.common}; {self.hyper[k]}; {where}")


def run_all(label, seed, plain=False, kernels=KERNELS, runs=RUNS):
    """Steps taken; where all is wide, the bounds of the weights must be far below how far these have moved."""
    steps = 0
    for k in range(kernels):
        case = Case(label, (seed, k), plain)
        for _ in range(runs):
            run = Run(case)
            before = [w.astype(np.float64) for w in run.params]
            for _ in range(STEPS[case.state_dtype]):
                run.step()
                steps += 1
            moved = np.concatenate([np.abs(e.value - b).ravel() for e, b in zip(run.w, before, strict=True)])
            tight = np.median(np.concatenate([e.error.ravel() for e in run.w])) / (np.median(moved) + 1e-30)
            assert tight < 0.1 or not case.is_wide or not run.t, f"{case}: {tight}"
    return steps


PLAIN = list(itertools.product(("Momentum", "Adam"), ("float32", "bfloat16")))


@pytest.mark.parametrize(("label", "state_dtype"), PLAIN)
def test_plain_steps(label, state_dtype):
    assert run_all(label, 0, plain=state_dtype, kernels=1, runs=4) == 4 * STEPS[state_dtype]


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("label", OPTIMIZERS)
def test_steps(label, seed):
    run_all(label, seed)
