"""What every optimizer has: parameters updated in place, one fused launch a step for each combination of dtypes."""

from functools import partial

import numpy as np

from .arrays import contiguous, disjoint, kernel_device, leaves, like, on_device_of, view, writable
from .checks import number, one_of
from .devices import capturing
from .groups import Group, Tree
from .hyper import Scalars
from .kernels.memory import accumulator
from .kernels.rules import RULES
from .kernels.threads import uninterrupted
from .launches import Bound, Samples, Step
from .ranges import ranged
from .reduction import REDUCTIONS, batch_views, bound_weights, cast_weights, same_sums
from .state import restore


class Optimizer:
    """What every optimizer has. A subclass says in `_rule` which rule its hyperparameters call for.

    params: one array, a list of them, or a dict name -> array; C-contiguous, writable, float16, bfloat16, float32
    or float64, all on one device. Or a list of groups, {"params": one of these, "lr": …, "momentum": …}: what a group
    does not give is taken from the arguments; groups cost no launch. They are updated in place, and their memory must
    stay where it is. State is kept in the accumulator's dtype: float64 for float64 parameters, else float32.

    lr: a float >= 0, or a function of the number of completed steps (from 0). Assignable, also each of `groups`'. On a
    GPU a float is written there at once, on the current stream, so that the replays of a CUDA graph see it. The replays
    are not seen here: add their number to `steps`.
    """

    def __init__(self, params, lr, hyper):
        self._tree, self.params, self.steps = Tree(params), params, 0
        self._lr = _checked_lr(lr)
        self.groups, self._views = [], []
        for k, (part, name) in enumerate(self._tree.parts):
            group = self._new_group(k, part, hyper)
            views = [writable(view(array, label)) for label, array in leaves(part, name)]
            group.tensors = range(len(self._views), len(self._views) + len(views))
            self.groups.append(group)
            self._views += views
        self.kernel_device, self._xp = kernel_device(self._views) if self._views else ("cpu", np)
        disjoint(self._views)
        self._group_of = [group for group in self.groups for _ in group.tensors]
        self._launches, self._version = {}, 0
        with on_device_of(self._views):
            self._state = [
                [self._xp.full(v.shape, self._initial(group, n), accumulator(v.dtype)) for n in group.rule.state]
                for v, group in zip(self._views, self._group_of, strict=True)
            ]
            self._scalars = self._gather({})
            self._renew()

    def _gather(self, held):
        """The Scalars of each rule and dtype, those held where their groups are the same."""
        members, gathered = {}, {}
        for v, group in zip(self._views, self._group_of, strict=True):
            members.setdefault((group.rule, accumulator(v.dtype)), {})[group] = None
        for key, groups in members.items():
            same = key in held and held[key].groups == list(groups)
            gathered[key] = held[key] if same else Scalars(*key, list(groups), self.kernel_device, self._xp)
        return gathered

    def _new_group(self, k, part, hyper):
        options = self._tree.options(k)
        lr = options.pop("lr", None)
        for key in options:
            if key not in hyper:
                raise ValueError(f"params[{k}]: expected the keys params, lr, {', '.join(hyper)}, got {key!r}")
        try:
            return Group(self, part, lr if lr is None else _checked_lr(lr), hyper | options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"params[{k}]: {error}" if options or lr is not None else str(error)) from None

    def _check(self, **hyper):
        """(rule, hyperparameters, flags) of these arguments."""
        rule, hyper, flags = self._rule(**hyper)
        return RULES.get(rule, rule), hyper, flags

    @property
    def name(self):
        """The optimizer's name, in lower case."""
        return type(self).__name__.lower()

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._assign_lr(self, value)

    def _assign_lr(self, holder, value):
        old, holder._lr = holder._lr, value if value is None and holder is not self else _checked_lr(value)
        try:
            with on_device_of(self._views):
                self._renew()
        except BaseException:
            holder._lr = old
            raise

    def current(self):
        """The hyperparameters of the next step, as the constructor names them; of groups, a list of these."""
        return self._tree.each(self._current(group) for group in self.groups)

    def _current(self, group):
        return {"lr": self._lr_of(group)} | group.options

    def _lr_of(self, group):
        return number("lr", group.lr(self.steps)) if callable(group.lr) else group.lr

    def _initial(self, group, state):
        """What a state begins with."""
        return 0.0

    def _renew(self):
        """Take what was assigned. Functions of the step are called by the step that they are for."""
        rows = self._rows([0.0 if callable(group.lr) else group.lr for group in self.groups])
        self._varying = any(callable(group.lr) for group in self.groups)
        if not self._varying:
            self._put(rows)

    def _refresh(self):
        self._put(self._rows([self._lr_of(group) for group in self.groups]))

    def _rows(self, rates):
        """What kernels read in the next step, checked; rates: the lr of each group."""
        values = {group: {"lr": lr} | group.hyper for group, lr in zip(self.groups, rates, strict=True)}
        return [(s, s.rounded([values[group] for group in s.groups])) for s in self._scalars.values()]

    def _put(self, rows):
        for scalars, array in rows:
            scalars.values.set(array)

    @ranged
    def step(self, grads):
        """Update the parameters with a gradient: w, *state <- rule(w, g, *state).

        grads: arrays in the structure and shapes of params, C-contiguous, on their device; a gradient's dtype may
        be narrower than its parameter's (float16 for float32), but not float64 for a smaller one or the reverse.
        Raises ValueError or TypeError before anything is touched.
        """
        grads = self._grads(grads)
        with on_device_of(self._views):
            self._take(self._prepare(Step, self._launches, grads))

    @ranged
    def step_samples(self, G, weights=None, reduction="mean"):
        """Reduce per-sample gradients over the batch and update, in one pass: w, *state <- rule(w, g, *state).

        g = 1/B * sum_n c_n G[n] ("mean"; "sum" leaves 1/B out; no weights: c_n = 1). G: arrays (B, *shape) in the
        structure of params, any row stride, each sample C-contiguous. weights: (B,), cast to the accumulator's dtype.
        B = 0: g = 0, and the step is taken. Raises ValueError or TypeError before anything is touched.
        """
        G, count = self._samples(G, reduction)
        with on_device_of(self._views):
            held = cast_weights(weights, count, G, self._xp)
            self._take(self._prepare(Samples, self._launches, G, held, count, reduction))

    @ranged
    def bind(self, grads):
        """Check once: returns a call that takes `step` with what these arrays hold then, with no work per tensor."""
        return self._bound(Step, self._grads(grads))

    @ranged
    def bind_samples(self, G, weights=None, reduction="mean"):
        """Check once: returns a call that takes `step_samples` with what G and weights hold then.

        weights must be what kernels read: C-contiguous, on the device, of the accumulator's dtype.
        """
        G, count = self._samples(G, reduction)
        return self._bound(Samples, G, bound_weights(weights, count, G), count, reduction)

    def _grads(self, grads):
        grads = [view(array, name) for name, array in self._tree.matching(grads, "grads")]
        for g, w in zip(grads, self._views, strict=True):
            if g.shape != w.shape:
                raise ValueError(f"{g.name}: expected shape {w.shape} like params, got {g.shape}")
            same_sums(contiguous(g), w)
        return grads

    def _samples(self, G, reduction):
        one_of("reduction", reduction, REDUCTIONS)
        return batch_views(self._tree.matching(G, "G"), self._views)

    def _bound(self, *args):
        return Bound(self, partial(self._prepare, args[0], {}, *args[1:]))

    def _prepare(self, kind, launches, gradients, weights=None, *args):
        """Check, compile and lay out every launch, before any runs: the step happens whole or not at all."""
        held = [view(array, "weights") for array in (weights or {}).values()]
        if self._views:
            kernel_device([self._views[0], *gradients, *held])
        advances, runs = {}, []
        for key, tensors in self._combinations(gradients):
            launch = launches.get((kind, key, tensors))
            if launch is None:
                launch = launches[kind, key, tensors] = kind(self, tensors, key[-1])
            part = [gradients[k] for k in tensors]
            launch.check(self, [*part, *held])
            runs.append(launch.prepare(part, weights, *args))
            if launch.scalars.advance:
                advances[launch.scalars] = launch.scalars.advance
        return [*advances.values(), *runs]

    def _combinations(self, gradients):
        """The tensors of each combination of kernel and dtypes (of w, of g)."""
        members = {}
        for k, (group, w, g) in enumerate(zip(self._group_of, self._views, gradients, strict=True)):
            members.setdefault((group.kernel, w.dtype, g.dtype), []).append(k)
        return [(key, tuple(tensors)) for key, tensors in members.items()]

    def _take(self, runs):
        if self._varying:
            if capturing(self._xp):
                raise RuntimeError(
                    "a CUDA graph would repeat this step's lr: first take a step, and assign lr as numbers"
                )
            self._refresh()
        with uninterrupted():
            for run in runs:
                run()
            self.steps += 1

    @ranged
    def state_dict(self):
        """{"optimizer", "steps", "hyper", "state"}: plain values, and copies of the state arrays.

        state: name -> arrays in the structure of params; hyper holds the lr of the next step. Of groups both are lists,
        one a group. Rules with running products add "carried": dtype -> rows of them, a group each.
        """
        saved = {
            "optimizer": self.name,
            "steps": self.steps,
            "hyper": self.current(),
            "state": self._tree.each(self._state_of(group) for group in self.groups),
        }
        carried = {s.key: s.carried.tolist() for s in self._scalars.values() if s.rule.carried}
        return saved | ({"carried": carried} if carried else {})

    def _state_of(self, group):
        held = [self._state[k] for k in group.tensors]
        return {name: like(group.params, [h[j].copy() for h in held]) for j, name in enumerate(group.rule.state)}

    @ranged
    def load_state_dict(self, state_dict):
        """Continue from a state_dict of the same optimizer over parameters of the same shapes.

        Hyperparameters come from it too, but a function assigned to lr stays. Raises ValueError or TypeError
        naming what differs, before anything is touched.
        """
        restore(self, state_dict)


def _checked_lr(value):
    return value if callable(value) else number("lr", value)
