"""What an optimizer launches for tensors of one combination of dtypes; laid out once, checked at every call."""

import numpy as np

from .arrays import disjoint, samples, view
from .kernels import fused, update
from .kernels.buffers import Buffer, address_of
from .kernels.memory import accumulator, itemsize
from .kernels.reducer import Job, Reduction
from .reduction import cast_weights, scale_of


class _Launch:
    def __init__(self, optimizer, tensors, g_dtype):
        self.optimizer, self.g_dtype = optimizer, g_dtype
        self.device, xp = optimizer.kernel_device, optimizer._xp
        self.views = [optimizer._views[k] for k in tensors]
        self.sums = accumulator(g_dtype)
        states = [optimizer._state[k] for k in tensors]
        # the addresses of w and its states, which never move
        self.written = [(w.address, *map(address_of, held)) for w, held in zip(self.views, states, strict=True)]
        rule = optimizer.rule
        self.rule, self.flags = rule, tuple((name, optimizer._flags[name]) for name in rule.flags)
        self.dtypes = (self.views[0].dtype, *[self.sums] * len(rule.state))
        self.hyper = Buffer(xp)
        self._disjoint_from = None

    def _check(self, read):
        """What is read must not lie in the parameters; asked again only when an address changed."""
        where = tuple((v.address, v.shape, v.strides) for v in read)
        if where != self._disjoint_from:
            disjoint(self.optimizer._views, read)
            self._disjoint_from = where
        values = self.optimizer._values()
        with np.errstate(over="ignore"):
            row = np.array([values[name] for name in self.rule.hyper], self.sums)
        for name, value in zip(self.rule.hyper, row, strict=True):
            if not np.isfinite(value):
                raise ValueError(f"{name}: {values[name]!r} is too large for {self.sums} parameters")
        self.hyper.set(np.broadcast_to(row, (len(self.views), len(row))))


class Step(_Launch):
    """Update with gradients that are in memory."""

    def __init__(self, optimizer, tensors, g_dtype):
        super().__init__(optimizer, tensors, g_dtype)
        dtypes = (self.dtypes[0], g_dtype, *self.dtypes[1:])
        self.kernel = update.kernel(self.device, self.rule, self.flags, dtypes)
        self.table, self.items = Buffer(optimizer._xp), Buffer(optimizer._xp)
        self.items.set(update.plan(self.device, [w.size for w in self.views]))
        element = sum(map(itemsize, dtypes)) + sum(map(itemsize, self.dtypes))
        self.nbytes = sum(w.size for w in self.views) * element

    def prepare(self, grads):
        """Check and lay out; returns the call that launches."""
        self._check(grads)
        rows = zip(self.views, grads, self.written, strict=True)
        self.table.set(np.array([(w.size, at[0], g.address, *at[1:]) for w, g, at in rows], np.int64))
        return lambda: update.launch(self.device, self.kernel, self.table, self.items, self.hyper, self.nbytes)


class Samples(_Launch):
    """Reduce per-sample gradients and update."""

    def __init__(self, optimizer, tensors, g_dtype):
        super().__init__(optimizer, tensors, g_dtype)
        self.reduction = Reduction(self.device, optimizer._xp, self._kernel)
        self.columns = [w.size for w in self.views]

    def _kernel(self, device, g_dtype, weighted):
        return fused.kernel(device, self.rule, self.flags, self.dtypes, g_dtype, weighted)

    def prepare(self, G, count, weights, reduction):
        """Check and lay out; returns the call that launches."""
        held = cast_weights(weights, count, self.sums, self.optimizer._xp)
        self._check(G if held is None else [*G, view(held, "weights")])
        self._kernel(self.device, self.g_dtype, held is not None)
        job = Job(
            self.g_dtype,
            count,
            self.columns,
            [(g.address, samples(g)[2]) for g in G],
            self.written,
            scale_of(reduction, count),
            self.hyper.address,
            0 if held is None else address_of(held),
        )
        # held: the weights must outlive the launch
        return lambda held=held: self.reduction.run(job)
