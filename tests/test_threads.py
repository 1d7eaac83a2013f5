"""Forks, several Python threads and interrupts: the right bits, and a step happens whole or not at all."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels import threads
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
        "from gdgpu.kernels import threads\n"
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
    """A kernel that notes which items it did; helpers wait for the calling thread, so that it gets its share."""

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


def once(action):
    """A function that does `action` when it is called first, and nothing later."""
    waiting = [action]
    return lambda: waiting.pop()() if waiting else None


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def fail():
    raise RuntimeError("in the calling thread")


@pytest.mark.parametrize("count", (1, 2, 3, 5))
def test_every_item_is_done_once(count, use_threads):
    use_threads(count)
    recorder = Recorder()
    threads.run(recorder, (), ITEMS, nbytes=1 << 30, scratch_bytes=100)
    assert (recorder.done == 1).all()


@pytest.mark.parametrize("count", (2, 3))
def test_an_interrupt_during_a_kernel(count, use_threads):
    use_threads(count)
    recorder = Recorder(once(ctrl_c))
    with pytest.raises(KeyboardInterrupt):
        threads.run(recorder, (), ITEMS, nbytes=1 << 30)
    assert (recorder.done == 1).all()


@pytest.mark.parametrize("count", (2, 3))
def test_an_interrupt_at_every_line(count, use_threads):
    """Wherever in `run` a Ctrl-C arrives, when it is seen all items are done, or none is and none is to come."""
    use_threads(count)
    threads.run(Recorder(), (), ITEMS, nbytes=1 << 30)  # the pool is there
    for moment in range(1000):
        recorder, passed = Recorder(), iter(range(moment + 1))

        def trace(frame, event, argument, passed=passed, moment=moment):
            if frame.f_code.co_filename != threads.__file__:
                return None
            if event == "line" and next(passed, None) == moment:
                ctrl_c()
            return trace

        before, seen = sys.gettrace(), None
        sys.settrace(trace)
        try:
            threads.run(recorder, (), ITEMS, nbytes=1 << 30)
        except KeyboardInterrupt:
            seen = recorder.done.copy()
        finally:
            sys.settrace(before)
        if next(passed, None) is not None:  # so many lines there are not
            break
        assert seen is not None, f"line {moment}: the interrupt was lost"
        assert (seen == seen[0]).all() and seen[0] in (0, 1), f"line {moment}: {(seen == 0).sum()} items left out"
        time.sleep(0.005)
        assert (recorder.done == seen).all()
    assert moment > 20


@pytest.mark.parametrize("count", (2, 3))
def test_an_error_waits_for_the_others(count, use_threads):
    """Helpers hold bare addresses: nothing of theirs may still run when the caller sees the error."""
    use_threads(count)
    recorder = Recorder(once(fail))
    with pytest.raises(RuntimeError, match="in the calling thread"):
        threads.run(recorder, (), ITEMS, nbytes=1 << 30)
    seen = recorder.done.copy()
    time.sleep(0.05)
    assert (recorder.done == seen).all()


@pytest.mark.skipif(sys.platform == "win32", reason="ends by a signal only on POSIX")
@pytest.mark.parametrize(
    ("handler", "shown"),
    [("SIG_IGN", "went on\n"), ("SIG_DFL", ""), ("lambda *event: print('handled')", "handled\nwent on\n")],
)
def test_a_programs_own_handler(handler, shown):
    """An interrupt that comes in the middle is left to what the program has set, afterwards."""
    script = (
        "import signal, subprocess, sys, numpy as np, gdgpu\n"
        "from gdgpu.kernels import threads\n"
        "from signal import SIG_IGN, SIG_DFL\n"
        f"signal.signal(signal.SIGINT, {handler})\n"
        "run = threads.run\n"
        "def interrupted(*args, **kwargs):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    run(*args, **kwargs)\n"
        "w = np.zeros(3)\n"
        "optimizer = gdgpu.SGD(w, 1.0)\n"
        "threads.run = interrupted\n"
        "optimizer.step(np.ones(3))\n"
        "assert (w == -1).all()\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == shown, done
    assert done.returncode == (-signal.SIGINT if handler == "SIG_DFL" else 0), done


@pytest.mark.parametrize("kind", ("step", "step_samples"))
def test_an_interrupted_step_of_many_tensors_is_whole(kind, monkeypatch):
    """Tensors of two dtypes take two launches; a Ctrl-C in the first still leaves all of a step, or none of it."""
    params = {"a": np.ones(5, np.float32), "b": np.ones(5)}
    optimizer = gdgpu.Momentum(params, 0.5)
    run, disturb = threads.run, once(ctrl_c)

    def interrupted(*args, **kwargs):
        run(*args, **kwargs)
        disturb()

    monkeypatch.setattr(threads, "run", interrupted)
    given = {k: np.ones_like(w if kind == "step" else w[None]) for k, w in params.items()}
    with pytest.raises(KeyboardInterrupt):
        getattr(optimizer, kind)(given)
    velocity = optimizer.state_dict()["state"]["velocity"]
    found = optimizer.steps, *(float(array[0]) for array in (*params.values(), *velocity.values()))
    assert found in ((0, 1, 1, 0, 0), (1, 0.5, 0.5, -0.5, -0.5))


def test_an_interrupted_add_is_whole(monkeypatch):
    """All tensors of an accumulator hold the same samples, also after a Ctrl-C in the first."""
    accumulator = gdgpu.Accumulator([np.zeros(5, np.float32), np.zeros(5)])
    G = [np.ones((3, 5), np.float32), np.ones((3, 5))]
    run, disturb = threads.run, once(ctrl_c)

    def interrupted(*args, **kwargs):
        run(*args, **kwargs)
        disturb()

    monkeypatch.setattr(threads, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        accumulator.add(G)
    found = [float(total[0]) for total in accumulator.result("sum")]
    assert found == [accumulator.count] * 2 and accumulator.count in (0, 3)


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
