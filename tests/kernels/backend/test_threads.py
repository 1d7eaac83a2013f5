"""Threads of one launch: the right bits, every item once, nothing written after the call; and forks beside them."""

import multiprocessing
import os
import platform
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.backend import threads
from support.references import assert_same_bits, samples

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ITEMS = 1000


def whole_job(seed):
    """A reduction, steps of both kinds and an accumulator; all results together."""
    G = samples((300, 700), "float32", seed)
    w = samples((1, 700), "float32", seed + 50)[0]
    optimizer, accumulator = gdgpu.Momentum(w, 0.1), gdgpu.Accumulator(w)
    for _ in range(5):
        optimizer.step(gdgpu.reduce_samples(G))
        optimizer.step_samples(G, np.arange(300))
        accumulator.add(G)
    return np.concatenate([w, optimizer.state_dict()["state"]["velocity"], accumulator.result()])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_children_compute(use_threads):
    use_threads(3)
    expected = [whole_job(seed) for seed in range(3)]  # the pool of threads is there before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        children = pool.map_async(whole_job, range(3))
        here = whole_job(0)  # the parent goes on meanwhile
        for found, wanted in zip(children.get(60), expected, strict=True):
            assert_same_bits(found, wanted)
    assert_same_bits(here, expected[0])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_busy_parent(use_threads):
    """Forks while other threads are in the middle of calls that use the pool."""
    use_threads(2)
    expected, stop = whole_job(1), threading.Event()

    def busy():
        while not stop.is_set():
            whole_job(2)

    others = [threading.Thread(target=busy) for _ in range(2)]
    for thread in others:
        thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                os._exit(0 if whole_job(1).tobytes() == expected.tobytes() else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in others:
            thread.join()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_helpers_of_its_own(use_threads):
    use_threads(2)
    threads.run(Recorder(), (), ITEMS, nbytes=1 << 30)  # the parent has
    together = threading.Barrier(2, timeout=20)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        threads.run(lambda scratch, first, last: together.wait(), (), 2, nbytes=1 << 30)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("workers", (1, 3))
def test_four_python_threads(workers, use_threads):
    use_threads(workers)
    expected = [whole_job(seed) for seed in range(4)]
    barrier = threading.Barrier(4)

    def work(seed):
        barrier.wait()
        return [whole_job(seed) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(work, range(4)), expected, strict=True):
            for result in found:
                assert_same_bits(result, wanted)


def test_first_use_by_four_threads_at_once(python, tmp_path):
    script = (
        "import threading, numpy as np, gdgpu\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "barrier = threading.Barrier(4)\n"
        "def work(k):\n"
        "    barrier.wait()\n"
        "    w = np.full(5, 3.0)\n"
        "    gdgpu.SGD(w, 1.0).step_samples(np.full((40, 5), float(k)))\n"
        "    return w.tolist() == [3.0 - k] * 5\n"
        "with ThreadPoolExecutor(4) as pool: print(all(pool.map(work, range(4))))\n"
    )
    assert python(script, GDGPU_CACHE_DIR=str(tmp_path)) == "True\n"


@pytest.mark.parametrize("asked", ("0", "-1", "two", "1.5", "", " "))
def test_a_bad_number_of_threads_leaves_the_step_undone(asked, python):
    script = (
        "import numpy as np, gdgpu\n"
        "params = [np.ones(3), np.ones(300_000, np.float32)]\n"
        "optimizer = gdgpu.Momentum(params, 0.1)\n"
        "for step, given in ((optimizer.step, params), (optimizer.step_samples, [p[None] for p in params])):\n"
        "    try: step([g.copy() for g in given])\n"
        "    except ValueError as error: print(error)\n"
        "assert optimizer.steps == 0 and all((p == 1).all() for p in params)\n"
        "assert not any(v.any() for v in optimizer.state_dict()['state']['velocity'])\n"
    )
    lines = python(script, GDGPU_NUM_THREADS=asked).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("GDGPU_NUM_THREADS: ") and repr(asked) in line


@pytest.mark.parametrize("asked", ("1", "3"))
def test_the_number_of_threads_is_the_one_asked_for(asked, python):
    """As many at once, in a barrier that only they open together, and no other one over many items."""
    script = (
        "import threading, time\n"
        "from gdgpu.kernels.backend import threads\n"
        "count, names = threads.num_threads(), set()\n"
        "together = threading.Barrier(count, timeout=60)\n"
        "def meet(scratch, first, last):\n"
        "    names.add(threading.current_thread().name)\n"
        "    together.wait()\n"
        "def work(scratch, first, last):\n"
        "    names.add(threading.current_thread().name)\n"
        "    time.sleep(0.001)\n"
        "threads.run(meet, (), count, nbytes=1 << 30)\n"
        "threads.run(work, (), 200, nbytes=1 << 30)\n"
        "print(count, len(names), sum(name.startswith('gdgpu') for name in names))\n"
    )
    assert python(script, GDGPU_NUM_THREADS=asked) == f"{asked} {asked} {int(asked) - 1}\n"


@pytest.mark.parametrize("n", (0, -1, 1.5, "2", None))
def test_set_num_threads_refuses(n):
    before = threads.num_threads()
    with pytest.raises(ValueError, match=r"\An: [^\n]*\Z"):
        threads.set_num_threads(n)
    assert threads.num_threads() == before


class Recorder:
    """A kernel in Python that notes which items it did; helpers wait for the calling thread, so that it has a share."""

    def __init__(self, disturb=lambda: None):
        self.done, self.disturb, self.begun = np.zeros(ITEMS, int), disturb, threading.Event()

    def __call__(self, scratch, first, last):
        if threading.current_thread() is threading.main_thread():
            self.begun.set()
            self.disturb()
        else:
            self.begun.wait(60)
            time.sleep(0.002)
        self.done[first:last] += 1


def fail():
    raise RuntimeError("in the calling thread")


@pytest.mark.parametrize("count", (1, 2, 3, 5))
def test_every_item_is_done_once(count, use_threads):
    use_threads(count)
    recorder = Recorder()
    threads.run(recorder, (), ITEMS, nbytes=1 << 30, scratch_bytes=100)
    assert (recorder.done == 1).all()


@pytest.mark.parametrize("count", (2, 3))
def test_an_error_waits_for_the_others(count, use_threads):
    """Helpers hold bare addresses: nothing of theirs may still run when the caller sees the error."""
    use_threads(count)
    recorder = Recorder(fail)
    with pytest.raises(RuntimeError, match="in the calling thread"):
        threads.run(recorder, (), ITEMS, nbytes=1 << 30)
    seen = recorder.done.copy()
    time.sleep(0.05)
    assert (recorder.done == seen).all()


def test_an_error_in_a_helper_is_raised(use_threads):
    use_threads(2)

    def kernel(scratch, first, last):
        if threading.current_thread() is threading.main_thread():
            assert failed.wait(60)  # so that the other item is the helper's
        else:
            failed.set()
            raise RuntimeError("in a helper")

    failed = threading.Event()
    with pytest.raises(RuntimeError, match="in a helper"):
        threads.run(kernel, (), 2, nbytes=1 << 30)


@pytest.mark.parametrize("starting", (0, 1, 2))
def test_helpers_that_cannot_start(starting, use_threads, monkeypatch):
    """A limit on threads, met at any of them: a call returns when all is done, and nothing is done later."""
    use_threads(4)
    start, left = threading.Thread.start, [None] * starting

    def limited(thread):
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threads, "_team", threads._Team())
    monkeypatch.setattr(threading.Thread, "start", limited)
    for _ in range(5):
        recorder = Recorder()
        threads.run(recorder, (), ITEMS, nbytes=1 << 30)
        seen = recorder.done.copy()
        assert (seen == 1).all()
        time.sleep(0.01)
        assert (recorder.done == seen).all()


