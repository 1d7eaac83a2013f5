"""What only a GPU can show: streams, CUDA graphs, launches, allocation, torch's tensors, more than 2^31 elements."""

import gc
import threading
import warnings

import numpy as np
import pytest

import gdgpu
from gdgpu import devices
from gdgpu.kernels.backend import buffers
from gdgpu.optimizers import launches
from gdgpu.samples import reduce
from support.references import assert_same_bits, dtype_of, samples

cupy = pytest.importorskip("cupy", reason="CuPy is not installed: install gdgpu[cuda13]")
WHY_NOT = "the simulator has no streams" if devices.simulated() else devices.why_no_cuda()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"needs a GPU: {WHY_NOT}")

OPTIMIZERS = {
    "momentum": lambda params: gdgpu.Momentum(params, lr=0.05),
    "adam": lambda params: gdgpu.Adam(params, lr=0.05),
}
LAUNCHES = {"momentum": 1, "adam": 2}  # a rule with step scalars takes two: one advances them
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
every_binding = pytest.mark.parametrize("kind", ("bind", "bind_samples"))
RATES = (0.02, 0.3, 0.0, 0.1)
GIB = 1 << 30
BFLOAT16 = dtype_of("bfloat16")

# Occupies the stream for so many nanoseconds.
SPIN = """
extern "C" __global__ void spin(long long duration) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do { asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); } while (now - start < duration);
}
"""


@pytest.fixture
def stream():
    """A stream that does not wait for the default one, current in the test."""
    with cupy.cuda.Stream(non_blocking=True) as stream:
        yield stream
        stream.synchronize()


@pytest.fixture
def busy():
    """busy(seconds): keep CuPy's current stream busy; returns at once."""
    kernel = cupy.RawKernel(SPIN, "spin")
    kernel.compile()
    return lambda seconds: kernel((1,), (1,), (np.int64(seconds * 1e9),))


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


@every_optimizer
@pytest.mark.parametrize("is_bound", (False, True), ids=("step", "bound"))
def test_steps_take_their_place_in_the_stream(make, is_bound, stream, busy):
    """A gradient written behind a busy stream is seen, and what is enqueued behind the step sees its result."""
    start, gradients = samples((10_000,), "float32"), samples((3, 10_000), "float32", 1)
    w, g, source = (cupy.asarray(array) for array in (start, np.zeros_like(start), gradients))
    optimizer = make(w)
    step = optimizer.bind(g) if is_bound else lambda: optimizer.step(g)
    seen = cupy.empty_like(gradients)
    expected = [on_cpu(make, start, gradients[: k + 1]) for k in range(len(gradients))]
    for k in range(len(gradients)):
        busy(0.05)
        cupy.copyto(g, source[k])
        step()
        cupy.copyto(seen[k], w)
        g.fill(np.nan)
    assert_same_bits(seen.get(), np.stack(expected))


def test_reductions_on_two_streams_do_not_share_their_workspace():
    matrices = [samples((3000, 40), "float32", seed) for seed in range(2)]
    expected = [gdgpu.reduce_samples(G) for G in matrices]
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in matrices]
    on_device = [cupy.asarray(G) for G in matrices]
    cupy.cuda.Device().synchronize()
    results = [[], []]
    for _ in range(20):
        for k, stream in enumerate(streams):
            with stream:
                results[k].append(gdgpu.reduce_samples(on_device[k]))
    for stream, found, right in zip(streams, results, expected, strict=True):
        stream.synchronize()
        for g in found:
            assert_same_bits(g.get(), right)


def test_a_workspace_waits_for_a_stream_that_is_gone(busy):
    """The handle of a stream that is destroyed while it is busy may be given to the next one."""
    matrices = [samples((3000, 40), "float32", seed) for seed in range(3 * reduce.STREAMS)]
    on_device, results = [cupy.asarray(G) for G in matrices], []
    cupy.cuda.Device().synchronize()
    for G in on_device:
        with cupy.cuda.Stream(non_blocking=True):
            busy(0.01)
            results.append(gdgpu.reduce_samples(G))
    cupy.cuda.Device().synchronize()
    for g, G in zip(results, matrices, strict=True):
        assert_same_bits(g.get(), gdgpu.reduce_samples(G))


