"""One call at a time: what an owner's calls work in serves one of them."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

# By their ids: they need not be hashable.
_owners: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def take_turns(owner: Any) -> None:
    """Give an owner its `_turn`, the lock that its calls hold: calls of other threads wait."""
    owner._turn = threading.RLock()
    _owners[id(owner)] = owner


def in_turn(method: F) -> F:
    """Decorator: calls of this method of one owner, and of its others, come one after the other.

    RuntimeError for one that begins inside of another in the same thread: in a signal handler, or in a function of the
    user's that is called there, as lr may be.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with turn(self):
            return method(self, *args, **kwargs)

    return cast(F, call)


def turn(owner: Any) -> AbstractContextManager[Any]:
    """The lock of an owner, for a block in which other calls of it wait: see in_turn."""
    if owner._turn._is_owned():
        raise inside(owner)
    return owner._turn


def inside(owner: Any) -> RuntimeError:
    """The error of a call inside of another."""
    return RuntimeError(f"{type(owner).__name__}: called while another call of it is at work in this thread")


class _Lost:
    """Stands for the lock of an owner that another thread, which is not in this process, was at work with."""

    def __init__(self, owner: Any) -> None:
        self._name = type(owner).__name__

    def _is_owned(self) -> bool:
        raise RuntimeError(
            f"{self._name}: another thread was in a call of it when this process was forked; make a new one"
        )

    def __enter__(self) -> None:
        self._is_owned()

    def __exit__(self, *error: object) -> None:
        pass


def _forget_lost() -> None:
    for owner in list(_owners.values()):
        if owner._turn.acquire(blocking=False):
            owner._turn.release()
        else:
            owner._turn = _Lost(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lost)
