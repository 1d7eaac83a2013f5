"""State dicts in torch.optim's form: what torch's optimizers load, and what they save."""

import inspect
import math
from functools import cache
from typing import Any

import numpy as np

from .. import optimizers
from ..core.pytree import leaves, like
from ..kernels.backend.memory import accumulator
from ..kernels.rules.rule import COPIES
from . import torch_form
from .state_dict import params_on_host, settings_of
from .step_scalars import replayed

NAMES = ("SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam")
DECOUPLED = "decoupled_weight_decay"  # which torch's Adam has for AdamW's sake
COUNTS = {"SGD": (), "NAdam": ("step", "mu_product")}  # numbers beside the state arrays, where not ("step",)


def is_torchs(state_dict: Any) -> bool:
    """Whether this is a state_dict of torch.optim."""
    return isinstance(state_dict, dict) and state_dict.keys() == {"state", "param_groups"}


def to_torch(engine: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """`saved`, the optimizer's state_dict, in the form that torch.optim's optimizer of the same name loads."""
    name = _counterpart(engine, "torch")
    try:
        import torch
    except ImportError:
        raise ValueError('torch: PyTorch is not installed; pip install "gdgpu[peers]"') from None
    state, param_groups, steps = {}, [], saved["steps"]
    hypers, states = ([saved[part]] if not engine.tree.grouped else saved[part] for part in ("hyper", "state"))
    for group, hyper, trees in zip(engine.parts, hypers, states, strict=True):
        # torch's constructor knows the keys that this version of it has
        theirs = getattr(torch.optim, name)([torch.empty(0)], **hyper).state_dict()["param_groups"][0]
        param_groups.append(theirs | {"params": list(group.tensors)})
        arrays = {key: [array for _, array in leaves(tree, "")] for key, tree in trees.items() if key not in COPIES}
        for n, k in enumerate(group.tensors):
            ours = {key: each[n] for key, each in arrays.items()}
            converted = torch_form.to_torch(group.rule, ours, engine.xp)
            entry = state[k] = {key: torch.from_dlpack(array) for key, array in converted.items()}
            if name == "SGD" and steps == 0:
                state[k] = dict.fromkeys(entry)  # None: the next gradient is the first, and not dampened
            if name != "SGD":
                entry["step"] = torch.tensor(float(steps))
            if name == "NAdam":
                entry["mu_product"] = torch.tensor(_product(engine, group, k), dtype=torch.float64)
    return {"state": {k: entry for k, entry in state.items() if entry}, "param_groups": param_groups}


def from_torch(engine: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state_dict of torch.optim in gdgpu's form. Raises ValueError naming what differs.

    Running products are those of an optimizer that took these steps, to the bit. torch's SGD counts no steps: the
    optimizer's own count stays. Master weights and averages, which torch has not, begin with the parameters.
    """
    _counterpart(engine, "state_dict")
    groups, entries = state_dict["param_groups"], state_dict["state"]
    if not isinstance(groups, list) or len(groups) != len(engine.parts):
        raise ValueError(f"state_dict['param_groups']: expected a list of {len(engine.parts)}, one for each group")
    if not isinstance(entries, dict):
        raise ValueError(f"state_dict['state']: expected a dict, got {type(entries).__name__}")
    parts = [_Part(engine, j, *pair, entries) for j, pair in enumerate(zip(engine.parts, groups, strict=True))]
    steps, each = _steps(engine, parts), engine.tree.each
    return {
        "optimizer": engine.name,
        "steps": steps,
        "hyper": each(part.hyper for part in parts),
        "state": each(part.state() for part in parts),
        "carried": _carried(parts, steps),
    }


class _Part:
    """A group of ours and torch's for it, checked. entries: the state of each tensor, {} before its first step."""

    def __init__(self, engine, j, group, theirs, entries) -> None:
        self.engine, self.group = engine, group
        label = f"state_dict['param_groups'][{j}]"
        self.hyper = _hyper(engine, group, theirs, label)
        lr, settings = settings_of(engine, group, label, self.hyper)
        self.rule, self.values = settings.rule, {"lr": lr} | engine.precision.scalars | settings.numbers
        indices = theirs["params"]
        if not isinstance(indices, list) or len(indices) != len(group.tensors):
            raise ValueError(f"{label}['params']: expected a list of {len(group.tensors)}, got {indices!r}")
        self.labels = [f"state_dict['state'][{i}]" for i in indices]
        self.entries = [self._entry(label, entries.get(i)) for label, i in zip(self.labels, indices, strict=True)]

    def _entry(self, label, entry):
        if not isinstance(entry, dict | None):
            raise ValueError(f"{label}: expected a dict, got {type(entry).__name__}")
        entry = {key: value for key, value in (entry or {}).items() if value is not None}
        expected = {*torch_form.names(self.rule).values(), *COUNTS.get(self.engine.kind.__name__, ("step",))}
        if entry and entry.keys() != expected:
            raise ValueError(f"{label}: expected {', '.join(sorted(expected)) or 'none'}, got {', '.join(entry)}")
        return entry

    def steps(self):
        """(label, steps taken, whether the others must agree) for each tensor."""
        count = self.engine.steps
        for label, entry in zip(self.labels, self.entries, strict=True):
            if "step" in entry or self.engine.name != "sgd":
                yield f"{label}['step']", _whole(f"{label}['step']", entry.get("step", 0)), True
            else:  # a buffer of zeros is one that has not begun, unless dampening makes the first step another
                begun = max(count, 1) if entry else 0
                yield label, begun if self.rule.state else count, bool(self.rule.carried)

    def state(self):
        """Arrays in the structure of the group's params."""
        tensors = list(zip(self.labels, self.entries, self.group.tensors, strict=True))
        names = self.group.rule.states
        return {name: like(self.group.params, [self._values(name, *tensor) for tensor in tensors]) for name in names}

    def _values(self, name, label, entry, k):
        w = self.engine.views[k]
        sums = accumulator(w.dtype)
        if name in COPIES:
            return params_on_host(self.engine)[k].astype(sums)
        if not entry:
            return np.full(w.shape, self.hyper.get("initial_accumulator_value", 0), sums)
        import torch

        def theirs(key):
            return _tensor(entry[key], f"{label}[{key!r}]", w).to(torch.float64)

        return torch_form.from_torch(self.rule, name, theirs).to(getattr(torch, sums)).contiguous()


def _tensor(tensor, label, w):
    """A tensor of a state of the View w, checked."""
    if not getattr(tensor, "is_floating_point", bool)():
        raise ValueError(f"{label}: expected a floating-point tensor, got {getattr(tensor, 'dtype', tensor)!r}")
    if tuple(tensor.shape) != w.shape:
        raise ValueError(f"{label}: expected shape {w.shape}, got {tuple(tensor.shape)}")
    return tensor.detach()


def _counterpart(engine, argument):
    """The name of torch's optimizer of this kind."""
    name = engine.kind.__name__
    if name not in NAMES:
        hint = "; its velocity holds the lr of each step, SGD's buffer does not" * (name == "Momentum")
        raise ValueError(f"{argument}: expected one of {', '.join(NAMES)}: torch.optim has no {name}{hint}")
    return name


@cache
def _hyperparameters():
    """The names of all that torch's optimizers take."""
    signatures = (inspect.signature(getattr(optimizers, name)).parameters.values() for name in NAMES)
    return {p.name for of in signatures for p in of if p.kind is not p.VAR_KEYWORD} - {"params", "lr", DECOUPLED}


def _hyper(engine, group, theirs, label):
    """Hyperparameters of a group of torch's; keys that are none, as foreach and initial_lr, are left alone."""
    if not isinstance(theirs, dict) or "params" not in theirs:
        raise ValueError(f"{label}: expected a dict with the key 'params', got {type(theirs).__name__}")
    theirs, kind = {"maximize": False} | theirs, engine.kind.__name__  # torch once had no maximize
    names = ("lr", *(name for name in group.options if name in (*_hyperparameters(), DECOUPLED)))
    differing = [f"no {name}" for name in names if name not in theirs]
    differing += sorted(theirs.keys() & _hyperparameters() - set(names))
    if differing:
        raise ValueError(f"{label}: expected those of {kind}, {', '.join(names)}; got {', '.join(differing)}")
    decoupled = kind == "AdamW"
    if DECOUPLED not in names and bool(theirs.get(DECOUPLED, decoupled)) != decoupled:
        raise ValueError(f"{label}['{DECOUPLED}']: expected {decoupled} for {kind}, got {not decoupled}")
    return group.options | {name: theirs[name] for name in names} | {"lr": float(theirs["lr"])}  # torch takes a tensor


def _whole(label, value):
    steps = float(value)
    if not (steps >= 0 and steps.is_integer()):
        raise ValueError(f"{label}: expected a whole number >= 0, got {steps:g}")
    return int(steps)


def _steps(engine, parts):
    """The count that all tensors share."""
    counts = [count for part in parts for count in part.steps()]
    agreeing = [(label, steps) for label, steps, agrees in counts if agrees]
    for label, steps in agreeing:
        if steps != agreeing[0][1]:
            raise ValueError(f"{label}: expected {agreeing[0][1]}, as {agreeing[0][0]} has, got {steps}")
    return max((steps for _, steps, _ in counts), default=engine.steps)


def _carried(parts, steps):
    """What a state_dict calls "carried", after so many steps with these hyperparameters."""
    members = {}
    for part in parts:
        for sums in dict.fromkeys(accumulator(part.engine.views[k].dtype) for k in part.group.tensors):
            if part.rule.carried:
                members.setdefault((part.rule, sums), []).append(part)
    return {f"{rule.name}/{sums}": _replayed(rule, sums, group, steps) for (rule, sums), group in members.items()}


def _replayed(rule, sums, parts, steps):
    """The running products of these groups."""
    carried = replayed(rule, sums, [part.values for part in parts], steps)
    if "product" in rule.carried:
        for part, row in zip(parts, carried, strict=True):
            theirs = float(next((entry["mu_product"] for entry in part.entries if entry), 1.0))
            column = list(rule.carried).index("product")
            # off by more than float32 rounds: betas changed on the way, and only torch's count knows how
            if not math.isclose(theirs, row[column], rel_tol=steps * 2.0**-23, abs_tol=2.0**-23):
                row[column] = theirs
    return carried.tolist()


def _product(engine, group, tensor):
    """NAdam's running product of the momenta for one of its tensors."""
    sums = accumulator(engine.views[tensor].dtype)
    scalars = next(s for s in engine.scalars.values() if s.sums == sums and group in s.groups)
    return float(scalars.carried[scalars.groups.index(group), list(scalars.rule.carried).index("product")])
