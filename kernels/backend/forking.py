"""A fork waits until no other thread imports this package or compiles: in the child nobody would go on with it."""

# These register locks to be held around a fork. Hooks run in reverse: theirs are free while ours waits for a compiler.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import sys
from contextlib import suppress
from importlib import import_module

_GENERATED = "gdgpu.kernels.generated."
locks = []  # reentrant, in the order in which compiling takes them
_acquired = []


def _hold():
    imported = set()
    while True:
        while new := _modules() - imported:
            for name in new:
                with suppress(Exception):  # the other thread's, which sees it
                    import_module(name)
            imported |= new
        for lock in locks:
            lock.acquire()
            _acquired.append(lock)
        if _modules() == imported:
            return
        _let_go()  # another import has begun before the locks were ours


def _modules():
    """Of this package, those that are imported or being so."""
    return {name for name in list(sys.modules) if name.startswith("gdgpu.") and not name.startswith(_GENERATED)}


def _let_go():
    acquired = _acquired[::-1]
    _acquired.clear()  # before another thread can be the one that forks
    for lock in acquired:
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
