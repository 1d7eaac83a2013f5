"""How state lies in memory: in the accumulator's dtype, in bfloat16, or in 8-bit codes with a scale for every 256."""

import numpy as np

from .kernels import coded, update
from .kernels.buffers import Buffer, address_of
from .kernels.memory import accumulator
from .kernels.rule import KEPT, Rule

DTYPES = ("float32", "bfloat16", "uint8")


def stored_as(rule, name, state_dtype, w_dtype):
    """The dtype, as kernels call it, of one of a rule's states; state_dtype: what the user asked for, or None."""
    if name in KEPT or state_dtype in (None, "float32"):
        return accumulator(w_dtype)
    if state_dtype == "bfloat16":
        return state_dtype
    return "unsigned8" if name in rule.nonnegative else "signed8"


class State:
    """An array of state. `held` is what kernels read and write; get and set speak of values of dtype `sums`."""

    def __init__(self, device, xp, shape, dtype, sums):
        self.device, self.xp, self.shape, self.dtype, self.sums = device, xp, shape, dtype, sums
        self.size = int(np.prod(shape))
        if dtype == sums:
            self.held = xp.zeros(shape, sums)
        elif dtype == "bfloat16":
            self.held = xp.zeros(shape, np.uint16)
        else:
            self.held = xp.zeros(coded.nbytes(self.size), np.uint8)
        self.address = address_of(self.held)

    def get(self):
        """A copy of the values."""
        if self.dtype == self.sums:
            return self.held.copy()
        values = self.xp.empty(self.shape, self.sums)
        self._convert(_READ, address_of(values), self.sums)
        return values

    def set(self, view):
        """Take the values of a View of an array of this shape on this device."""
        if self.dtype == self.sums == view.dtype:
            self.held[...] = view.owner
        else:
            self._convert(_WRITE, view.address, view.dtype)

    def _convert(self, rule, w_at, w_dtype):
        kernel = update.kernel(self.device, rule, (), (w_dtype, w_dtype, self.dtype))
        plan = update.plan(self.device, [self.size])
        rows = np.array([(self.size, 0, w_at, w_at, self.address)], np.int64)
        table, items = Buffer(self.xp, rows), Buffer(self.xp, plan.items)
        update.launcher(self.device, kernel, table, items, plan.chunk, nbytes=0)()


def read(w, g, state):
    return state, state


def write(w, g, state):
    return w, w


_READ, _WRITE = Rule(read, state=("state",)), Rule(write, state=("state",))
