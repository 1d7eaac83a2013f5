"""Timing that holds on noisy machines: every contender in one process, in turn, on memory that no cache holds.

A clock times one device. A contender is a list of calls that do the same work, each on arrays of its own; a turn goes
round them, so that no call finds its arrays in the cache.
"""

import argparse
import gc
import itertools
import math
import os
import platform
import statistics
import sys
import time
from functools import partial
from importlib import metadata

import numpy as np

from gdgpu import devices
from gdgpu.cli import info
from gdgpu.kernels.backend import threads

PACKAGES = ("gdgpu", "numpy", "numba", "numba-cuda", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton")
COLD_BYTES = 256 << 20  # arrays of one contender, all sets together
MAX_SETS = 256  # calls so small that these do not reach it are bound by the host
_PIECE = 1 << 20  # bytes that one thread copies at a time


class CpuClock:
    """Times with perf_counter. Every call is synchronous."""

    device, xp, repeats, cold_bytes = "cpu", np, 5, COLD_BYTES

    def __init__(self, seconds=0.2):
        self.seconds = seconds

    def turn(self, calls):
        """Seconds of single calls, made for `self.seconds`; only the second half counts.

        Threads of the contender before go on spinning for tens of milliseconds (OpenMP's), and caches are not its own.
        """
        taken, rotation = [], itertools.cycle(calls)
        end = time.perf_counter() + self.seconds
        while len(taken) < 4 or time.perf_counter() < end:
            call = next(rotation)
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        return taken[len(taken) // 2 :]

    def warm(self, calls):
        """Compile, and allocate what is allocated once."""
        for call in calls:
            call()

    def host_seconds(self, calls):
        """None: the host is the device."""

    def copy(self, nbytes):
        """A call that reads nbytes / 2 and writes as many, with the threads that gdgpu uses."""
        source, target = np.ones(nbytes // 2, np.uint8), np.zeros(nbytes // 2, np.uint8)
        return partial(threads.run, _copy_pieces, (source, target), -(-source.size // _PIECE), nbytes)

    def free_bytes(self):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def release(self):
        """Give back the memory of arrays that are gone."""
        gc.collect()

    def name(self):
        return dict(info.rows())["CPU"]


class CudaClock:
    """Times batches of calls with CUDA events. cuda: cupy.cuda, or what stands in for it."""

    device, repeats, batches = "cuda", 2, 10
    batch_ms = 1.0  # an event is known to about a microsecond

    def __init__(self, cuda, xp=None):
        self.cuda, self.xp = cuda, xp
        self.cold_bytes = max(COLD_BYTES, 4 * self._properties()["l2CacheSize"])

    def turn(self, calls):
        """Seconds a call in each of `batches` batches, enqueued one behind the other without waiting."""
        rotation = itertools.cycle(calls)
        size = self._batch_size(rotation)
        _enqueue(rotation, size)  # not counted: the device is busy with it while the first event is recorded
        events = [self._event()]
        for _ in range(self.batches):
            _enqueue(rotation, size)
            events.append(self._event())
        events[-1].synchronize()
        return [self.cuda.get_elapsed_time(*pair) / 1e3 / size for pair in itertools.pairwise(events)]

    def _batch_size(self, rotation):
        size = 1
        while True:
            start = self._event()
            _enqueue(rotation, size)
            end = self._event()
            end.synchronize()
            if self.cuda.get_elapsed_time(start, end) >= self.batch_ms:
                return size
            size *= 2

    def _event(self):
        event = self.cuda.Event()
        event.record()
        return event

    def warm(self, calls):
        """Compile, and allocate what is allocated once."""
        for call in calls:
            call()
        self.cuda.Device().synchronize()

    def host_seconds(self, calls, count=100):
        """Median seconds until a call returns: `count` of them, enqueued without waiting, behind an idle device."""
        taken = []
        self.cuda.Device().synchronize()
        for call in itertools.islice(itertools.cycle(calls), count):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
        self.cuda.Device().synchronize()
        return statistics.median(taken)

    def copy(self, nbytes):
        """A call that reads nbytes / 2 and writes as many: a device-to-device memcpy."""
        half = nbytes // 2
        source, target = self.xp.ones(half, "uint8"), self.xp.ones(half, "uint8")
        return lambda: target.data.copy_from_device_async(source.data, half)

    def free_bytes(self):
        return self.cuda.Device().mem_info[0]

    def release(self):
        """Give back the memory of arrays that are gone, also what CuPy and torch hold for later."""
        gc.collect()
        self.xp.get_default_memory_pool().free_all_blocks()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def name(self):
        return self._properties()["name"].decode()

    def _properties(self):
        return self.cuda.runtime.getDeviceProperties(self.cuda.runtime.getDevice())


def _copy_pieces(source, target, scratch, first, last):
    piece = slice(first * _PIECE, last * _PIECE)
    np.copyto(target[piece], source[piece])  # lets other threads run meanwhile


def _enqueue(rotation, count):
    for call in itertools.islice(rotation, count):
        call()


def clock(device):
    """The clock of "cpu" or "cuda". ValueError where there is no such device."""
    if devices.resolve(device).name == "cpu":
        return CpuClock()
    if devices.simulated():
        raise ValueError("device: time in the simulator means nothing; unset NUMBA_ENABLE_CUDASIM")
    import cupy

    return CudaClock(cupy.cuda, cupy)


def interleave(clock, contenders, rounds=3):
    """{name: [[seconds a call], …]}: `rounds` turns of each contender, one after the other."""
    turns = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, calls in contenders.items():
            turns[name].append(clock.turn(calls))
    return turns


def ratios(turns, others):
    """How many times as long the others took as these, round by round: what drifts has hardly changed in between."""
    return [statistics.median(b) / statistics.median(a) for a, b in zip(turns, others, strict=True)]


def sets_of(clock, nbytes, contenders):
    """How many sets of arrays to rotate: together out of reach of the cache, but no more than fit in memory.

    nbytes: what a call moves; it touches at least half as many, and less than these.
    """
    cold = math.ceil(clock.cold_bytes / max(1, nbytes // 2))
    fit = int(0.8 * clock.free_bytes() / max(1, nbytes * contenders))
    return max(1, min(cold, fit, MAX_SETS))


def copy_gbs(device, nbytes=1 << 30):
    """GB/s of a copy, bytes read and bytes written both counted."""
    timed = clock(device)
    calls = [timed.copy(nbytes) for _ in range(sets_of(timed, nbytes, 1))]
    timed.warm(calls)
    turns = interleave(timed, {"copy": calls})["copy"]
    return nbytes / statistics.median(itertools.chain(*turns)) / 1e9


def device_name(device):
    """The processor in words, e.g. "NVIDIA H200"."""
    return clock(device).name()


def versions(more=()):
    """{package: version} of what is installed here, and of Python. more: other packages than PACKAGES."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *more):
        try:
            found[package.partition("-cuda1")[0]] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit code 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")
