"""The state of an optimizer as a state_dict, and back: everything is checked before anything is touched."""

import numpy as np

from ..core.arrays import view
from ..core.checks import MAX_STEPS, count, number
from ..core.pytree import like, matching
from ..devices import on_host
from ..kernels.backend.memory import accumulator
from .launches import Launches


def state_of(optimizer):
    """What Optimizer.state_dict returns, in our form."""
    each = optimizer._tree.each
    with optimizer._in_order():
        saved = {
            "optimizer": optimizer.name,
            "steps": optimizer.steps,
            "hyper": optimizer.current(),
            "state": each(_copies(optimizer, group) for group in optimizer.groups),
        }
        carried = {s.key: s.carried.tolist() for s in optimizer._scalars.values() if s.rule.carried}
    saved |= {"carried": carried} if carried else {}
    return saved | ({"seed": optimizer._storage.seed} if optimizer._storage.at_random else {})


def _copies(optimizer, group):
    held = [optimizer._state[k] for k in group.tensors]
    return {name: like(group.params, [h[j].get() for h in held]) for j, name in enumerate(group.rule.states)}


def restore(optimizer, state_dict):
    """What Optimizer.load_state_dict does."""
    _keys("state_dict", state_dict, {"optimizer", "steps", "hyper", "state"}, optional={"carried", "seed"})
    if state_dict["optimizer"] != optimizer.name:
        raise ValueError(f"state_dict: expected one of {optimizer.name!r}, got one of {state_dict['optimizer']!r}")
    steps = _whole("state_dict['steps']", state_dict["steps"], limit=MAX_STEPS)
    seed = _whole("state_dict['seed']", state_dict.get("seed", optimizer._storage.seed))
    groups = [
        _group(optimizer, group, *parts)
        for group, *parts in zip(
            optimizer.groups,
            _each(optimizer, state_dict, "hyper"),
            _each(optimizer, state_dict, "state"),
            strict=True,
        )
    ]
    old = [(group.options, group._lr) for group in optimizer.groups], optimizer._lr, optimizer.steps, optimizer._scalars
    with optimizer._in_order():
        try:
            optimizer._set_steps(steps)
            for group, (options, _, _) in zip(optimizer.groups, groups, strict=True):
                group.assign(optimizer, options)
            optimizer._scalars = optimizer._gather(optimizer._scalars)
            carried = [s for s in optimizer._scalars.values() if s.rule.carried]
            products = [(s.carried, _products(s, state_dict.get("carried", {}))) for s in carried]
            _assign_lr(optimizer, [lr for _, lr, _ in groups])
            optimizer._renew()
        except BaseException:
            for group, (options, lr) in zip(optimizer.groups, old[0], strict=True):
                group.assign(optimizer, options)
                group._lr = lr
            _, optimizer._lr, steps, optimizer._scalars = old
            optimizer._set_steps(steps)
            raise
        for *_, copies in groups:
            _store(optimizer, copies)
        for target, source in products:
            target[...] = optimizer._xp.asarray(source)
        optimizer._take_seed(seed)
        optimizer._order.retire((old, optimizer._launches))
        optimizer._launches = Launches(optimizer)  # flags are compiled in
    optimizer._version += 1


def _whole(label, value, **range):
    try:
        return count(label, value, **range)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _assign_lr(optimizer, values):
    """A value for each group; those without an lr of their own go on following the optimizer if theirs are the same."""
    following = {lr for group, lr in zip(optimizer.groups, values, strict=True) if group._lr is None}
    for group, lr in zip(optimizer.groups, values, strict=True):
        if not callable(optimizer._rate(group)):
            holder = optimizer if group._lr is None and len(following) == 1 else group
            holder._lr = lr


def _keys(name, given, expected, optional=()):
    if not isinstance(given, dict) or given.keys() - set(optional) != set(expected):
        got = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise ValueError(f"{name}: expected a dict with the keys {sorted(expected)}, got {got}")


def _each(optimizer, state_dict, part):
    """(name, value) of this part of the state_dict for each group."""
    value = state_dict[part]
    if not optimizer._tree.grouped:
        return [(f"state_dict[{part!r}]", value)]
    if not isinstance(value, list) or len(value) != len(optimizer.groups):
        raise ValueError(f"state_dict[{part!r}]: expected a list of {len(optimizer.groups)}, one for each group")
    return [(f"state_dict[{part!r}][{k}]", v) for k, v in enumerate(value)]


def _group(optimizer, group, named_hyper, named_state):
    """(hyperparameters, lr, copies to make) of a group."""
    (label, hyper), (where, state) = named_hyper, named_state
    _keys(label, hyper, optimizer._current(group))
    _keys(where, state, group.rule.states)
    lr = rule_of(optimizer, group, label, hyper)[1]["lr"]
    copies = []
    for j, name in enumerate(group.rule.states):
        pairs = matching(state[name], group.params, f"{where}[{name!r}]")
        for (array_name, array), k in zip(pairs, group.tensors, strict=True):
            w, saved = optimizer._views[k], view(array, array_name)
            sums = accumulator(w.dtype)
            if saved.shape != w.shape or saved.dtype != sums:
                raise ValueError(f"{array_name}: expected {sums} {w.shape}, got {saved.dtype} {saved.shape}")
            copies.append((optimizer._state[k][j], saved.owner))
    return {name: hyper[name] for name in hyper if name != "lr"}, lr, copies


def rule_of(optimizer, group, label, hyper):
    """(rule, its hyperparameters) that saved ones call for; ValueError where this group's state is of another rule."""
    try:
        lr = number("lr", hyper["lr"])
        rule, values, _ = optimizer._check(**{name: hyper[name] for name in hyper if name != "lr"})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{label}: {error}") from None
    if rule.states != group.rule.states:
        raise ValueError(f"{label}: they call for rule {rule.name}, this optimizer runs {group.rule.name}")
    return rule, {"lr": lr} | optimizer._storage.scalars | values


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


def _store(optimizer, copies):
    """Copy each array into the state beside it."""
    for target, source in copies:
        target.set(view(_on(optimizer._xp, source), "state"))


def params_on_host(optimizer):
    """The parameters as NumPy arrays, which share their memory if they lie there."""
    return [_as_named(on_host(v.owner), v.dtype) for v in optimizer._views]


def _as_named(array, dtype):
    """A bfloat16 tensor comes as integers of its bits."""
    if array.dtype.name == dtype:
        return array
    import ml_dtypes

    return array.view(getattr(ml_dtypes, dtype))


def _on(xp, array):
    return xp.asarray(array.get() if xp is np and hasattr(array, "get") else array)
