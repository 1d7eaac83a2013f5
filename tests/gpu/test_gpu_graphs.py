"""CUDA graphs of bound steps: replayed with other rates, what they hold, and what no graph can capture."""

import gc

import numpy as np
import pytest

import gdgpu
from support.gpu import OPTIMIZERS, all_of, bound, cupy, every_binding, every_optimizer, needs_gpu
from support.references import assert_same_bits, samples

pytestmark = needs_gpu
LAUNCHES = {"momentum": 1, "adam": 2}  # a rule with step scalars takes two: one advances them
RATES = (0.02, 0.3, 0.0, 0.1)


def kernels_of(stream, call):
    """The kernel nodes and the other nodes of a call captured as a CUDA graph."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    stream.begin_capture()
    call()
    graph = stream.end_capture()
    _, _, count = driver.cuGraphGetNodes(driver.CUgraph(graph.graph))
    _, nodes, _ = driver.cuGraphGetNodes(driver.CUgraph(graph.graph), count)
    kernel = driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
    are_kernels = [driver.cuGraphNodeGetType(node)[1] == kernel for node in nodes]
    return are_kernels.count(True), are_kernels.count(False)


@every_optimizer
def test_training_step_replayed_as_a_graph(make, stream):
    """Gradients of the squared distances to 70 points, reduce and update: a new lr before every replay."""
    X, start = cupy.asarray(samples((70, 301), "float32")), cupy.asarray(samples((301,), "float32", 1))

    def training():
        w, G = start.copy(), cupy.empty_like(X)
        optimizer = make(w)
        run = optimizer.bind_samples(G)

        def step():
            cupy.subtract(w, X, out=G)
            run()

        step()
        return optimizer, step

    plain, step = training()
    for lr in RATES:
        plain.lr = lr
        step()
    captured, step = training()
    stream.begin_capture()
    step()
    graph = stream.end_capture()
    for lr in RATES:
        captured.lr = lr
        graph.launch()
    for actual, expected in zip(all_of(captured), all_of(plain), strict=True):
        assert_same_bits(actual, expected)
    assert not np.array_equal(all_of(captured)[0], start.get())


@pytest.mark.parametrize("found", ([1, 0, 0, 1], [0, 1, 0, 0]), ids=("skipped first", "skipped later"))
@pytest.mark.parametrize(
    "make",
    (
        lambda w: gdgpu.Adam(w, 0.05, state_dtype="uint8", rounding="stochastic", seed=3),
        lambda w: gdgpu.LAMB(w, 0.05),
        lambda w: gdgpu.SGD(w, 0.05, momentum=0.9, dampening=0.5, ema=0.5),
    ),
    ids=("adam, 8-bit, at random", "lamb", "sgd, averaged"),
)
def test_guarded_step_replayed_as_a_graph(make, found, stream):
    """Scaled, clipped and sometimes skipped: what decides lies on the device, and so does the count of steps."""
    start, scale = cupy.asarray(samples((70_001,), "float32", 1)), cupy.asarray(np.float32(8))

    def guarded():
        w, g, is_inf = start.copy(), cupy.empty_like(start), cupy.zeros(1, "float32")
        optimizer = make(w)
        run = optimizer.bind(g, grad_scale=scale, found_inf=is_inf, clip_norm=2.0, zero_grads=True)

        def step():
            cupy.multiply(w, scale, out=g)
            run()

        step()
        return optimizer, is_inf, step

    plain, is_inf, step = guarded()
    for value in found:
        is_inf.fill(value)
        step()
    captured, is_inf, step = guarded()
    stream.begin_capture()
    step()
    graph = stream.end_capture()
    for value in found:
        is_inf.fill(value)
        graph.launch()
    assert captured.steps == plain.steps == 1 + found.count(0)
    for actual, expected in zip(all_of(captured), all_of(plain), strict=True):
        assert_same_bits(actual, expected)


def test_a_graph_reads_what_it_captured_whatever_becomes_of_the_bound_step(stream):
    """The first found_inf lays it out again; then it is dropped, and other arrays take freed memory."""
    w, g = cupy.zeros(5000, "float32"), cupy.ones(5000, "float32")
    optimizer = gdgpu.Momentum(w, lr=0.1, momentum=0.0)
    run = optimizer.bind(g)
    run()
    stream.begin_capture()
    run()
    graph = stream.end_capture()
    optimizer.step(g, found_inf=False)
    run()
    del run
    gc.collect()
    junk = [cupy.full(n, -1, "int64") for n in (8, 16, 64, 256, 1024) for _ in range(16)]
    before = w.get()
    graph.launch()
    np.testing.assert_allclose(w.get() - before, -0.1, atol=1e-5)
    assert len(junk) == 80


def test_a_graph_captures_only_what_is_bound(stream):
    w, g, G = cupy.zeros(3, "float32"), cupy.ones(3, "float32"), cupy.ones((40, 3), "float32")
    optimizer, out = gdgpu.Momentum(w, lr=0.1), cupy.zeros(3, "float32")
    run = optimizer.bind(g)
    for call in (
        lambda: optimizer.step(g),
        lambda: optimizer.step_samples(G),
        lambda: gdgpu.reduce_samples(G, out=out),
        lambda: gdgpu.sample_norms(G),
        lambda: optimizer.bind(g),
        lambda: setattr(optimizer, "lr", 0.5),
    ):
        stream.begin_capture()
        try:
            run()
            with pytest.raises(RuntimeError, match="CUDA graph"):
                call()
        finally:
            stream.end_capture()
    assert not w.get().any()


@every_binding
@pytest.mark.parametrize("count", (1, 1000))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_launches_do_not_depend_on_the_number_of_tensors(name, count, kind, stream):
    run = bound(OPTIMIZERS[name], kind, np.random.default_rng(0).integers(0, 500, count), rows=4)
    assert kernels_of(stream, run) == (LAUNCHES[name], 0)
