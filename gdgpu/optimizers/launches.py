"""What an optimizer launches in a step, laid out once for each combination of rule and dtypes."""

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.arrays import View, disjoint, kernel_device, view, writable
from ..core.batches import samples, scale_of
from ..kernels.backend.buffers import Buffer, address_of
from ..kernels.backend.memory import accumulator
from ..kernels.codegen.element import QUANTIZED, Element, is_narrow
from ..kernels.launch import Job, Reduction
from ..kernels.optimizers import update
from ..kernels.reduction import reduce, reduce_update, tensor_norms
from ..samples.clipping import ClipFactors
from .grad_scaling import NOTHING, StepContext
from .norms import Norms
from .step_scalars import counting

if TYPE_CHECKING:
    from ..typing import Array


class Launches:
    """The launches of an optimizer's steps, kept between them. They hold nothing that holds the optimizer."""

    def __init__(self, engine: Any) -> None:
        self.laid_out, self.context = {}, StepContext(engine.xp, "float32")

    def prepare(self, engine: Any, gradients: list[View], scaling: Any = NOTHING) -> list[Any]:
        """The launches of a step with gradients that are in memory: all checked and laid out before any runs."""
        self.scaling = scaling  # which owns what launches read
        scalars = [v for v in (scaling.grad_scale, scaling.found_inf) if isinstance(v, View)]
        parts = self._parts(engine, Step, gradients, scaling.options, scalars)
        clip, clips = None, []
        if scaling.clip_norm is not None and parts:
            clip = self._get("clip", partial(_joint, engine))
            clips = [launch.clips(clip, last=launch is parts[-1][0]) for launch, _ in parts]
        updates = [launch.prepare(part, engine.clock, scaling, clip) for launch, part in parts]
        return [*self._advances(engine, parts, scaling), *(run for some in (*clips, *updates) for run in some)]

    def prepare_samples(
        self,
        engine: Any,
        G: list[View],
        weights: "dict[str, Array] | None",
        count: int,
        reduction: str | float,
        max_norm: Any = None,
    ) -> list[Any]:
        """The launches of a step with per-sample gradients. weights: {dtype: array}, max_norm: a number; or None."""
        read = [view(array, "weights") for array in (weights or {}).values()]
        parts, norms = self._parts(engine, _samples, G, (), read), []
        if max_norm is not None and len(parts) > 1:  # a sample's norm spans them
            weights, norms = self._factors(engine, G, weights, count, max_norm)
            max_norm = None
        clock = engine.clock
        updates = [launch.prepare(part, clock, weights, count, reduction, max_norm) for launch, part in parts]
        return [*self._advances(engine, parts, NOTHING), *norms, *(run for some in updates for run in some)]

    def _factors(self, engine, G, weights, count, max_norm):
        """(dtype -> the weights times the factors that clip, the launches that make them)."""
        dtypes = tuple(g.dtype for g in G)
        where = engine.device, engine.xp
        sizes = [w.size for w in engine.views]
        factors = self._get(("factors", dtypes), partial(ClipFactors, *where, dtypes, sizes))
        return factors.prepare(G, weights, count, max_norm)

    def _parts(self, engine, kind, gradients, options, read):
        """(launch, its gradients) for each combination of kernel and dtypes (of w, of g)."""
        members, parts = {}, []
        if engine.views:
            kernel_device([engine.views[0], *gradients, *read])
        for k, (group, w, g) in enumerate(zip(engine.group_of, engine.views, gradients, strict=True)):
            members.setdefault((group.kernel, w.dtype, g.dtype), []).append(k)
        for (kernel, w_dtype, g_dtype), tensors in members.items():
            key = kind, kernel, w_dtype, g_dtype, options, tuple(tensors)
            launch = self._get(key, partial(kind, engine, key[-1], g_dtype, options))
            part = [gradients[k] for k in tensors]
            launch.check(part, read)
            parts.append((launch, part))
        return parts

    def _get(self, key, make):
        if key not in self.laid_out:
            self.laid_out[key] = make()
        return self.laid_out[key]

    def _advances(self, engine, parts, scaling):
        """What makes the scalars of the step, and counts it where only the device knows whether it is taken."""
        clock, context = engine.clock, 0
        if clock is not None:
            self.context.set(scaling, address_of(clock))
            context = self.context.address
        runs, counts = [], context != 0
        for scalars in dict.fromkeys(launch.scalars for launch, _ in parts):
            if scalars.rule.step:
                runs.append(self._get((scalars, counts), partial(scalars.advance, context, counts)))
                counts = False
        if counts:
            runs.append(self._get("count", partial(counting, engine.device, context)))
        return runs


