"""What the tests that need a GPU share; modules that import this are skipped without CuPy."""

import pytest

import gdgpu
from gdgpu import devices

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: install gdgpu[cuda13]")
WHY_NOT = "the simulator has no streams" if devices.simulated() else devices.why_no_cuda()
needs_gpu = pytest.mark.skipif(WHY_NOT is not None, reason=f"needs a GPU: {WHY_NOT}")

OPTIMIZERS = {
    "momentum": lambda params: gdgpu.Momentum(params, lr=0.05),
    "adam": lambda params: gdgpu.Adam(params, lr=0.05),
}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
every_binding = pytest.mark.parametrize("kind", ("bind", "bind_samples"))


def all_of(optimizer):
    """The parameters, in one array, and the states, on the host."""
    return [array.get() for array in (optimizer.params, *optimizer.state_dict()["state"].values())]


def bound(make, kind, sizes, rows=3000):
    """A bound step over tensors of these sizes, made once already."""
    w = [cupy.zeros(int(n), "float32") for n in sizes]
    g = [cupy.ones((rows, *a.shape) if kind == "bind_samples" else a.shape, "float32") for a in w]
    run = getattr(make(w), kind)(g)
    run()
    return run


def on_cpu(make, w, gradients):
    """What the CPU's kernels make of w, which is a copy."""
    w = w.copy()
    optimizer = make(w)
    for g in gradients:
        optimizer.step(g)
    return w
