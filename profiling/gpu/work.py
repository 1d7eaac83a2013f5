"""What a GPU check launches, and processes that go through it on a machine with no GPU."""

import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cases
import numpy as np

import gdgpu
from gdgpu.core import files
from gdgpu.kernels.backend import generated
from gdgpu.machine_code.tools import assembled
from gpu import ROOT
from gpu import variants as gpu_variants
from gpu.dry import Addresses, without_a_gpu
from gpu.process import one_line
from gpu.stages import IN_OTHER_DTYPES, OTHER_DTYPES, gpu_cases

sys.path.append(str(ROOT / "tests"))

from support import bits

PR_SET_PDEATHSIG = 1
Work = dict[str, Callable[[], object]]
Say = Callable[[int, int], None]  # cases that are done, and all
TOGETHER = 4  # cases that a process takes at a time: neighbours share kernels


def compared() -> Work:
    """{name: call} of the cases whose bits are compared."""
    return {f"bits/{name}": partial(bits.answers, name) for name in bits.CASES}


def rows() -> Work:
    """{name: call} of gdgpu's own part in the rows of the tables: its step, and the usual ones beside it."""
    rows = [(name, case.dtype) for name, case in gpu_cases()]
    rows += itertools.product(IN_OTHER_DTYPES, OTHER_DTYPES)
    return {f"row/{name} {dtype}": partial(_row, name, dtype) for name, dtype in rows}


def _row(name, dtype):
    _, makers = cases.find(name).problem(Addresses(dtype))
    for peer in ("gdgpu", *cases.GDGPU_PEERS):
        if peer in makers:
            makers[peer]()()


def tests() -> Work:
    """{name: call} of what the tests in tests/gpu/, smoke.py and hazards.py launch."""
    found = {}
    for (name, make), dtype in itertools.product(TESTED.items(), ("float32", "bfloat16")):
        found[f"test/{name} {dtype}"] = partial(_steps, make, dtype)
    for name, make in GUARDED.items():
        found[f"test/{name}"] = partial(_guarded, make)
    for dtype in ("float32", "bfloat16"):
        found[f"test/reduce {dtype}"] = partial(_reduced, dtype)
    return found


TESTED = {"momentum": partial(gdgpu.Momentum, lr=0.05), "adam": partial(gdgpu.Adam, lr=0.05)}
GUARDED = {
    "adam, 8-bit, at random": partial(gdgpu.Adam, lr=0.05, state_dtype="uint8", rounding="stochastic", seed=3),
    "lamb": partial(gdgpu.LAMB, lr=0.05),
    "sgd, averaged": partial(gdgpu.SGD, lr=0.05, momentum=0.9, dampening=0.5, ema=0.5),
}


def _steps(make, dtype):
    arrays = Addresses(dtype)
    make(arrays.normal(5000)).bind(arrays.normal(5000))()
    make(arrays.normal(1000)).step(arrays.normal(1000), found_inf=False)
    make(arrays.normal(301)).bind_samples(arrays.normal(70, 301))()


def _guarded(make):
    arrays = Addresses()
    how = {"grad_scale": np.asarray(np.float32(8)), "found_inf": np.zeros(1, np.float32)}
    make(arrays.normal(70_001)).bind(arrays.normal(70_001), clip_norm=2.0, zero_grads=True, **how)()


def _reduced(dtype):
    arrays = Addresses(dtype)
    for shape in ((3000, 40), (2, 4099), (33_000, 65)):
        gdgpu.reduce_samples(arrays.normal(*shape), reduction="sum")


def variants() -> Work:
    """{name: call} of the variants of gpu_sweep.py."""
    return {f"sweep/{gpu_variants.label(*pair)}": partial(_variant, *pair) for pair in gpu_variants.pairs()}


def _variant(case, variant):
    with variant.applied():
        run, _ = gpu_variants.built(Addresses(case.dtype), case)
        run()


def everything(sweep: bool = True) -> Work:
    """{name: call} of all that the check launches."""
    return compared() | rows() | tests() | (variants() if sweep else {})


@dataclass
class Done:
    """Names of kernels asked for and absent, as dry.Kernels has them; {case: why it failed, or was left out}."""

    asked: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def launch(
    work: Work,
    capability: tuple[int, int],
    jobs: int,
    environment: dict[str, str],
    compiles: bool = True,
    say: Say | None = None,
) -> Done:
    """Go through the work, {name: call}, in as many processes; what is absent is made unless compiles is False."""
    done = Done()
    task = partial(_launched, work, capability, compiles)
    for name, kernels, error in _shared_out(task, list(work), jobs, environment, say):
        if error:
            (done.left_out if compiles and _is_variant(name) else done.failed)[name] = error
        if kernels and name not in done.left_out:
            done.asked |= kernels.asked
            done.absent |= kernels.absent
    return done


def _launched(work, capability, compiles, name):
    """(what it asked for, why it failed or None)."""
    watch = _refuse_spills if _is_variant(name) else None
    with without_a_gpu(capability, compiles, watch) as kernels:
        try:
            with np.errstate(all="ignore"):  # of memory that nobody filled
                work[name]()
        except Exception as error:
            return kernels, one_line(error)
    # A matrix of no rows needs no launch; a row whose arrays are taken for the CPU's must not pass for one.
    is_idle = not kernels.launches and not name.startswith("bits/")
    return kernels, "nothing was launched on the GPU" if is_idle else None


def _is_variant(name):
    return name.startswith("sweep/") and not name.endswith(f", {gpu_variants.USUAL}")


def _refuse_spills(cubin, said):
    made = assembled(cubin, said)
    if made.spilled or made.stack:
        raise RuntimeError(f"{made.spilled} bytes spilled, {made.stack} bytes of stack")


def answer(path: Path, names: list[str], jobs: int, say: Say | None = None) -> dict[str, str]:
    """Save the CPU's answers as tests/support/bits does, NAME:NUMBER; returns {case: why there is none}."""
    found, failed = {}, {}
    for name, arrays, error in _shared_out(_answered, names, jobs, {"GDGPU_DEVICE": "cpu"}, say):
        if error:
            failed[f"answers/{name}"] = error
        else:
            found |= {f"{name}:{k}": array for k, array in enumerate(arrays)}
    if not failed:
        with files.replacing(path) as file:
            np.savez_compressed(file, device="cpu", **found)
    return failed


def _answered(name):
    try:
        return bits.answers(name), None
    except Exception as error:
        return None, one_line(error)


def _shared_out(task, names, jobs, environment, say):
    """Yields (name, *task(name)) as they come, from processes with these variables; one that dies fails what is left.

    say(done, all) is called now and then.
    """
    # Forked: what is imported here is there too, and a task need not be pickled.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _begin, (environment, task))
    chunks = [names[k : k + TOGETHER] for k in range(0, len(names), TOGETHER)]
    waiting, left = {pool.submit(_each, chunk): chunk for chunk in chunks}, len(names)
    try:
        for future in as_completed(waiting):
            try:
                yield from future.result()
            except BrokenProcessPool as error:
                yield from ((name, None, f"not reached: {one_line(error)}") for name in waiting[future])
            left -= len(waiting[future])
            if say:
                say(len(names) - left, len(names))
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(environment, task):
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that waits for this process says so
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nor does this one outlive it
    os.environ |= environment
    generated._fingerprint.cache_clear()
    gpu_variants.forget_kernels()


def _each(names):
    return [(name, *_task(name)) for name in names]
