"""A fork while other threads compile or import: the children compile kernels of their own, and nobody hangs."""

import os
import sys
import types

import pytest

from gdgpu.kernels.backend import forking
from support.covering import usual

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")

BEGIN = """
import os, signal, sys, threading, time
import numpy as np
import gdgpu

SECONDS = 30  # of a child that hangs


def step(name="SGD"):
    w = np.ones(10, "float32")
    getattr(gdgpu, name)(w, lr=0.1).step(w.copy())


def fork(work):
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        try:
            work()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

WHILE_OURS = """
step()
thread = threading.Thread(target=lambda: [step(name) for name in ("RAdam", "NAdam")])
thread.start()
children = []
while thread.is_alive():
    children.append(fork(lambda: step("Lion" if len(children) % 2 else "SGD")))
    time.sleep(0.2)
thread.join()
print(len(children) > 1, {status(child) for child in children})
"""

WHILE_A_USERS = """
import numba
step()
compiled = []


def compile_other():
    while len(compiled) < 6:
        compiled.append(numba.njit("int64(int64)", cache=False)(lambda x: x + len("other")))


thread = threading.Thread(target=compile_other)
thread.start()
children = []
while thread.is_alive():
    children.append(fork(lambda: numba.njit("int64(int64)")(lambda x: x + 1)(1)))
    time.sleep(0.03)
thread.join()
print(len(children) > 1, {status(child) for child in children})
"""

IN_THE_COMPILING_THREAD = """
from numba import types
from numba.core import event

step()


class Forks(event.Listener):
    def on_start(self, event):
        children.append(fork(lambda: None))

    def on_end(self, event):
        pass


children, forks = [], Forks()
with event.install_listener("numba:compile", forks):
    step("Lion")
step("RAdam")
children.append(fork(lambda: step("NAdam")))
print(len(children) > 1, {status(child) for child in children})
"""

BY_MULTIPROCESSING = """
import multiprocessing

step()
thread = threading.Thread(target=step, args=("RAdam",))
thread.start()
time.sleep(0.05)
context = multiprocessing.get_context("fork")
processes = [context.Process(target=step, args=(name,)) for name in ("Lion", "SGD")]
for process in processes:
    process.start()
for process in processes:
    process.join(SECONDS)
thread.join()
print(True, {process.exitcode for process in processes})
"""

CASES = {
    "ours": WHILE_OURS,
    "a user's": WHILE_A_USERS,
    "in the compiling thread": IN_THE_COMPILING_THREAD,
    "multiprocessing": BY_MULTIPROCESSING,
}


@pytest.mark.parametrize("case", usual(CASES, list(CASES)[:3]))
def test_a_fork_while_a_thread_compiles(tmp_path, python, case):
    environment = {"GDGPU_CACHE_DIR": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    assert python(BEGIN + CASES[case], **environment) == "True {0}\n"


IMPORTING = """
thread = threading.Thread(target=step)
thread.start()
while "numba" not in sys.modules:
    time.sleep(0.001)
time.sleep(float(sys.argv[1]))
child = fork(step)
thread.join()
print(status(child))
"""


@pytest.mark.parametrize("seconds", (0.0, *(pytest.param(k / 20, marks=pytest.mark.full) for k in range(1, 8))))
def test_a_fork_while_a_thread_imports_numba(python, seconds):
    assert python(BEGIN + IMPORTING, seconds, PYTHONWARNINGS="ignore") == "0\n"


def test_an_import_that_begins_while_a_fork_waits(monkeypatch):
    """It is waited for, too, and without the locks."""

    said = []

    class Lock:
        def acquire(self):
            said.append("acquire")
            sys.modules.setdefault("gdgpu.begun", types.ModuleType("gdgpu.begun"))

        def release(self):
            said.append("release")

    monkeypatch.setattr(forking, "locks", [Lock()])
    try:
        forking._hold()
    finally:
        del sys.modules["gdgpu.begun"]
    forking._let_go()
    assert said == ["acquire", "release", "acquire", "release"]
