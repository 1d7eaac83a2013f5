"""Steps whose arrays are fixed."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..core.arrays import genuine, on_device_of, torch_of
from ..core.nvtx import ranged
from ..core.turns import turn
from .launches import Launches


class Bound:
    """A step whose arrays are fixed: `run = opt.bind(grads); run()`. It checks nothing and does no work per tensor.

    lay_out(engine, launches): the launches. dropped: names of arrays that nobody else has any more, see `watched`.
    keep: whether it keeps the optimizer alive; else it is good while that is.
    """

    __slots__ = ("_dropped", "_launches", "_lay_out", "_optimizer", "_owner", "_runs", "_version")

    def __init__(
        self,
        optimizer: Any,
        lay_out: Callable[[Any, Launches], list[Any]],
        dropped: Sequence[str] = (),
        keep: bool = True,
    ) -> None:
        self._owner, self._optimizer = weakref.ref(optimizer), optimizer if keep else None
        self._lay_out, self._dropped, self._launches = lay_out, dropped, None
        engine = optimizer._engine
        with engine.in_order("bind the step before the capture"):
            self._prepare(engine)

    def _prepare(self, engine: Any) -> None:
        launches = Launches(engine)  # which own the memory that the runs work in
        self._runs = self._lay_out(engine, launches)
        if self._launches is not None:
            engine.order.retire(self._launches)
        self._launches, self._version = launches, engine.version

    @ranged
    def __call__(self) -> None:
        """Take the step, with what the arrays hold now."""
        optimizer = self._optimizer or self._owner()
        if self._dropped:
            raise RuntimeError(f"{self._dropped[0]}: nobody else has this tensor any more, {_HINT}")
        engine = optimizer._engine
        with turn(optimizer), on_device_of(engine.views):
            recorded = engine.order.follow()
            if self._version != engine.version:
                self._prepare(engine)
            if recorded:
                engine.record(self._lay_out, self._launches)
            engine.take(self._runs)


_HINT = "as after torch's zero_grad(): call zero_grad(set_to_none=False), or bind the new one"


def watched(pairs: Iterable[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], Sequence[str]]:
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