@every_optimizer
@pytest.mark.parametrize("is_bound", (False, True), ids=("step", "bound"))
def test_one_optimizer_on_two_streams(make, is_bound, busy):
    """Each step waits for the one before on the other stream, and the first for the state to be zero."""
    start, gradient = samples((100_000,), "float32"), samples((100_000,), "float32", 1)
    w, g = cupy.asarray(start), cupy.asarray(gradient)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    cupy.cuda.Device().synchronize()
    with streams[1]:
        busy(0.05)
        optimizer = make(w)
    for _ in range(5):
        for stream in streams:
            with stream:
                busy(0.02 if stream is streams[0] else 0)
                optimizer.bind(g)() if is_bound else optimizer.step(g)
    with streams[0]:
        found = w.get(), *optimizer.state_dict()["state"].values()
    host = start.copy()
    expected = make(host)
    for _ in range(10):
        expected.step(gradient)
    assert_same_bits(found[0], host)
    for actual, right in zip(found[1:], expected.state_dict()["state"].values(), strict=True):
        assert_same_bits(actual.get(), right)


@every_optimizer
def test_bound_step_as_the_first_call_of_a_thread(make):
    run, said = bound(make, "bind", [1000]), []

    def work():
        try:
            run()
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not said


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


def test_counters_that_were_left_wrong_are_found(stream):
    """Set wrong by hand: a launch that is cut takes the context with it."""
    w, G = cupy.zeros(3, "float32"), cupy.ones((33_000, 3), "float32")
    run = gdgpu.Momentum(w, lr=0.1).bind_samples(G)
    run()
    [launch] = [launch for launch in run._launches.laid_out.values() if isinstance(launch, launches.Samples)]
    counters = launch.reduction.counters
    for _ in range(2 * buffers.LAUNCHES):
        run()
        stream.synchronize()
    assert not counters.array.get().any()
    counters.array[0] = 1
    with pytest.raises(RuntimeError, match="trust no result"):
        for _ in range(2 * buffers.LAUNCHES + 1):
            run()
            stream.synchronize()
    assert not counters.array.get().any()


@every_optimizer
@every_binding
def test_bound_step_does_not_wait_for_the_device(make, kind, stream, busy):
    run = bound(make, kind, [1000])
    stream.synchronize()
    busy(1)
    run()
    assert not stream.done, "the step came back only when the kernel before it had ended"


class Allocations(cupy.cuda.MemoryHook):
    """Counts what is asked of CuPy's memory pool, and of the device."""

    name = "Allocations"

    def __init__(self):
        self.count = 0

    def alloc_preprocess(self, **request):
        self.count += 1

    malloc_preprocess = alloc_preprocess


@every_optimizer
@every_binding
def test_bound_step_allocates_nothing(make, kind, stream):
    run = bound(make, kind, (0, 1, 33, 4096))
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes(), pool.total_bytes(), pool.n_free_blocks()
    with Allocations() as allocations:
        for _ in range(10):
            run()
        assert allocations.count == 0
        cupy.empty(1)
        assert allocations.count > 0  # the hook does see allocations
    assert (pool.used_bytes(), pool.total_bytes(), pool.n_free_blocks()) == before


@every_binding
@pytest.mark.parametrize("count", (1, 1000))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_launches_do_not_depend_on_the_number_of_tensors(name, count, kind, stream):
    run = bound(OPTIMIZERS[name], kind, np.random.default_rng(0).integers(0, 500, count), rows=4)
    assert kernels_of(stream, run) == (LAUNCHES[name], 0)


