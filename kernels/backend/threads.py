"""The CPU's launch: items of work over threads of this process.

Kernels release the GIL, so plain Python threads run them side by side. There is no OpenMP or TBB
underneath: forking after use, and calling from several Python threads at once, just work.

What is launched is a list of calls that C makes, one after the other, with no bytecode of Python's between (unless a
profiler is set): no signal handler and no exception of another thread comes in the middle, and when it does come, all
of it is done.
"""

import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from ctypes import addressof, c_char
from functools import cache, partial
from operator import call

import numpy as np

from .generated import load

# Below this many bytes of work, waking another thread costs more than it saves.
SERIAL_BYTES = 1 << 18
_PULLS = 8  # pieces a thread's share is handed out in, so that a slow thread holds up less
_MAX_HELPERS = 1 << 9  # helpers

_numbers = itertools.count(1)
_num_threads: int | None = None

# Until no helper works at job `number`: what a helper works at stands in its slot.
WAIT = """
@jit(CODE, "void(int64, int64, int64)")
def wait(slots, count, number):
    k = 0
    while k < count:
        if at_work(slots, k) == number:
            give_way()
        else:
            k += 1
"""


def num_threads() -> int:
    """Threads that one call uses: set_num_threads, else GDGPU_NUM_THREADS, else the CPUs of this process."""
    global _num_threads
    if _num_threads is None:
        asked = os.environ.get("GDGPU_NUM_THREADS")
        if asked is not None:
            if not asked.isdecimal() or int(asked) < 1:
                raise ValueError(f"GDGPU_NUM_THREADS: expected an integer >= 1, got {asked!r}")
            _num_threads = int(asked)
        elif hasattr(os, "sched_getaffinity"):
            _num_threads = len(os.sched_getaffinity(0))
        else:
            _num_threads = os.cpu_count() or 1
    return _num_threads


def set_num_threads(n: int) -> None:
    """Use n >= 1 threads from the next call on. The results do not change by a bit."""
    global _num_threads
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n: expected an int >= 1, got {n!r}")
    _num_threads = n


class _Local(threading.local):
    address = nbytes = 0

    def __init__(self):
        self.buffers = []


_local = _Local()


class Launch:
    """kernel(*args, scratch, first, last) over ranges that cover 0 … items-1.

    nbytes: what it moves; scratch: the address of scratch_bytes for each thread. keeps: what must live as long.
    """

    __slots__ = ("_alone", "_scratch", "args", "items", "keeps", "kernel", "nbytes", "scratch_bytes")

    def __init__(
        self, kernel: Callable, args: Sequence, items: int, nbytes: int, scratch_bytes: int = 0, keeps: object = None
    ) -> None:
        self.kernel, self.args, self.items, self.nbytes = kernel, args, items, nbytes
        self.scratch_bytes, self.keeps, self._scratch = scratch_bytes, keeps, None

    def __call__(self) -> None:
        whole([self])

    def calls(self, jobs: list) -> list[Callable]:
        """The calls that do all of it. jobs: takes what helpers may be at."""
        threads = min(num_threads(), self.items if self.nbytes >= SERIAL_BYTES else 1)
        if threads > 1 and not sys.is_finalizing():  # at the end of a process no other thread runs any more
            jobs.append(_Job(self, threads))
            return jobs[-1].calls(threads)
        scratch = _scratch(self.scratch_bytes)
        if scratch != self._scratch:
            self._alone = [partial(self.kernel, *self.args, scratch, 0, self.items)] if self.items else []
            self._scratch = scratch
        return self._alone


def run(kernel: Callable, args: Sequence, items: int, nbytes: int, scratch_bytes: int = 0) -> None:
    """Make this Launch, and wait for all of it."""
    whole([Launch(kernel, args, items, nbytes, scratch_bytes)])


def whole(launches: Iterable, *then: Callable) -> None:
    """Make all of these launches, and then these calls of C functions; or, where laying out fails, none of them."""
    calls, jobs = [], []
    for launch in launches:
        calls += launch.calls(jobs)
    calls += then
    try:
        list(map(call, calls))  # in C: see above
    finally:
        for job in jobs:
            job.end()


class _Job:
    """A launch shared by threads: whoever is free takes the next piece."""

    def __init__(self, launch, threads):
        self.launch, self.number, self.error = launch, next(_numbers), None
        step = max(1, launch.items // (threads * _PULLS))
        starts = range(0, launch.items, step)
        self.pieces = iter([(first, min(first + step, launch.items)) for first in starts])
        self.team = _team
        self.wait = partial(_wait(), self.team.address, _MAX_HELPERS, self.number)

    def calls(self, threads):
        """Those that hand it to helpers, do this thread's share, and wait for theirs."""
        helpers = self.team.helpers(threads - 1)
        return [*[partial(self.team.queue.put, self)] * helpers, partial(list, self._share()), self.wait]

    def help(self):
        """A helper's share."""
        try:
            list(self._share())
        except BaseException as error:
            self.error = error

    def _share(self):
        """An iterator that takes pieces and does them, until there are none."""
        scratch = _scratch(self.launch.scratch_bytes)
        return itertools.starmap(partial(self.launch.kernel, *self.launch.args, scratch), self.pieces)

    def end(self):
        """Wait for all that take pieces, which are none any more unless a call has failed, and raise their error."""
        for _ in self.pieces:
            pass
        self.wait()
        if self.error:
            raise self.error


class _Team:
    """Helpers, and a slot for each, which holds the number of the job that it works at."""

    def __init__(self):
        self.queue, self.slots, self.started = queue.SimpleQueue(), np.zeros(_MAX_HELPERS, np.int64), 0
        self.address, self._places = self.slots.ctypes.data, iter(range(_MAX_HELPERS))

    def helpers(self, count):
        """How many of `count` there are, after starting those that are missing, if they can start."""
        while self.started < min(count, _MAX_HELPERS):  # several threads may start one too many
            try:
                threading.Thread(target=self._help, name=f"gdgpu-{self.started}", daemon=True).start()
            except RuntimeError:  # there is no room for it
                break
            self.started += 1
        return min(count, self.started)

    def _help(self):
        place = next(self._places, None)
        try:
            while place is not None:
                job = self.queue.get()
                try:
                    self.slots[place] = job.number  # before it takes a piece: who is not waited for takes none
                    job.help()
                finally:
                    self.slots[place] = 0
                del job  # which holds arrays
        finally:
            self.started -= 1  # an exception that another thread has put here


@cache
def _wait():
    return load("wait_cpu", WAIT, {}, "gdgpu.kernels.backend.cpu").wait


def _scratch(nbytes):
    """The address of this thread's buffer of at least nbytes, on a 64-byte line. It never goes away.

    A call that begins inside of another, in a signal handler, may take a larger one.
    """
    if _local.nbytes < nbytes:
        size = 1 << max(nbytes - 1, 1 << 12).bit_length()
        _local.buffers.append(np.empty(size + 64, np.uint8))
        address = addressof(c_char.from_buffer(_local.buffers[-1]))
        _local.address, _local.nbytes = -(-address // 64) * 64, size
    return _local.address


def _forget():
    global _team
    _team = _Team()


_forget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
