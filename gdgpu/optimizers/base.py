"""What every optimizer has: parameters updated in place, one fused launch a step for each combination of dtypes."""

from __future__ import annotations

from typing import Any, ClassVar

from ..core.arrays import View, contiguous, view
from ..core.batches import REDUCTIONS, batch_views, bound_weights, cast_weights, checked_norm, same_sums
from ..core.checks import MAX_STEPS, count, flag, one_of
from ..core.nvtx import ranged
from ..core.turns import in_turn, take_turns
from ..kernels.backend.memory import accumulator
from ..typing import Array, Arrays, Params, Rate, Reduction
from . import torch_state_dict
from .bound import Bound, watched
from .engine import Engine
from .grad_scaling import GradScaling
from .groups import Group
from .hyperparameters import Hyperparameter, Settings, unexpected
from .precision import KEYWORDS
from .reassign import configure
from .state_dict import restore, state_of

_BIND = "bind this step before the capture, and let the graph capture calls of what bind returned"


class Optimizer:
    """What every optimizer has. A subclass says in `_rule` which rule its hyperparameters call for.

    params: one array, a list of them, or a dict name -> array; C-contiguous, writable, float16, bfloat16, float32
    or float64, all on one device. Or a list of groups, {"params": one of these, "lr": …, "momentum": …}: what a group
    does not give is taken from the arguments; groups cost no launch. They are updated in place, and their memory must
    stay where it is. State is kept in the accumulator's dtype: float64 for float64 parameters, else float32.

    lr: a float >= 0, or a function of the number of completed steps (from 0), which a step calls: it may not call the
    optimizer, nor gradients of a model that steps with it.

    lr and all hyperparameters are attributes, of each of `groups` too, and assignable: checked, and taken by the next
    step; a group's None follows the optimizer. What is assigned acts as in torch.optim: see reassign.py. On a GPU
    numbers are written there at once, on the current stream, so that the replays of a CUDA graph see them; flags, which
    are compiled in, are refused once a graph has recorded a step. The replays are not seen here: add their number to
    `steps`, unless steps are counted there too (rounding, found_inf). What is asked of one optimizer on several streams
    runs in the order of the calls, one after the other; where the replays are launched, only their streams say.

    Keywords that all optimizers have. master=True: float16 or bfloat16 params get float32 copies, which the rule
    updates, and are their rounded images. ema=0.999: `ema` holds a moving average of the weights, before they are
    rounded. state_dtype: "bfloat16", or "uint8": 8-bit codes with a scale for every 256 elements
    (kernels/backend/quantize.py); not for float64 params. rounding="stochastic": what is stored in 16 or 8 bits goes up
    or down at random, right in the mean, as narrow state of Adam and its like should; the bits come from (seed, step,
    tensor, element). An assignment to params from outside does not reach the copies.
    """

    __slots__ = ("__weakref__", "_engine", "_groups", "_turn")  # an assignment to any other name would do nothing

    lr = Hyperparameter[Rate]()
    _group: ClassVar[type[Group]] = Group

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Groups have the hyperparameters of their optimizer."""
        super().__init_subclass__(**kwargs)
        attributes = {name: value for name, value in vars(cls).items() if isinstance(value, Hyperparameter)}
        cls._group = type("Group", (cls._group,), {"__slots__": ()} | attributes)

    def __init__(self, params: Params, lr: Rate, options: dict[str, Any], **precision: Any) -> None:
        if error := unexpected(type(self).__name__, precision, ("lr", *options, *KEYWORDS)):
            raise error
        take_turns(self)
        self._engine = Engine(type(self), params, lr, options, precision)
        self._groups = tuple(self._group(self, k) for k in range(len(self._engine.parts)))

    @staticmethod
    def _initial(settings: Settings, state: str) -> float:
        """What a state begins with."""
        return 0.0

    @property
    def name(self) -> str:
        """The optimizer's name, in lower case."""
        return self._engine.name

    @property
    def params(self) -> Any:
        """What it was made from."""
        return self._engine.tree.params

    @property
    def kernel_device(self) -> str:
        """Where its kernels run: "cpu" or "cuda"."""
        return self._engine.device

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of parameters; their hyperparameters are assignable."""
        return self._groups

    @property
    def steps(self) -> int:
        """Completed steps. Where steps may be skipped, or are counted on a GPU, this waits for it."""
        engine = self._engine
        if engine.clock is None:
            return engine.count
        with self._turn:
            return engine.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._assign_steps(count("steps", value, limit=MAX_STEPS))

    @in_turn
    def _assign_steps(self, value: int) -> None:
        self._engine.steps = value

    @property
    def ema(self) -> Any:
        """The moving averages of the weights, in the structure of params: the arrays themselves."""
        engine = self._engine
        if "ema" not in engine.precision.copies:
            raise AttributeError(f"{self.name} was made without ema")
        index = engine.precision.copies.index("ema")
        return engine.tree.like([states[index].array for states in engine.state])

    def current(self) -> Any:
        """The hyperparameters of the next step, as the constructor names them; of groups, a list of these."""
        return self._engine.tree.each(self._engine.current(part) for part in self._engine.parts)

    def _read(self, name: str) -> Any:
        return self._engine.value(name)

    @in_turn
    def _assign(self, name: str, value: Any, group: int | None = None) -> None:
        self._engine.assign(name, value, group)

    @ranged
    @in_turn
    def step(
        self,
        grads: Arrays,
        grad_scale: float | Array | None = None,
        found_inf: bool | Array | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        zero_grads: bool = False,
    ) -> None:
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
        engine = self._engine
        grads = self._grads(engine.tree.matching(grads, "grads"))
        with engine.in_order(_BIND):
            scaling = self._grad_scaling(grad_scale, found_inf, clip_value, clip_norm, zero_grads)
            engine.take(engine.launches.prepare(engine, grads, scaling))

    @ranged
    @in_turn
    def step_samples(
        self,
        G: Arrays,
        weights: Array | None = None,
        reduction: Reduction = "mean",
        max_norm: float | None = None,
    ) -> None:
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
        engine = self._engine
        G, number_of, max_norm = self._samples(engine.tree.matching(G, "G"), reduction, max_norm)
        with engine.in_order(_BIND):
            cast = cast_weights(weights, number_of, G, engine.xp)
            engine.take(engine.launches.prepare_samples(engine, G, cast, number_of, reduction, max_norm))

    @ranged
    @in_turn
    def bind(
        self,
        grads: Arrays,
        grad_scale: float | Array | None = None,
        found_inf: bool | Array | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        zero_grads: bool = False,
    ) -> Bound:
        """Check once: returns a call that takes `step` with what these arrays hold then, with no work per tensor.

        It goes on reading these arrays, whatever takes their place elsewhere. After torch's zero_grad(), which drops
        gradients unless set_to_none=False, nobody but the call has them: where that can be seen it raises RuntimeError.

        On a GPU a CUDA graph can capture that call, once a step was taken. Keep the optimizer for as long as the graph:
        it owns what the replays read, whatever becomes of the call.
        """
        pairs, dropped = watched(self._engine.tree.matching(grads, "grads"))
        grads = self._grads(pairs)
        with self._engine.in_order(_BIND):
            scaling = self._grad_scaling(grad_scale, found_inf, clip_value, clip_norm, zero_grads)
        return Bound(self, lambda engine, launches: launches.prepare(engine, grads, scaling), dropped)

    @ranged
    @in_turn
    def bind_samples(
        self,
        G: Arrays,
        weights: Array | None = None,
        reduction: Reduction = "mean",
        max_norm: float | None = None,
    ) -> Bound:
        """Check once: returns a call that takes `step_samples` with what G and weights hold then.

        weights must be what kernels read: C-contiguous, on the device, of the accumulator's dtype.
        """
        pairs, dropped = watched(self._engine.tree.matching(G, "G"))
        G, number_of, max_norm = self._samples(pairs, reduction, max_norm)
        work = G, bound_weights(weights, number_of, G), number_of, reduction, max_norm
        return Bound(self, lambda engine, launches: launches.prepare_samples(engine, *work), dropped)

    def _grad_scaling(self, *asked: Any) -> GradScaling:
        """What a step does besides its rule. From the first that may be skipped on, steps are counted on the device."""
        scaling = GradScaling(self._engine, *asked)
        if "found_inf" in scaling.options:
            self._engine.count_on_device()
        return scaling

    def _grads(self, pairs: list[tuple[str, Any]]) -> list[View]:
        grads = [view(array, name) for name, array in pairs]
        for g, w in zip(grads, self._engine.views, strict=True):
            if g.shape != w.shape:
                raise ValueError(f"{g.name}: expected shape {w.shape} like params, got {g.shape}")
            same_sums(contiguous(g), w)
        return grads

    def _samples(self, pairs: list[tuple[str, Any]], reduction: str, max_norm: Any) -> tuple[list[View], int, Any]:
        one_of("reduction", reduction, REDUCTIONS)
        views = self._engine.views
        max_norm = checked_norm(max_norm, {accumulator(v.dtype) for v in views} or {"float32"})
        return *batch_views(pairs, views), max_norm

    @ranged
    @in_turn
    def state_dict(self, torch: bool = False) -> dict[str, Any]:
        """{"optimizer", "steps", "hyper", "state"}: plain values, and copies of the state arrays.

        state: name -> arrays in the structure of params; hyper holds the lr of the next step. Of groups both are lists,
        one a group. Rules with running products add "carried": dtype -> rows of them, a group each; rounding at
        random adds its "seed".

        torch: instead what load_state_dict of torch.optim's optimizer of the same name takes: {"state", "param_groups"}
        of torch tensors, without master weights and averages. ValueError where there is none.
        """
        torch, saved = flag("torch", torch), state_of(self._engine)
        return torch_state_dict.to_torch(self._engine, saved) if torch else saved

    @ranged
    @in_turn
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state_dict of the same optimizer, ours or torch.optim's, over parameters of the same shapes.

        Hyperparameters and the seed of rounding at random come from it too, but a function assigned to lr stays.
        Raises ValueError or TypeError naming what differs, before anything is touched.
        """
        torchs = torch_state_dict.is_torchs(state_dict)
        restore(self._engine, torch_state_dict.from_torch(self._engine, state_dict) if torchs else state_dict)

    @in_turn
    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle and copy: the structure of params itself, so that whatever else has it shares the arrays."""
        engine = self._engine
        keywords, given = engine.precision.keywords, [part.given for part in engine.parts]
        return _made_again, (type(self), engine.tree.params, engine.defaults, keywords, given, state_of(engine))

    def __repr__(self) -> str:
        return repr(self._engine)


def _made_again(kind: Any, params: Any, defaults: dict, precision: dict, given: list, saved: dict) -> Optimizer:
    optimizer = kind(params, **defaults, **precision)
    engine = optimizer._engine
    with engine.in_order():
        configure(engine, engine.defaults, given, "groups")
    restore(engine, saved)
    return optimizer