def _joint(engine):
    """The norm of all gradients together."""
    sizes, sums = [w.size for w in engine.views], accumulator(engine.views[0].dtype)
    return Norms(engine.device, engine.xp, sums, sizes, joint=True)


class _Launch:
    def __init__(self, engine: Any, tensors: tuple[int, ...], g_dtype: str, options: tuple[str, ...]) -> None:
        self.tensors, self.g_dtype, self.all_views = tensors, g_dtype, engine.views
        self.device, self.xp = engine.device, engine.xp
        self.views = [engine.views[k] for k in tensors]
        self.sizes = [w.size for w in self.views]
        self.sums = accumulator(g_dtype)
        groups = [engine.group_of[k] for k in tensors]
        self.rule, self.flags = groups[0].kernel
        self.scalars = engine.scalars[self.rule, self.sums]
        rows = {group: self.scalars.row(group) for group in dict.fromkeys(groups)}
        states = zip(*([state.address for state in engine.state[k]] for k in tensors), strict=True)
        # the addresses of each tensor's scalars, of w and its states, which never move
        self.fixed = {"hyper": [rows[group] for group in groups], "w": [w.address for w in self.views]}
        self.fixed |= dict(zip(self.rule.array_names, states, strict=bool(tensors)))
        self.dtypes = (self.views[0].dtype, *(state.dtype for state in engine.state[tensors[0]]))
        rounds = engine.precision.at_random and any(map(is_narrow, self.dtypes))
        self.options = (*options, *["at_random"] * rounds)
        self._seen = None

    def check(self, gradients: list[View], read: list[View]) -> None:
        """What is read must not lie in what is written; asked again only when something moved."""
        where = [(v.address, v.shape, v.strides) for v in (*gradients, *read)]
        if where != self._seen:
            written, read = (gradients, read) if "zero_grads" in self.options else ([], [*gradients, *read])
            disjoint([*self.all_views, *map(writable, written)], read)
            self._seen = where


class Step(_Launch):
    """Update with gradients that are in memory. A rule with norms has its first phase before."""

    def __init__(self, engine: Any, tensors: tuple[int, ...], g_dtype: str, options: tuple[str, ...]) -> None:
        super().__init__(engine, tensors, g_dtype, options)
        dtypes = (self.dtypes[0], g_dtype, *self.dtypes[1:])
        self.kernel = self.rule, self.flags, dtypes, self.options
        element = Element(self.rule, dtypes, dict(self.flags), self.options)
        plan = update.plan(self.device, self.sizes)
        phase = Norms(self.device, self.xp, self.sums, self.sizes, joint=False) if self.rule.norm else None
        columns = self.fixed | {"g": [0] * len(tensors), "key": [engine.keys[k] for k in tensors]}
        if phase:
            columns["norms"] = [phase.address(k) for k in range(len(tensors))]
        self.rows = np.array([self.sizes, *(columns[n] for n in element.columns)], np.int64).T.copy()
        self.g_column = 1 + element.columns.index("g")
        self.table, self.items = Buffer(self.xp, self.rows), Buffer(self.xp, plan.items)
        self.context = StepContext(self.xp, self.sums) if self.options else None
        at, self.nbytes = self.context.address if self.options else 0, sum(self.sizes) * element.element_bytes
        self.runs = []
        if phase:
            module = tensor_norms.kernels(self.device, *self.kernel)
            self.runs += phase.launches(module, self.table, range(len(tensors)), at, self.nbytes, last=True)
        compiled = update.kernel(self.device, *self.kernel)
        self.runs.append(update.launcher(self.device, compiled, self.table, self.items, plan.chunk, self.nbytes, at))

    def prepare(self, gradients: list[View], clock: Any, scaling: Any = NOTHING, clip: Any = None) -> list[Any]:
        """Lay out; returns the launches."""
        self.rows[:, self.g_column] = [g.address for g in gradients]
        self.table.set(self.rows)
        if self.context:
            self.context.set(scaling, 0 if clock is None else address_of(clock), clip)
        return self.runs

    def clips(self, clip: Norms, last: bool) -> list[Any]:
        """The launches that add these gradients to the norm of all."""
        module = tensor_norms.kernels(self.device, *self.kernel, joint=True)
        return clip.launches(module, self.table, self.tensors, self.context.address, self.nbytes, last)


