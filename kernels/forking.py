"""A fork waits until no other thread imports this package or compiles: in the child nobody would go on with it."""

# These register locks to be held around a fork. Hooks run in reverse: theirs are free while ours waits for a compiler.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import sys
from contextlib import suppress
from importlib import import_module

locks = []  # reentrant, in the order in which compiling takes them
_held = []


def _hold():
    for name in [name for name in sys.modules if name.startswith("gdgpu.")]:
        with suppress(Exception):  # the other thread's, which sees it
            import_module(name)
    for lock in locks:
        lock.acquire()
        _held.append(lock)


def _let_go():
    held = _held[::-1]
    _held.clear()  # before another thread can be the one that forks
    for lock in held:
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
