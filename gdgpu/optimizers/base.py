"""What every optimizer has: parameters updated in place, one fused launch a step for each combination of dtypes."""

from functools import partial

import numpy as np

from ..core.arrays import contiguous, disjoint, in_order, kernel_device, view, writable
from ..core.batches import REDUCTIONS, batch_views, bound_weights, cast_weights, checked_norm, same_sums
from ..core.checks import MAX_STEPS, count, flag, number, one_of
from ..core.nvtx import ranged
from ..core.pytree import Tree, leaves
from ..core.turns import in_turn, take_turns
from ..kernels.backend.memory import accumulator
from ..kernels.backend.streams import order
from ..kernels.backend.threads import whole
from ..kernels.rules.rule import with_copies
from ..kernels.rules.table import RULES
from . import torch_state_dict
from .bound import Bound, watched
from .grad_scaling import GradScaling
from .groups import Group
from .launches import Launches
from .precision import Storage
from .state_dict import restore, state_of
from .step_scalars import Scalars

_BIND = "bind this step before the capture, and let the graph capture calls of what bind returned"


class Optimizer:
    """What every optimizer has. A subclass says in `_rule` which rule its hyperparameters call for.

    params: one array, a list of them, or a dict name -> array; C-contiguous, writable, float16, bfloat16, float32
    or float64, all on one device. Or a list of groups, {"params": one of these, "lr": …, "momentum": …}: what a group
    does not give is taken from the arguments; groups cost no launch. They are updated in place, and their memory must
    stay where it is. State is kept in the accumulator's dtype: float64 for float64 parameters, else float32.

    lr: a float >= 0, or a function of the number of completed steps (from 0), which a step calls: it may not call the
    optimizer, nor gradients of a model that steps with it. Assignable, also each of `groups`'. On a
    GPU a float is written there at once, on the current stream, so that the replays of a CUDA graph see it. The replays
    are not seen here: add their number to `steps`, unless steps are counted there too (rounding, found_inf). What is
    asked of one optimizer on several streams runs in the order of the calls, one after the other; where the replays are
    launched, only their streams say.

    Keywords that all optimizers have. master=True: float16 or bfloat16 params get float32 copies, which the rule
    updates, and are their rounded images. ema=0.999: `ema` holds a moving average of the weights, before they are
    rounded. state_dtype: "bfloat16", or "uint8": 8-bit codes with a scale for every 256 elements
    (kernels/backend/quantize.py); not for float64 params. rounding="stochastic": what is stored in 16 or 8 bits goes up
    or down at random, right in the mean, as narrow state of Adam and its like should; the bits come from (seed, step,
    tensor, element). An assignment to params from outside does not reach the copies.
    """

    __slots__ = (  # an assignment to any other name would do nothing
        "__weakref__",
        "_clock",
        "_group_of",
        "_groups",
        "_kernel_device",
        "_keys",
        "_launches",
        "_lr",
        "_order",
        "_params",
        "_recorded",
        "_scalars",
        "_state",
        "_steps",
        "_storage",
        "_tree",
        "_turn",
        "_varying",
        "_version",
        "_views",
        "_xp",
    )

    def __init__(self, params, lr, hyper, **common):
        take_turns(self)
        self._tree, self._params, self._steps, self._clock = Tree(params), params, 0, None
        self._lr, self._storage = _checked_lr(lr), Storage(**common)
        groups, self._views = [], []
        for k, (part, name) in enumerate(self._tree.parts):
            group = self._new_group(k, part, hyper)
            views = [writable(view(array, label)) for label, array in leaves(part, name)]
            group.tensors = range(len(self._views), len(self._views) + len(views))
            groups.append(group)
            self._views += views
        self._groups = tuple(groups)
        self._kernel_device, self._xp = kernel_device(self._views) if self._views else ("cpu", np)
        disjoint(self._views)
        self._group_of = [group for group in self.groups for _ in group.tensors]
        held = list(zip(self._views, self._group_of, strict=True))
        for v, group in held:
            self._storage.check(v, group.rule, self.name)
        self._version = 0
        self._take_seed(self._storage.seed)
        self._order, self._recorded = order(self.kernel_device), set()
        with self._in_order():
            self._state = [[self._new_state(v, group, name) for name in group.rule.states] for v, group in held]
            self._clock = self._xp.zeros(1, np.int64) if self._storage.at_random else None
            self._launches = Launches(self)
            self._scalars = self._gather({})
            self._renew()

    def _take_seed(self, seed):
        """Let what is rounded at random begin with it."""
        self._storage.seed = seed
        self._keys = self._storage.keys(len(self._views))

    def _in_order(self, instead="take this call outside of the capture"):
        """Context in which it allocates and launches: see arrays.in_order."""
        return in_order(self._views, self._order, instead)

    def _new_state(self, v, group, name):
        return self._storage.new(self.kernel_device, self._xp, v, group.rule, name, self._initial(group, name))

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
        return with_copies(RULES.get(rule, rule), self._storage.copies), hyper, flags

    @property
    def name(self):
        """The optimizer's name, in lower case."""
        return type(self).__name__.lower()

    @property
    def params(self):
        """What it was made from."""
        return self._params

    @property
    def kernel_device(self):
        """Where its kernels run: "cpu" or "cuda"."""
        return self._kernel_device

    @property
    def groups(self):
        """The groups of parameters; their lr are assignable."""
        return self._groups

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._assign_lr(self, value)

    @in_turn
    def _assign_lr(self, holder, value):
        old, new = holder._lr, value if value is None and holder is not self else _checked_lr(value)
        try:
            with self._in_order():
                holder._lr = new
                self._renew()
        except BaseException:
            holder._lr = old
            raise

    @property
    def steps(self):
        """Completed steps. Where steps may be skipped, or are counted on a GPU, this waits for it."""
        if self._clock is None:
            return self._steps
        with self._turn, self._in_order():
            return int(self._clock[0])

    @steps.setter
    def steps(self, value):
        self._assign_steps(count("steps", value, most=MAX_STEPS))

    @in_turn
    def _assign_steps(self, value):
        self._set_steps(value)

    def _set_steps(self, value):
        if self._clock is None:
            self._steps = value
        else:
            with self._in_order():
                self._clock[...] = value

    @property
    def ema(self):
        """The moving averages of the weights, in the structure of params: the arrays themselves."""
        if "ema" not in self._storage.copies:
            raise AttributeError(f"{self.name} was made without ema")
        return self._tree.like([held[self._storage.copies.index("ema")].array for held in self._state])

    def current(self):
        """The hyperparameters of the next step, as the constructor names them; of groups, a list of these."""
        return self._tree.each(self._current(group) for group in self.groups)

    def _current(self, group):
        return {"lr": self._lr_of(group)} | group.options

    def _lr_of(self, group):
        rate = self._rate(group)
        return number("lr", rate(self.steps)) if callable(rate) else rate

    def _rate(self, group):
        return self._lr if group._lr is None else group._lr

    def _initial(self, group, state):
        """What a state begins with."""
        return 0.0

    def _renew(self):
        """Take what was assigned. Functions of the step are called by the step that they are for."""
        rates = [self._rate(group) for group in self.groups]
        rows = self._rows([0.0 if callable(rate) else rate for rate in rates])
        varying = any(map(callable, rates))
        self._varying = True  # if an exception comes from elsewhere, the next step puts them right
        if not varying:
            self._put(rows)
        self._varying = varying

    def _refresh(self):
        self._put(self._rows([self._lr_of(group) for group in self.groups]))
        self._varying = any(callable(self._rate(group)) for group in self.groups)

    def _rows(self, rates):
        """What kernels read in the next step, checked; rates: the lr of each group."""
        values = {
            group: {"lr": lr} | self._storage.scalars | group.hyper
            for group, lr in zip(self.groups, rates, strict=True)
        }
        return [(s, s.rounded([values[group] for group in s.groups])) for s in self._scalars.values()]

    def _put(self, rows):
        for scalars, array in rows:
            scalars.values.set(array)

    @ranged
    @in_turn
    def step(self, grads, grad_scale=None, found_inf=None, clip_value=None, clip_norm=None, zero_grads=False):
        """Update the parameters with a gradient: w, *state <- rule(w, g, *state).

        grads: arrays in the structure and shapes of params, C-contiguous, on their device; a gradient's dtype may
        be narrower than its parameter's (float16 for float32), but not float64 for a smaller one or the reverse.

        Keywords, all in the same pass but for clip_norm, which takes one launch more:
        grad_scale: a number > 0; g / grad_scale is used. clip_value: each element of g is then put between -clip_value
        and clip_value. clip_norm: g is then multiplied by min(1, clip_norm / n), n the norm of all gradients together;
        a norm that is not finite gives weights that are not. found_inf: where it is 1 (True), the step is skipped and
        no bit of parameters and state changes. zero_grads: gradients are 0 afterwards, also of a step that is skipped.
        grad_scale and found_inf may be arrays of one float32 on the device, read when the step runs.

        Raises ValueError or TypeError before anything is touched.
        """
        grads = self._grads(self._tree.matching(grads, "grads"))
        with self._in_order(_BIND):
            scaling = self._grad_scaling(grad_scale, found_inf, clip_value, clip_norm, zero_grads)
            self._take(self._launches.prepare(self, grads, scaling))

    @ranged
    @in_turn
    def step_samples(self, G, weights=None, reduction="mean", max_norm=None):
        """Reduce per-sample gradients over the batch and update, in one pass: w, *state <- rule(w, g, *state).

        g = 1/B * sum_n c_n G[n] ("mean"; "sum" leaves 1/B out; no weights: c_n = 1). G: arrays (B, *shape) in the
        structure of params, any row stride, each sample C-contiguous. weights: (B,), cast to the accumulator's dtype.
        B = 0: g = 0, and the step is taken. Rules with norms, 8-bit state and rounding at random take two passes.

        max_norm: a number >= 0; c_n is also multiplied by min(1, max_norm / |G[n]|), where the norm of a sample spans
        all its tensors: the bits are those of weights times clip_weights(sample_norms(G), max_norm). inf clips nothing;
        a norm of 0 is never clipped; one that is not finite (squares overflow in float32 from 1.8e19 on) makes the
        weights NaN. It needs params that are all computed in float32, or all in float64.
        Raises ValueError or TypeError before anything is touched.
        """
        G, number_of, most = self._samples(self._tree.matching(G, "G"), reduction, max_norm)
        with self._in_order(_BIND):
            held = cast_weights(weights, number_of, G, self._xp)
            self._take(self._launches.prepare_samples(self, G, held, number_of, reduction, most))

    @ranged
    @in_turn
    def bind(self, grads, grad_scale=None, found_inf=None, clip_value=None, clip_norm=None, zero_grads=False):
        """Check once: returns a call that takes `step` with what these arrays hold then, with no work per tensor.

        It goes on reading these arrays, whatever takes their place elsewhere. After torch's zero_grad(), which drops
        gradients unless set_to_none=False, nobody but the call has them: where that can be seen it raises RuntimeError.

        On a GPU a CUDA graph can capture that call, once a step was taken. Keep the optimizer for as long as the graph:
        it owns what the replays read, whatever becomes of the call.
        """
        pairs, dropped = watched(self._tree.matching(grads, "grads"))
        grads = self._grads(pairs)
        with self._in_order(_BIND):
            scaling = self._grad_scaling(grad_scale, found_inf, clip_value, clip_norm, zero_grads)
        return Bound(self, lambda optimizer, launches: launches.prepare(optimizer, grads, scaling), dropped)

    @ranged
    @in_turn
    def bind_samples(self, G, weights=None, reduction="mean", max_norm=None):
        """Check once: returns a call that takes `step_samples` with what G and weights hold then.

        weights must be what kernels read: C-contiguous, on the device, of the accumulator's dtype.
        """
        pairs, dropped = watched(self._tree.matching(G, "G"))
        G, number_of, most = self._samples(pairs, reduction, max_norm)
        held = bound_weights(weights, number_of, G)
        return Bound(
            self,
            lambda optimizer, launches: launches.prepare_samples(optimizer, G, held, number_of, reduction, most),
            dropped,
        )

    def _grad_scaling(self, *asked):
        """What a step does besides its rule. From the first that may be skipped on, steps are counted on the device."""
        scaling = GradScaling(self, *asked)
        if "found_inf" in scaling.options and self._clock is None:
            self._clock = self._xp.full(1, self._steps, np.int64)
            self._version += 1
        return scaling

    def _grads(self, pairs):
        grads = [view(array, name) for name, array in pairs]
        for g, w in zip(grads, self._views, strict=True):
            if g.shape != w.shape:
                raise ValueError(f"{g.name}: expected shape {w.shape} like params, got {g.shape}")
            same_sums(contiguous(g), w)
        return grads

    def _samples(self, pairs, reduction, max_norm):
        one_of("reduction", reduction, REDUCTIONS)
        most = checked_norm(max_norm, {accumulator(v.dtype) for v in self._views} or {"float32"})
        return *batch_views(pairs, self._views), most

    def _record(self, *held):
        """Let a CUDA graph record the next step, which reads what is held."""
        if self._varying:
            raise RuntimeError("a CUDA graph would repeat this step's lr: first take a step, and assign lr as numbers")
        self._recorded.add(held)

    def _take(self, runs):
        if self._varying:
            self._refresh()
        if self._clock is None:
            whole(runs, partial(setattr, self, "_steps", self._steps + 1))
        else:
            whole(runs)

    @ranged
    @in_turn
    def state_dict(self, torch=False):
        """{"optimizer", "steps", "hyper", "state"}: plain values, and copies of the state arrays.

        state: name -> arrays in the structure of params; hyper holds the lr of the next step. Of groups both are lists,
        one a group. Rules with running products add "carried": dtype -> rows of them, a group each; rounding at
        random adds its "seed".

        torch: instead what load_state_dict of torch.optim's optimizer of the same name takes: {"state", "param_groups"}
        of torch tensors, without master weights and averages. ValueError where there is none.
        """
        torch, saved = flag("torch", torch), state_of(self)
        return torch_state_dict.to_torch(self, saved) if torch else saved

    @ranged
    @in_turn
    def load_state_dict(self, state_dict):
        """Continue from a state_dict of the same optimizer, ours or torch.optim's, over parameters of the same shapes.

        Hyperparameters and the seed of rounding at random come from it too, but a function assigned to lr stays.
        Raises ValueError or TypeError naming what differs, before anything is touched.
        """
        torchs = torch_state_dict.is_torchs(state_dict)
        restore(self, torch_state_dict.from_torch(self, state_dict) if torchs else state_dict)


def _checked_lr(value):
    return value if callable(value) else number("lr", value)
