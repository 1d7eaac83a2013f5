"""NVTX ranges: named like what was called, in its order, closed whatever happens; nothing when nobody listens."""

import json

import pytest

STUB = """
events = []

def RangePush(name):
    events.append(name)

def RangePop():
    events.append("pop")
"""
START = """
import json
import numpy as np
import gdgpu
from gdgpu.models import LinearRegression
w, g, G = np.ones(3), np.ones(3), np.ones((4, 3))
optimizer = gdgpu.SGD(w, 0.1)
run, run_samples = optimizer.bind(g), optimizer.bind_samples(G)
accumulator, model = gdgpu.Accumulator(w), LinearRegression(3, device="cpu")
"""
CALLS = {
    "optimizer.step(g)": "gdgpu.Optimizer.step",
    "optimizer.step_samples(G)": "gdgpu.Optimizer.step_samples",
    "optimizer.step_samples(G, np.ones(4), reduction='sum')": "gdgpu.Optimizer.step_samples",
    "run()": "gdgpu.Bound.__call__",
    "run_samples()": "gdgpu.Bound.__call__",
    "gdgpu.reduce_samples(G)": "gdgpu.reduce_samples",
    "accumulator.add(G)": "gdgpu.Accumulator.add",
    "accumulator.result()": "gdgpu.Accumulator.result",
    "model.gradient(G, np.ones(4))": "gdgpu.Model.gradient",
}
FAILING = {
    "optimizer.step(G)": "gdgpu.Optimizer.step",
    "gdgpu.reduce_samples(None)": "gdgpu.reduce_samples",
    "accumulator.add(g)": "gdgpu.Accumulator.add",
}
WRAPPED = """
import inspect
import gdgpu.core.nvtx
def functions(thing):
    members = vars(thing).values() if inspect.isclass(thing) else [thing]
    return [f for f in members if inspect.isfunction(f)]
public = [getattr(gdgpu, name) for name in gdgpu.__all__] + [LinearRegression, type(run)]
classes = [c for thing in public if inspect.isclass(thing) for c in thing.__mro__ if c.__module__.startswith("gdgpu")]
methods = [f for thing in {*public, *classes} for f in functions(thing)]
print(json.dumps(sorted({f.__qualname__ for f in methods if f.__code__.co_filename == gdgpu.core.nvtx.__file__})))
"""


@pytest.fixture
def listened(python, tmp_path):
    """listened(*scripts, **environment): what each prints, in one process that has a stub of CuPy's NVTX."""
    package = tmp_path / "cupy" / "cuda"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("class ndarray: pass\n")
    (package / "__init__.py").touch()
    (package / "nvtx.py").write_text(STUB)

    def run(*scripts, **environment):
        quiet = {"GDGPU_DEVICE": None, "GDGPU_NVTX": None, "NVTX_INJECTION64_PATH": None, "NUMBA_ENABLE_CUDASIM": None}
        out = python(START + "\n".join(scripts), **quiet | {"PYTHONPATH": str(tmp_path)} | environment)
        return [json.loads(line) for line in out.splitlines()]

    return run


def recorded(calls):
    """A script that prints what every call pushes and pops."""
    lines = ["from cupy.cuda import nvtx", "found = []"]
    for call in calls:
        lines += ["nvtx.events.clear()", f"try: {call}", "except (TypeError, ValueError): nvtx.events.append('raised')"]
        lines += ["found.append(list(nvtx.events))"]
    return "\n".join([*lines, "print(json.dumps(found))"])


ORDER = f"from cupy.cuda import nvtx\nnvtx.events.clear(); {'; '.join(CALLS)}\nprint(json.dumps(nvtx.events))"
SIGNATURE = (
    "import inspect\nstep = gdgpu.SGD.step_samples\n"
    "print(json.dumps([step.__name__, bool(step.__doc__), list(inspect.signature(step).parameters)]))"
)


@pytest.mark.parametrize("variable", ("GDGPU_NVTX", "NVTX_INJECTION64_PATH"))
def test_every_call_is_a_range_and_they_come_in_order(variable, listened):
    found, in_order = listened(recorded([*CALLS, *FAILING]), ORDER, **{variable: "1"})
    expected = [[name, "pop"] for name in CALLS.values()] + [[name, "pop", "raised"] for name in FAILING.values()]
    assert found == expected
    assert in_order == [event for name in CALLS.values() for event in (name, "pop")]


def test_functions_are_plain_when_nobody_listens_and_wrapped_ones_keep_their_names_and_signatures(listened):
    wrapped, signature = listened(WRAPPED, SIGNATURE, GDGPU_NVTX="1")
    assert {name.removeprefix("gdgpu.") for name in CALLS.values()} <= {name.lstrip("_") for name in wrapped}
    assert listened(WRAPPED, SIGNATURE, recorded(CALLS)) == [[], signature, [[]] * len(CALLS)]


def test_without_cupy_functions_are_plain(listened, tmp_path):
    (tmp_path / "cupy" / "__init__.py").write_text("raise ImportError('no CuPy here')\n")
    step = "optimizer.step(g)\nprint(json.dumps(w.tolist()))"
    assert listened(WRAPPED, step, GDGPU_NVTX="1") == [[], [0.9] * 3]
