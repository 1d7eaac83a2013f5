"""Hyperparameters that change on the way: what is compiled anew, and what goes on of state and running products.

What follows is what torch.optim's optimizer of that name would do with the same assignment: powers are those of today's
betas to the count of steps, what is a state of its own (NAdam's product of momenta) stays. A state that a rule needs
from now on, as momentum's buffer, begins with zeros; where torch keeps the same in another form (RMSprop, centered), it
is made of that.
"""

from typing import Any

import numpy as np

from ..core.arrays import view
from ..devices import on_host
from . import torch_form
from .launches import Launches
from .step_scalars import replayed


def configure(engine: Any, defaults: dict[str, Any], given: list[dict[str, Any]], name: str) -> None:
    """Let an engine have these hyperparameters, of which `name` is new; where they are refused, nothing changes."""
    before = {part: part.settings for part in engine.parts}
    after = [engine.settings(defaults | g) for g in given]
    compiles = [new.kernel for new in after] != [part.kernel for part in engine.parts]
    if compiles:
        _check(engine, dict(zip(engine.parts, after, strict=True)), name)
    old = engine.scalars, engine.state, engine.launches
    with engine.all_or_nothing() as written:
        engine.defaults = defaults
        for part, g, new in zip(engine.parts, given, after, strict=True):
            part.take(g, new)
        engine.scalars = engine.gathered(engine.scalars)
        products = _products(engine, old[0], before)
        engine.state = _states(engine, before)
        if compiles:
            engine.version += 1
            engine.launches = Launches(engine)
        engine.renew()
        for scalars, rows in products:
            written.append((scalars.carried, scalars.carried.copy()))
            scalars.carried[...] = engine.xp.asarray(rows)
    if compiles:
        engine.order.retire(old)


def _check(engine, after, name: str) -> None:
    """RuntimeError where a CUDA graph would go on without it, ValueError where state cannot be stored so."""
    if engine.recorded:
        raise RuntimeError(f"{name}: it is compiled into steps that a CUDA graph has recorded; make a new optimizer")
    for v, part in zip(engine.views, engine.group_of, strict=True):
        engine.precision.check(v, after[part].rule, engine.name)


def _states(engine, before) -> list[list]:
    """The state arrays of each parameter: those that there were, and those that its rule needs from now on."""
    if all(part.rule.states == settings.rule.states for part, settings in before.items()):
        return engine.state
    found = []
    for v, part, arrays in zip(engine.views, engine.group_of, engine.state, strict=True):
        rule = before[part].rule
        states = dict(zip(rule.states, arrays, strict=True))
        theirs = torch_form.to_torch(rule, {name: states[name].get() for name in rule.state}, engine.xp)
        for name in part.rule.states:
            if name not in states:
                states[name] = engine.new_state(v, part.settings, name)
                value = _made_of(part.rule, name, theirs, engine.xp)
                if value is not None:
                    states[name].set(view(engine.xp.asarray(value, states[name].sums), name))
        found.append([states[name] for name in part.rule.states])
    return found


def _made_of(rule, name: str, theirs: dict, xp):
    """Our state of this name, of torch's, or None where there was nothing of it."""
    source = torch_form.names(rule)[name]
    if source not in theirs:
        return None
    zeros = xp.zeros_like(theirs[source], dtype=np.float64)
    return torch_form.from_torch(rule, name, lambda key: theirs[key].astype(np.float64) if key in theirs else zeros)


def _products(engine, old_scalars, before) -> list[tuple]:
    """(scalars, rows) of the running products that are others from now on."""
    found = []
    for scalars in engine.scalars.values():
        rule, is_new = scalars.rule, scalars not in old_scalars.values()
        stale = [_stale(rule, before[part].numbers, part.numbers) for part in scalars.groups]
        if not rule.carried or not (is_new or any(stale)):
            continue
        rows = []
        for part, names in zip(scalars.groups, stale, strict=True):
            has_begun = set(rule.state) <= set(before[part].rule.state)
            values = engine.values(part, 0.0)
            (row,) = replayed(rule, scalars.sums, [values], engine.steps if has_begun else 0)
            row = dict(zip(rule.carried, row, strict=True))
            was = _carried(old_scalars, part, scalars.sums)
            rows.append(list((row | {n: v for n, v in was.items() if n not in names}).values()))
        found.append((scalars, np.array(rows)))
    return found


def _stale(rule, old: dict, new: dict) -> tuple[str, ...]:
    """Those of its running products that follow from numbers which are others now."""
    return rule.counted if any(old.get(n) != new[n] for n in rule.taken if n in new) else ()


def _carried(all_scalars, part, sums: str) -> dict[str, float]:
    """name -> value of a group's running products."""
    for scalars in all_scalars.values():
        if scalars.sums == sums and part in scalars.groups and scalars.rule.carried:
            return dict(zip(scalars.rule.carried, on_host(scalars.carried)[scalars.groups.index(part)], strict=True))
    return {}
