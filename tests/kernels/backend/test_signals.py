"""Interrupts, and whatever else a signal handler raises: a call is done whole, and counted, or not at all."""

import random
import signal
import sys
import time

import numpy as np
import pytest
from numba import njit

import gdgpu
from gdgpu.kernels.backend import threads

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers of signals")
ITEMS = 64


@njit("void(int64[::1], int64, int64, int64, int64)", nogil=True)
def slow(done, work, scratch, first, last):
    """Counts each item up, after some work."""
    for item in range(first, last):
        x = item
        for _ in range(work):
            x = x * 1664525 + 1013904223
            x ^= x >> 7
        done[item] += 1 if x != 0 else 2


class Stop(Exception):
    pass


@pytest.fixture
def alarm():
    """alarm(seconds): after so many a signal comes whose handler raises Stop."""

    def stop(*event):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def seconds_of(call):
    """How long the call takes, at least."""

    def once():
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return min(once() for _ in range(5))


def stopped(call, alarm, seconds):
    """Whether Stop came out of the call, made while an alarm comes after so many seconds."""
    try:
        alarm(seconds)
        call()
        alarm(0)
    except Stop:
        return True
    return False


@pytest.mark.parametrize("count", (1, 2, 3))
def test_a_handler_that_raises_at_any_moment(count, use_threads, alarm):
    use_threads(count)
    rng, came, done = random.Random(count), 0, np.zeros(ITEMS, np.int64)

    def call():
        threads.run(slow, (done, 3000), ITEMS, 1 << 30)

    longest = 1.3 * seconds_of(call)
    for _ in range(100):
        before = done[0]
        came += stopped(call, alarm, max(1e-6, rng.uniform(0, longest)))
        seen = done.copy()
        assert (seen == seen[0]).all() and seen[0] - before in (0, 1)
        time.sleep(0.0005)
        assert (done == seen).all()
    assert came > 20


@pytest.mark.parametrize("count", (2, 3))
def test_an_interrupt_at_every_line(count, use_threads):
    """Wherever in `run` a Ctrl-C arrives, when it is seen all items are done, or none is and none is to come."""
    use_threads(count)
    threads.run(slow, (np.zeros(ITEMS, np.int64), 1), ITEMS, nbytes=1 << 30)  # the helpers are there
    for moment in range(1000):
        done, passed = np.zeros(ITEMS, np.int64), iter(range(moment + 1))

        def trace(frame, event, argument, passed=passed, moment=moment):
            if frame.f_code.co_filename != threads.__file__:
                return None
            if event == "line" and next(passed, None) == moment:
                signal.raise_signal(signal.SIGINT)
            return trace

        before, seen = sys.gettrace(), None
        sys.settrace(trace)
        try:
            threads.run(slow, (done, 2000), ITEMS, nbytes=1 << 30)
        except KeyboardInterrupt:
            seen = done.copy()
        finally:
            sys.settrace(before)
        if next(passed, None) is not None:  # so many lines there are not
            break
        assert seen is not None, f"line {moment}: the interrupt was lost"
        assert (seen == seen[0]).all() and seen[0] in (0, 1), f"line {moment}: {(seen == 0).sum()} items left out"
        time.sleep(0.002)
        assert (done == seen).all()
    assert moment > 20


def stepped(kind):
    """(a call that takes a step of parameters of two dtypes, two launches, and what says how far they are)."""
    params = {"a": np.zeros(60_000, np.float32), "b": np.zeros(60_000)}
    optimizer, ones = gdgpu.Momentum(params, 1.0, momentum=0.0), {k: np.ones_like(w) for k, w in params.items()}
    G = {k: np.ones((4, w.size), w.dtype) for k, w in params.items()}
    call = {
        "step": lambda: optimizer.step(ones),
        "step_samples": lambda: optimizer.step_samples(G),
        "bound": optimizer.bind(ones),
        "bound samples": optimizer.bind_samples(G),
        "counted in memory": lambda: optimizer.step(ones, found_inf=False),
    }[kind]
    return call, lambda: (optimizer.steps, *(set((-w).tolist()) for w in params.values()))


