"""What an optimizer launches for the tensors of one rule and combination of dtypes, laid out once."""

import numpy as np

from .arrays import disjoint, on_device_of, samples
from .kernels import fused, update
from .kernels.buffers import Buffer, address_of
from .kernels.memory import accumulator, itemsize
from .kernels.reducer import Job, Reduction
from .ranges import ranged
from .reduction import scale_of


class _Launch:
    def __init__(self, optimizer, tensors, g_dtype):
        self.g_dtype, self.device = g_dtype, optimizer.kernel_device
        self.views = [optimizer._views[k] for k in tensors]
        self.sums = accumulator(g_dtype)
        groups = [optimizer._group_of[k] for k in tensors]
        self.rule, self.flags = groups[0].kernel
        self.scalars = optimizer._scalars[self.rule, self.sums]
        rows = {group: self.scalars.row(group) for group in dict.fromkeys(groups)}
        # the addresses of each tensor's scalars, of w and its states, which never move
        held = zip(groups, self.views, (optimizer._state[k] for k in tensors), strict=True)
        self.fixed = [(rows[group], w.address, *map(address_of, state)) for group, w, state in held]
        self.dtypes = (self.views[0].dtype, *[self.sums] * len(self.rule.state))
        self._disjoint_from = None

    def check(self, optimizer, read):
        """What is read must not lie in the parameters; asked again only when an address changed."""
        where = [(v.address, v.shape, v.strides) for v in read]
        if where != self._disjoint_from:
            disjoint(optimizer._views, read)
            self._disjoint_from = where


class Step(_Launch):
    """Update with gradients that are in memory."""

    def __init__(self, optimizer, tensors, g_dtype):
        super().__init__(optimizer, tensors, g_dtype)
        dtypes = (self.dtypes[0], g_dtype, *self.dtypes[1:])
        kernel = update.kernel(self.device, self.rule, self.flags, dtypes)
        plan = update.plan(self.device, [w.size for w in self.views])
        rows = [
            (w.size, scalars, at, 0, *states) for w, (scalars, at, *states) in zip(self.views, self.fixed, strict=True)
        ]
        self.rows = np.array(rows, np.int64)
        self.table, self.items = Buffer(optimizer._xp, self.rows), Buffer(optimizer._xp, plan.items)
        element = sum(map(itemsize, dtypes)) + sum(map(itemsize, self.dtypes))
        nbytes = sum(w.size for w in self.views) * element
        self.run = update.launcher(self.device, kernel, self.table, self.items, plan.chunk, nbytes)

    def prepare(self, grads, weights):
        """Lay out; returns the call that launches. A gradient is not weighted any more: weights is None."""
        self.rows[:, 3] = [g.address for g in grads]
        self.table.set(self.rows)
        return self.run


class Samples(_Launch):
    """Reduce per-sample gradients and update."""

    def __init__(self, optimizer, tensors, g_dtype):
        super().__init__(optimizer, tensors, g_dtype)
        self.reduction = Reduction(self.device, optimizer._xp, self._kernel)
        self.columns = tuple(w.size for w in self.views)

    def _kernel(self, device, g_dtype, weighted):
        return fused.kernel(device, self.rule, self.flags, self.dtypes, g_dtype, weighted)

    def prepare(self, G, weights, count, reduction):
        """Lay out; returns the call that launches. weights: dtype -> array, or None."""
        matrices = [(g.address, samples(g)[2]) for g in G]
        scale = scale_of(reduction, count)
        at = 0 if weights is None else address_of(weights[self.sums])
        job = Job(self.g_dtype, count, self.columns, matrices, self.fixed, scale, at)
        run = self.reduction.prepare(job)
        return lambda held=weights: run()  # the weights must outlive the launch


class Bound:
    """A step whose arrays are fixed: `run = opt.bind(grads); run()`. It checks nothing and does no work per tensor."""

    def __init__(self, optimizer, lay_out):
        self._optimizer, self._lay_out = optimizer, lay_out
        self._prepare()

    def _prepare(self):
        with on_device_of(self._optimizer._views):
            self._runs = self._lay_out()
        self._version = self._optimizer._version

    @ranged
    def __call__(self):
        """Take the step, with what the arrays hold now."""
        optimizer = self._optimizer
        if self._version != optimizer._version:
            self._prepare()
        with on_device_of(optimizer._views):
            optimizer._take(self._runs)
