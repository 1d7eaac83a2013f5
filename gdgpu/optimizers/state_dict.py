"""The state of an optimizer as a state_dict, and back: everything is checked before anything is touched."""

from typing import Any

import numpy as np

from ..core.arrays import view
from ..core.checks import MAX_STEPS, count, number
from ..core.pytree import like, matching
from ..devices import on_host
from ..kernels.backend.memory import accumulator
from .engine import Engine
from .groups import Part
from .hyperparameters import Settings
from .launches import Launches


def state_of(engine: Engine) -> dict[str, Any]:
    """What Optimizer.state_dict returns, in our form."""
    each = engine.tree.each
    with engine.in_order():
        saved = {
            "optimizer": engine.name,
            "steps": engine.steps,
            "hyper": each(engine.current(part) for part in engine.parts),
            "state": each(_copies(engine, part) for part in engine.parts),
        }
        carried = {s.key: s.carried.tolist() for s in engine.scalars.values() if s.rule.carried}
    saved |= {"carried": carried} if carried else {}
    return saved | ({"seed": engine.precision.seed} if engine.precision.at_random else {})


def _copies(engine, part):
    states = [engine.state[k] for k in part.tensors]
    return {name: like(part.params, [s[j].get() for s in states]) for j, name in enumerate(part.rule.states)}


def restore(engine: Engine, state_dict: dict[str, Any]) -> None:
    """What Optimizer.load_state_dict does."""
    _keys("state_dict", state_dict, {"optimizer", "steps", "hyper", "state"}, optional={"carried", "seed"})
    if state_dict["optimizer"] != engine.name:
        raise ValueError(f"state_dict: expected one of {engine.name!r}, got one of {state_dict['optimizer']!r}")
    steps = _whole("state_dict['steps']", state_dict["steps"], limit=MAX_STEPS)
    seed = _whole("state_dict['seed']", state_dict.get("seed", engine.precision.seed))
    loaded = [
        _part(engine, part, *parts)
        for part, *parts in zip(
            engine.parts, _each(engine, state_dict, "hyper"), _each(engine, state_dict, "state"), strict=True
        )
    ]
    with engine.in_order():
        old = engine.scalars, engine.launches
        with engine.all_or_nothing():
            engine.defaults, given = _shared(engine, [options for options, _, _ in loaded])
            for part, g, (_, settings, _) in zip(engine.parts, given, loaded, strict=True):
                part.take(g, settings)
            engine.scalars = engine.gathered(engine.scalars)
            carried = [s for s in engine.scalars.values() if s.rule.carried]
            products = [(s.carried, _products(s, state_dict.get("carried", {}))) for s in carried]
            engine.renew()
        engine.steps = steps
        for *_, copies in loaded:
            for target, source in copies:
                target.set(view(_on(engine.xp, source), "state"))
        for target, source in products:
            target[...] = engine.xp.asarray(source)
        engine.take_seed(seed)
        engine.order.retire(old)
        engine.launches = Launches(engine)  # flags are compiled in
    engine.version += 1


def _shared(engine, loaded):
    """(the optimizer's hyperparameters, what each group gives itself) that come to these, one dict a group.

    Groups that follow the optimizer go on following it where what they have is the same. A function for lr stays.
    """
    defaults, given = dict(engine.defaults), [{} for _ in loaded]
    for name in defaults:
        following = [k for k, part in enumerate(engine.parts) if name not in part.given]
        same = all(loaded[k][name] == loaded[following[0]][name] for k in following)
        for k, part in enumerate(engine.parts):
            if name == "lr" and callable(engine.rate(part)):
                given[k] |= {name: part.given[name]} if name in part.given else {}
            elif k in following and same:
                defaults[name] = loaded[k][name]
            else:
                given[k][name] = loaded[k][name]
    return defaults, given


def _whole(label, value, **range):
    try:
        return count(label, value, **range)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _keys(name, given, expected, optional=()):
    if not isinstance(given, dict) or given.keys() - set(optional) != set(expected):
        got = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"{name}: expected a dict with the keys {sorted(expected)}, got {got}")


def _each(engine, state_dict, part):
    """(name, value) of this part of the state_dict for each group."""
    value = state_dict[part]
    if not engine.tree.grouped:
        return [(f"state_dict[{part!r}]", value)]
    if not isinstance(value, list) or len(value) != len(engine.parts):
        raise ValueError(f"state_dict[{part!r}]: expected a list of {len(engine.parts)}, one for each group")
    return [(f"state_dict[{part!r}][{k}]", v) for k, v in enumerate(value)]


def _part(engine, part, named_hyper, named_state):
    """(hyperparameters, Settings, copies to make) of a group."""
    (label, hyper), (where, state) = named_hyper, named_state
    _keys(label, hyper, {"lr", *part.options})
    _keys(where, state, part.rule.states)
    lr, settings = settings_of(engine, part, label, hyper)
    copies = []
    for j, name in enumerate(part.rule.states):
        pairs = matching(state[name], part.params, f"{where}[{name!r}]")
        for (array_name, array), k in zip(pairs, part.tensors, strict=True):
            w, saved = engine.views[k], view(array, array_name)
            sums = accumulator(w.dtype)
            if saved.shape != w.shape or saved.dtype != sums:
                raise ValueError(f"{array_name}: expected {sums} {w.shape}, got {saved.dtype} {saved.shape}")
            copies.append((engine.state[k][j], saved.owner))
    return hyper | {"lr": lr}, settings, copies


def settings_of(engine: Engine, part: Part, label: str, hyper: dict[str, Any]) -> tuple[float, Settings]:
    """(lr, Settings) that saved hyperparameters come to; ValueError where this group's state is of another rule."""
    try:
        lr, settings = number("lr", hyper["lr"]), engine.settings(hyper)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label}: {error}") from None
    if settings.rule.states != part.rule.states:
        raise ValueError(f"{label}: they call for rule {settings.rule.name}, this optimizer runs {part.rule.name}")
    return lr, settings


def _products(scalars, carried):
    """The running products of one rule and dtype."""
    expected = f"state_dict['carried']: expected {scalars.key!r} -> {scalars.carried.shape} finite numbers"
    try:
        rows = np.array(carried[scalars.key], np.float64)
    except (KeyError, TypeError, ValueError):
        raise ValueError(expected) from None
    if rows.shape != scalars.carried.shape or not np.isfinite(rows).all():
        raise ValueError(expected)
    return rows


def params_on_host(engine: Engine) -> list[np.ndarray]:
    """The parameters as NumPy arrays, which share their memory if they lie there."""
    return [_as_named(on_host(v.owner), v.dtype) for v in engine.views]


def _as_named(array, dtype):
    """A bfloat16 tensor comes as integers of its bits."""
    if array.dtype.name == dtype:
        return array
    import ml_dtypes

    return array.view(getattr(ml_dtypes, dtype))


def _on(xp, array):
    return xp.asarray(array.get() if xp is np and hasattr(array, "get") else array)
