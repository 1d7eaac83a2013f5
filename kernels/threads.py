"""The CPU's launch: items of work over threads of this process.

Kernels release the GIL, so plain Python threads run them side by side. There is no OpenMP or TBB
underneath: forking after use, and calling from several Python threads at once, just work.
"""

import itertools
import os
import threading

# The functions under those of `signal`, which spend microseconds of every step on enums.
from _signal import SIGINT, getsignal, raise_signal
from _signal import signal as set_handler
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

# Below this many bytes of work, waking another thread costs more than it saves.
SERIAL_BYTES = 1 << 18
_PULLS = 8  # pieces a thread's share is handed out in, so that a slow thread holds up less

_local = threading.local()
_lock = threading.Lock()
_pool = None
_num_threads = None


def num_threads():
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


def set_num_threads(n):
    """Use n >= 1 threads from the next call on. The results do not change by a bit."""
    global _num_threads
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n: expected an int >= 1, got {n!r}")
    _num_threads = n
    _forget_pool()


def run(kernel, args, items, nbytes, scratch_bytes=0):
    """kernel(*args, scratch, first, last) over ranges that cover 0 … items-1, and wait for all of it."""
    threads = min(num_threads(), items if nbytes >= SERIAL_BYTES else 1)
    if threads <= 1:
        if items:
            kernel(*args, _scratch(scratch_bytes), 0, items)
        return
    step = max(1, items // (threads * _PULLS))
    starts = itertools.count(0, step)

    def work():
        scratch = _scratch(scratch_bytes)
        while (first := next(starts)) < items:
            kernel(*args, scratch, first, min(first + step, items))

    with uninterrupted():  # the helpers hold bare addresses: nobody may leave before they are done
        helpers = _submit(work, threads - 1)
        try:
            work()
        finally:
            wait(helpers)
        for helper in helpers:
            helper.result()


class uninterrupted:
    """A Ctrl-C that comes inside the block is seen at its end, so that what is in it happens whole."""

    def __enter__(self):
        self.came, self.usual = False, None
        # Python runs signal handlers in the main thread only; None: a handler that is not Python's
        if threading.current_thread() is threading.main_thread():
            self.usual = getsignal(SIGINT)
        if self.usual is not None:
            set_handler(SIGINT, self._note)

    def _note(self, number, frame):
        self.came = True

    def __exit__(self, *error):
        if self.usual is not None:
            set_handler(SIGINT, self.usual)
            if self.came:
                raise_signal(SIGINT)


def _submit(work, count):
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, num_threads() - 1), thread_name_prefix="gdgpu")
        try:
            return [_pool.submit(work) for _ in range(count)]
        except RuntimeError:  # the interpreter is shutting down: the calling thread does all of it
            return []


def _scratch(nbytes):
    """The address of this thread's own buffer of at least nbytes, on a 64-byte line."""
    if getattr(_local, "nbytes", -1) < nbytes:
        _local.buffer = np.empty(nbytes + 64, np.uint8)
        _local.address, _local.nbytes = -(-_local.buffer.ctypes.data // 64) * 64, nbytes
    return _local.address


def _forget_pool():
    global _pool, _lock
    _lock = threading.Lock()
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
