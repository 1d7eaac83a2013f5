"""The host's side of CUDA launches, on a driver that records them: what is passed, where, how much Python runs."""

import ctypes
import gc
import sys

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.backend import driver, geometry
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.rules.table import RULES
from support import covering, recording
from support.recording import read, row_of, target

pytestmark, stub = recording.pytestmark, recording.stub


@pytest.fixture
def stand_in(monkeypatch):
    """Of machine code there is only what the stub reads, the name, for tests of what is launched; not with --full."""

    def named(kernel, capability):
        return b"\x7fELF\0.text." + kernel.name.encode() + b"\0"

    if not covering.FULL:
        monkeypatch.setattr(target.Kernel, "cubin", named)


def tensors(count):
    sizes = 1 + np.arange(count) % 7
    return [np.zeros(n, np.float32) for n in sizes], [np.ones(n, np.float32) for n in sizes]


@pytest.mark.parametrize("count", (1, 10, 1000))
def test_a_step_is_one_launch_of_a_table_of_addresses(count, stub):
    params, grads = tensors(count)
    optimizer = gdgpu.Momentum([{"params": params[:3], "lr": 0.5}, {"params": params[3:]}], 0.25)
    optimizer.step([grads[:3], grads[3:]])
    [(name, grid, stream, (table, items, chunk, context))] = stub.launched
    assert name == "update_momentum_float32" and stream == 11
    assert context == 0 and grid == [count, 1, 1, geometry.CUDA_THREADS, 1, 1, 0]
    states = [v for part in optimizer.state_dict()["state"] for v in part["velocity"]]
    assert len(states) == count
    for k in range(count):
        n, scalars, w, g, velocity = row_of(table, k, 5)
        assert (n, w, g) == (params[k].size, params[k].ctypes.data, grads[k].ctypes.data)
        assert velocity == optimizer._engine.state[k][0].address
        lr, momentum, decay = np.ctypeslib.as_array((ctypes.c_float * 3).from_address(int(scalars)))
        assert (lr, momentum, decay) == (0.5 if k < 3 else 0.25, np.float32(0.9), 0)
        assert row_of(items, k, 2) == [k, 0] and n <= chunk


def test_adam_is_two_launches_whatever_the_groups(stub):
    params, grads = tensors(6)
    optimizer = gdgpu.Adam([{"params": p, "betas": (0.1 * k, 0.9)} for k, p in enumerate(params)])
    optimizer.step(grads)
    assert [launch[0] for launch in stub.launched] == ["advance_adam_float32", "update_adam_float32"]
    assert stub.launched[0][3][5] == 6  # rows


@pytest.mark.parametrize(
    ("name", "context", "launched"),
    [
        ("Momentum", {"grad_scale": 2.0, "clip_value": 1.0, "zero_grads": True}, ["update"]),
        ("Momentum", {"clip_norm": 1.0}, ["norms", "update"]),
        ("Adam", {"clip_norm": 1.0}, ["advance", "norms", "update"]),
        ("Momentum", {"found_inf": True}, ["advance", "update"]),  # the first counts the steps that are taken
        ("Adam", {"found_inf": True}, ["advance", "update"]),
        ("LARS", {}, ["norms", "update"]),
        ("LAMB", {}, ["advance", "norms", "update"]),
    ],
)
def test_what_surrounds_a_step_takes_few_launches(name, context, launched, stub, stand_in):
    params, grads = tensors(10)
    getattr(gdgpu, name)(params, 0.1).step(grads, **context)
    assert [launch[0].partition("_")[0] for launch in stub.launched] == launched