def test_the_number_of_threads_changes_while_others_step(use_threads):
    use_threads(4)
    stop, failed = threading.Event(), []

    def steps():
        w = np.zeros(50_000, np.float32)
        optimizer, count = gdgpu.SGD(w, 1.0), 0
        while not stop.is_set():
            optimizer.step(np.ones_like(w))
            count += 1
        if not (w == -count).all() or optimizer.steps != count:
            failed.append((w.min(), w.max(), count))

    workers = [threading.Thread(target=steps) for _ in range(3)]
    for worker in workers:
        worker.start()
    for k in range(300):
        threads.set_num_threads(1 + k % 4)
        time.sleep(0.001)
    stop.set()
    for worker in workers:
        worker.join()
    assert not failed


MODES = """
import ctypes, mmap, platform, sys
import numpy as np, gdgpu

def set_modes(modes):
    # ldmxcsr, from the word that an address holds
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("0fae17c3"))
    at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    word = ctypes.c_uint32(modes)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(at)(ctypes.addressof(word))

def modes():
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("0fae1fc3"))
    at = ctypes.addressof(ctypes.c_char.from_buffer(code))
    word = ctypes.c_uint32(0)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(at)(ctypes.addressof(word))
    return word.value

tiny, start = np.full((64, 30_000), 3e-45, np.float32), np.full(30_000, 1e-40, np.float32)
wide = tiny * np.float32(1e25)

def all_of_it():
    w = start.copy()
    optimizer = gdgpu.Momentum(w, 0.3)
    for _ in range(3):
        optimizer.step(tiny[0])
        optimizer.step_samples(tiny)
    sums = gdgpu.Accumulator(w)
    sums.add(tiny)
    parts = w, optimizer.state_dict()["state"]["velocity"], sums.result(), gdgpu.reduce_samples(tiny)
    parts += gdgpu.sample_norms(wide), *gdgpu.sample_statistics(tiny)[:2], gdgpu.median_samples(tiny)
    return b"".join(np.asarray(part).tobytes() for part in parts)

usual = all_of_it()
assert any(usual)
for asked in map(lambda text: int(text, 16), sys.argv[1:]):
    set_modes(asked)
    found, after = all_of_it(), modes() & ~0x3F
    set_modes(0x1F80)
    print(found == usual, after == asked)
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="writes a register of x86-64")
@pytest.mark.parametrize("count", (1, 2))
def test_modes_of_the_calling_thread_change_no_bit(count, python):
    """Flushing to zero, tiny numbers taken for zero, other roundings; all are as they were afterwards."""
    asked = ("0x9fc0", "0x9f80", "0x1fc0", "0x7f80", "0x3f80")
    assert python(MODES, *asked, GDGPU_NUM_THREADS=str(count)) == "True True\n" * len(asked)
