"""Steps whose arrays are fixed."""

import weakref

from ..core.arrays import genuine, on_device_of, torch_of
from ..core.nvtx import ranged
from ..core.turns import turn
from .launches import Launches


class Bound:
    """A step whose arrays are fixed: `run = opt.bind(grads); run()`. It checks nothing and does no work per tensor.

    lay_out(optimizer, launches): the launches. dropped: names of arrays that nobody else has any more, see `watched`.
    keep: whether it holds the optimizer; else it is good while that is.
    """

    __slots__ = ("_dropped", "_held", "_launches", "_lay_out", "_owner", "_runs", "_version")

    def __init__(self, optimizer, lay_out, dropped=(), keep=True):
        self._owner, self._held = weakref.ref(optimizer), optimizer if keep else None
        self._lay_out, self._dropped, self._launches = lay_out, dropped, None
        with optimizer._in_order("bind the step before the capture"):
            self._prepare(optimizer)

    def _prepare(self, optimizer):
        launches = Launches(optimizer)  # which own the memory that the runs work in
        self._runs = self._lay_out(optimizer, launches)
        if self._launches is not None:
            optimizer._order.retire(self._launches)
        self._launches, self._version = launches, optimizer._version

    @ranged
    def __call__(self):
        """Take the step, with what the arrays hold now."""
        optimizer = self._held or self._owner()
        if self._dropped:
            raise RuntimeError(f"{self._dropped[0]}: nobody else has this tensor any more, {_HINT}")
        with turn(optimizer), on_device_of(optimizer._views):
            recorded = optimizer._order.follow()
            if self._version != optimizer._version:
                self._prepare(optimizer)
            if recorded:
                optimizer._record(self._lay_out, self._launches)
            optimizer._take(self._runs)


_HINT = "as after torch's zero_grad(): call zero_grad(set_to_none=False), or bind the new one"


def watched(pairs):
    """(name, array) pairs to bind, and the names, later, of those tensors of torch that only we still have.

    What is bound is another tensor of the same memory: when the user's goes away, and that memory is nobody else's
    either, no new gradient will ever come there.
    """
    aliases, dropped = [], _Names()
    for name, array in pairs:
        torch = torch_of(array)
        if torch is not None:
            user, array = genuine(array, name), array.detach()
            count = getattr(torch._C, "_storage_Use_Count", None)
            if count is not None:
                look = _look, count, array.untyped_storage(), weakref.ref(dropped), name
                weakref.finalize(user, *look).atexit = False
        aliases.append((name, array))
    return aliases, dropped


class _Names(list):
    """A list that can be watched."""


def _look(count, storage, dropped, name):
    dropped = dropped()
    # the tensor that goes away, ours, and the storage that is asked
    if dropped is not None and count(storage._cdata) <= 3:
        dropped.append(name)