def test_samples_are_one_launch_for_tensors_of_any_size(stub):
    params = [np.zeros(n, np.float32) for n in (1, 5000, 40)]
    G = [np.ones((2000, p.size), np.float32) for p in params]
    optimizer = gdgpu.Momentum(params, 0.1)
    optimizer.step_samples(G)
    [(name, grid, _, (_, items, *scalars))] = stub.launched
    assert name == "fused_momentum_float32" and scalars == [0, 2000, np.float32(1 / 2000)]
    blocks, (x, y) = grid[0], grid[3:5]
    assert x * y <= geometry.CUDA_THREADS
    tile = x * 4
    wanted = {(k, s, t) for k, p in enumerate(params) for s in range(2) for t in range(-(-p.size // tile))}
    assert {tuple(row_of(items, k, 3)) for k in range(blocks)} == wanted and blocks == len(wanted)


def test_launches_follow_the_current_stream(stub):
    w, g = np.zeros(4, np.float32), np.ones(4, np.float32)
    optimizer = gdgpu.SGD(w, 0.1)
    run = optimizer.bind(g)
    for stub.current in (5, 6):
        run()
        optimizer.step(g)
    assert [stream for _, _, stream, _ in stub.launched] == [5, 5, 6, 6]


def count_python(call):
    """Calls of Python and C functions while `call` runs, but those of the stub."""
    events, stubs = [], (__file__, recording.__file__)
    gc.disable()  # what it calls is not the step's
    sys.setprofile(lambda frame, event, argument: events.append((event, frame.f_code.co_filename)))
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return len([event for event, file in events if event in ("call", "c_call") and file not in stubs])


BOUND = {
    "step": lambda optimizer, params, grads: optimizer.bind(grads),
    "samples": lambda optimizer, params, grads: optimizer.bind_samples([np.stack([g, g]) for g in grads]),
}


@pytest.mark.parametrize("kind", BOUND)
@pytest.mark.parametrize("name", ("SGD", "Momentum", "Adam"))
def test_python_in_a_bound_step_does_not_grow_with_the_tensors(name, kind, stub, stand_in):
    counts = []
    for count in (1, 10, 1000):
        params, grads = tensors(count)
        run = BOUND[kind](getattr(gdgpu, name)(params, lr=0.1), params, grads)
        run()
        counts.append(count_python(run))
    assert len(set(counts)) == 1
    assert counts[0] <= 40


def test_what_a_bound_step_needs_outlives_everything_else(stub):
    params, grads = tensors(3)
    addresses = [a.ctypes.data for a in (*params, *grads)]
    run = gdgpu.Momentum(params, 0.1).bind(grads)
    del params, grads
    junk = [np.full(n, 7, np.float32) for n in (1, 2, 3) for _ in range(50)]
    run()
    table = stub.launched[-1][3][0]
    assert [row_of(table, k, 5)[2] for k in range(3)] + [row_of(table, k, 5)[3] for k in range(3)] == addresses
    assert not {a.ctypes.data for a in junk} & set(addresses)


def test_code_is_kept_on_disk_between_processes(tmp_path, monkeypatch):
    rule = RULES["gradient_descent"]
    made = update.kernel("cuda", rule, (("maximize", False),), ("float32", "float32"))
    first = target.Kernel(made.function, made.kinds, made.name, tmp_path / "kernel")
    code = first.cubin((9, 0))
    assert [p.name for p in tmp_path.iterdir()] == ["kernel.sm_90.cubin"]
    monkeypatch.setattr(target.Kernel, "link", lambda *_: pytest.fail("compiled again"))
    assert target.Kernel(made.function, made.kinds, made.name, tmp_path / "kernel").cubin((9, 0)) == code


def test_a_full_disk_only_costs_the_next_process_its_time(tmp_path):
    rule = RULES["gradient_descent"]
    made = update.kernel("cuda", rule, (("maximize", False),), ("float32", "float32"))
    code = target.Kernel(made.function, made.kinds, made.name, tmp_path / "missing" / "kernel").cubin((8, 0))
    assert code[:4] == b"\x7fELF"


@pytest.mark.parametrize("kinds", (("int64",), ("float32", "int64", "float64"), ()))
def test_arguments_are_packed_as_the_driver_reads_them(kinds):
    values = [3 * k + 0.5 if kind != "int64" else -(2**40) - k for k, kind in enumerate(kinds)]
    pointers, _keeps = driver.packed(kinds, values)
    assert read(kinds, ctypes.addressof(pointers)) == values