class Samples(_Launch):
    """Reduce per-sample gradients and update, in one launch."""

    def __init__(self, engine: Any, tensors: tuple[int, ...], g_dtype: str, options: tuple[str, ...]) -> None:
        super().__init__(engine, tensors, g_dtype, options)
        self.reduction = Reduction(self.device, self.xp, self._kernel(self.rule, self.flags, self.dtypes))
        names = ("hyper", "w", *self.rule.array_names)
        self.targets = list(zip(*(self.fixed[n] for n in names), strict=True))

    @staticmethod
    def _kernel(rule, flags, dtypes):
        """What makes the kernel of a device, a dtype of G, weighted or not."""
        return lambda device, g_dtype, weighted: reduce_update.kernel(device, rule, flags, dtypes, g_dtype, weighted)

    def prepare(
        self,
        G: list[View],
        clock: Any,
        weights: "dict[str, Array] | None",
        count: int,
        reduction: str | float,
        max_norm: Any = None,
    ) -> list[Any]:
        """Lay out; returns the launches. weights: dtype -> array, or None; max_norm: of all these tensors."""
        matrices = [(g.address, samples(g)[2]) for g in G]
        at = 0 if weights is None else address_of(weights[self.sums])
        scale, columns = scale_of(reduction, count), tuple(self.sizes)
        job = Job(self.g_dtype, count, columns, matrices, self.targets, scale, at, max_norm)
        return self.reduction.prepare(job)


class ReducedSamples(Samples):
    """The same in two launches, where an update needs more than an element: norms, scales of codes, random bits."""

    def __init__(self, engine: Any, tensors: tuple[int, ...], g_dtype: str, options: tuple[str, ...]) -> None:
        super().__init__(engine, tensors, g_dtype, options)
        self.gradients = [self.xp.empty(w.shape, self.sums) for w in self.views]
        self.targets = [(address_of(g),) for g in self.gradients]
        self.step = Step(engine, tensors, self.sums, options)

    @staticmethod
    def _kernel(rule, flags, dtypes):
        return reduce.kernel

    def prepare(
        self,
        G: list[View],
        clock: Any,
        weights: "dict[str, Array] | None",
        count: int,
        reduction: str | float,
        max_norm: Any = None,
    ) -> list[Any]:
        """Lay out; returns the launches."""
        gradients = [view(g, "g") for g in self.gradients]
        reduced = super().prepare(G, clock, weights, count, reduction, max_norm)
        return [*reduced, *self.step.prepare(gradients, clock)]


def _samples(engine, tensors, g_dtype, options):
    launch = Samples(engine, tensors, g_dtype, options)
    needs_more = launch.rule.norm or launch.options or any(d in QUANTIZED for d in launch.dtypes)
    return ReducedSamples(engine, tensors, g_dtype, options) if needs_more else launch