@pytest.mark.parametrize("count", (1, 2))
@pytest.mark.parametrize("kind", ("step", "step_samples", "bound", "bound samples", "counted in memory"))
def test_a_step_is_taken_and_counted_or_neither(kind, count, use_threads, alarm):
    use_threads(count)
    call, state = stepped(kind)
    rng, came, longest = random.Random(count), 0, 1.3 * seconds_of(call)
    for _ in range(100):
        before, _, _ = state()
        came += stopped(call, alarm, max(1e-6, rng.uniform(0, longest)))
        steps, *found = state()
        assert steps - before in (0, 1) and found == [{steps}, {steps}]
    assert came > 3


def test_an_add_is_whole(use_threads, alarm):
    use_threads(2)
    accumulator = gdgpu.Accumulator([np.zeros(40_000, np.float32), np.zeros(40_000)])
    G = [np.ones((3, 40_000), np.float32), np.ones((3, 40_000))]
    rng, came, longest = random.Random(0), 0, 1.3 * seconds_of(lambda: accumulator.add(G))
    for _ in range(60):
        came += stopped(lambda: accumulator.add(G), alarm, max(1e-6, rng.uniform(0, longest)))
        assert [set(total.tolist()) for total in accumulator.result("sum")] == [{accumulator.count}] * 2
    assert came > 3


@pytest.mark.skipif(sys.platform == "win32", reason="ends by a signal only on POSIX")
@pytest.mark.parametrize(
    ("handler", "shown"),
    [("SIG_IGN", "went on\n"), ("SIG_DFL", ""), ("lambda *event: print('handled')", "handled\nwent on\n")],
)
def test_a_programs_own_handler(handler, shown, python):
    script = (
        "import os, signal, threading, numpy as np, gdgpu\n"
        "from signal import SIG_IGN, SIG_DFL\n"
        f"signal.signal(signal.SIGINT, {handler})\n"
        "w = np.zeros(1_000_000)\n"
        "optimizer = gdgpu.SGD(w, 1.0)\n"
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "while threading.active_count() > 1 and threading.enumerate()[-1].name[:5] != 'gdgpu':\n"
        "    optimizer.step(np.ones(1_000_000))\n"
        "assert (w == -optimizer.steps).all()\n"
        "print('went on')\n"
    )
    status = -signal.SIGINT if handler == "SIG_DFL" else 0
    assert python(script, status=status, GDGPU_NUM_THREADS="1") == shown


def test_one_signal_calls_a_loops_callback_once(python):
    script = (
        "import asyncio, os, signal, numpy as np, gdgpu\n"
        "w, calls = np.zeros(2_000_000, np.float32), []\n"
        "optimizer, g = gdgpu.SGD(w, 1.0), np.ones_like(w)\n"
        "async def main():\n"
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: calls.append(optimizer.steps))\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(5): optimizer.step(g)\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
        "print(len(calls))\n"
    )
    assert python(script, GDGPU_NUM_THREADS="2") == "1\n"


def test_a_handler_may_call(use_threads, alarm):
    """Functions and other owners' calls, in the middle of calls of the same kind; the same owner's raise."""
    use_threads(1)
    G = np.random.default_rng(0).standard_normal((40, 3000)).astype(np.float32)
    expected, said = gdgpu.reduce_samples(G), []
    zeros = np.zeros(3000, np.float32)
    optimizer, other = gdgpu.SGD(zeros.copy(), 1.0), gdgpu.SGD(zeros.copy(), 1.0)
    optimizer.step(zeros)
    other.step(zeros)

    def within(*event):
        assert (gdgpu.reduce_samples(G[:, :1500]) == expected[:1500]).all()
        other.step(zeros)
        try:
            optimizer.step(zeros + 1)
            said.append("")
        except RuntimeError as error:
            said.append(str(error))

    signal.signal(signal.SIGALRM, within)
    rng, steps = random.Random(0), 0
    for _ in range(300):
        before = len(said)
        alarm(rng.uniform(1e-5, 3e-4))
        while len(said) == before:
            assert (gdgpu.reduce_samples(G) == expected).all()
            optimizer.step(zeros)
            steps += 1
    refused = [text for text in said if text]
    assert 20 < len(refused) < 300 and all("another call of it is at work" in text for text in refused)
    taken = len(said) - len(refused)
    assert optimizer.steps == 1 + steps + taken and (optimizer.params == -taken).all()
