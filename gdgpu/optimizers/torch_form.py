"""States of a rule in the form that torch.optim keeps them in, and back, as the rule's row says (Rule.torch)."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from ..kernels.rules.rule import Rule


def names(rule: Rule) -> dict[str, str]:
    """Ours -> torch's, of the states of a rule."""
    return {name: rule.torch[name][0] if name in rule.torch else name for name in rule.state}


def to_torch(rule: Rule, ours: dict[str, Any], xp: Any) -> dict[str, Any]:
    """torch's states, of ours. In float64, which leaves room for a small part of a large one."""
    wide = {name: array.astype(np.float64) for name, array in ours.items()} if rule.torch else {}
    made = {theirs: xp.asarray(_call(to, wide.get)) for theirs, to, _ in rule.torch.values()}
    return {name: made.get(name, ours.get(name)) for name in names(rule).values()}


def from_torch(rule: Rule, name: str, theirs: Callable[[str], Any]) -> Any:
    """Our state of this name. theirs: torch's by its name, in float64."""
    return _call(rule.torch[name][2], theirs) if name in rule.torch else theirs(name)


def _call(function, value):
    return function(**{name: value(name) for name in inspect.signature(function).parameters})