def test_thousand_tensors_get_the_bits_of_the_cpu():
    rng = np.random.default_rng(0)
    start = [samples((n,), "float32", k) for k, n in enumerate(rng.integers(0, 3000, 1000))]
    gradients = [samples(w.shape, "float32", 5000 + k) for k, w in enumerate(start)]
    ours, host = [cupy.asarray(w) for w in start], [w.copy() for w in start]
    run = gdgpu.Momentum(ours, lr=0.1).bind([cupy.asarray(g) for g in gradients])
    optimizer = gdgpu.Momentum(host, lr=0.1)
    for _ in range(2):
        run()
        optimizer.step(gradients)
    for actual, expected in zip(ours, host, strict=True):
        assert_same_bits(actual.get(), expected)


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@every_optimizer
def test_torch_tensors_are_ordered_against_torch_streams(make, dtype):
    torch = pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    start, gradient = samples((5000,), dtype), samples((5000,), dtype, 1)
    expected = on_cpu(make, start, [gradient, gradient])

    def tensor(array):  # torch reads no ml_dtypes
        return torch.from_numpy(array.view(np.uint8)).cuda().view(getattr(torch, dtype))

    w, source = tensor(start), tensor(gradient)
    g = torch.zeros_like(source)
    make(torch.zeros_like(w)).step(g)  # compiles: afterwards a step is enqueued long before the gradient is there
    optimizer = make(w)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()), warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        torch.cuda._sleep(300_000_000)  # cycles
        g.copy_(source)
        optimizer.step(g)
        optimizer.step(g)
        g.zero_()
        result = w.clone()
    torch.cuda.synchronize()
    assert_same_bits(result.view(torch.uint8).cpu().numpy().view(expected.dtype), expected)


def test_more_than_2_31_elements_in_an_update():
    n, make = (1 << 31) + 4099, OPTIMIZERS["momentum"]
    w, g = large_zeros(n), large_zeros(n)
    pieces = [slice(at, at + 1000) for at in (0, (1 << 31) - 500, n - 1000)]
    starts, gradients = ([samples((1000,), "bfloat16", seed + k) for k in range(len(pieces))] for seed in (0, 10))
    for piece, start, gradient in zip(pieces, starts, gradients, strict=True):
        w[piece], g[piece] = (cupy.asarray(values.view(np.uint16)) for values in (start, gradient))
    make(w.view(BFLOAT16)).step(g.view(BFLOAT16))
    for piece, start, gradient in zip(pieces, starts, gradients, strict=True):
        assert_same_bits(w[piece].get().view(BFLOAT16), on_cpu(make, start, [gradient]))


@pytest.mark.parametrize("rows, columns", [(2, (1 << 30) + 2051), ((1 << 25) + 33, 65)], ids=("wide", "tall"))
def test_more_than_2_31_elements_in_a_reduction(rows, columns):
    G = large_zeros((rows, columns))
    pieces = [slice(0, min(1000, columns)), slice(max(0, columns - 1000), columns)]
    for piece in pieces:
        for end in (G[:50, piece], G[-50:, piece]):
            end[...] = cupy.asarray(samples(end.shape, "bfloat16").view(np.uint16))
    result = gdgpu.reduce_samples(G.view(BFLOAT16), reduction="sum")
    for piece in pieces:
        # Of 2^25 + 33 rows, all but these are zeros. Without them the others keep their places in the tree: it is
        # that of 1024 + 33 rows, with levels in between whose nodes have one child that is not 0.
        left = np.concatenate([G[:512, piece].get(), G[max(512, rows - 545) :, piece].get()]).view(BFLOAT16)
        assert_same_bits(result[piece].get(), gdgpu.reduce_samples(left, reduction="sum"))


def large_zeros(shape):
    """The bits of bfloat16 zeros, where there is room for all that a test of them needs."""
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 30 * GIB:
        pytest.skip(f"needs 30 GiB of free memory on the GPU, got {free / GIB:.1f}")
    return cupy.zeros(shape, np.uint16)


@every_optimizer
def test_second_gpu(make):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    start, gradient = samples((5000,), "float32"), samples((5000,), "float32", 1)
    with cupy.cuda.Device(1):
        w, g = cupy.asarray(start), cupy.asarray(gradient)
    make(w).step(g)  # device 0 is current
    assert w.device.id == 1
    assert_same_bits(w.get(), on_cpu(make, start, [gradient]))
    G = samples((1100, 60), "float32")
    with cupy.cuda.Device(1):
        there = cupy.asarray(G)
    assert_same_bits(gdgpu.reduce_samples(there).get(), gdgpu.reduce_samples(G))


def test_arrays_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="is on cpu"):
        gdgpu.Momentum(cupy.zeros(3, "float32"), lr=0.1).step(np.zeros(3, "float32"))
