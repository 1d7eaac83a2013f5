"""What only hardware shows: fences, contexts of threads, streams, lifetimes. Checks of the first half minute on a GPU.

Each takes under two seconds, compiles nothing besides kernels of tests/support/bits, and raises an AssertionError that
says in one line what is wrong, or returns None, or why it says nothing.
"""

import gc
import threading
import warnings

import numpy as np

ROWS, COLUMNS = 33_000, 3  # three levels of the tree
TURNS = 1250  # of four sums
BUSY = 1 << 29  # bytes of a copy, 0.3 ms or so


def fences_over_many_launches() -> None:
    """5000 sums whose partial sums change every time: a stale line of an L1, or a counter left behind, shows."""
    import cupy

    import gdgpu

    G = _normal((ROWS, COLUMNS))
    batches = [G * np.float32(k + 1) for k in range(4)]
    expected = [gdgpu.reduce_samples(batch) for batch in batches]
    A, out = [cupy.asarray(batch) for batch in batches], [cupy.empty(COLUMNS, np.float32) for _ in batches]
    for turn in range(TURNS):
        for batch, result in zip(A, out, strict=True):
            gdgpu.reduce_samples(batch, out=result)
        if turn % 25 == 0:
            for k, right in enumerate(expected):
                same(out[k].get(), right, f"sum {4 * turn + k}")


def thread_without_a_context() -> None:
    """The first CUDA call of a thread is a bound step."""
    import gdgpu

    w, g = _zeros(1000), _ones(1000)
    run = gdgpu.Momentum(w, lr=0.1).bind(g)
    run()
    said = []

    def work():
        try:
            run()
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not said, f"a bound step as the first call of a thread: {said[0]}"
    same(w.get(), _stepped(gdgpu.Momentum, 1000, 2), "two steps, in two threads")


def graph_after_its_step_was_laid_out_again() -> None:
    """The first found_inf lays a bound step out anew; then it is dropped, and its memory is written over."""
    import cupy

    import gdgpu

    with cupy.cuda.Stream(non_blocking=True) as stream:
        w, g = _zeros(5000), _ones(5000)
        optimizer = gdgpu.Momentum(w, lr=0.1, momentum=0.0)
        run = optimizer.bind(g)
        run()
        graph = _captured(stream, run)
        optimizer.step(g, found_inf=False)
        run()
        del run
        gc.collect()
        junk = [cupy.asarray(np.full(n, -1)) for n in (8, 16, 64, 256, 1024) for _ in range(16)]
        before = w.get()
        graph.launch()
        after = w.get()
        stream.synchronize()
    assert len(junk) == 80 and np.allclose(after - before, -0.1, atol=1e-5), "a replay read tables that were freed"


def graph_refuses_what_the_next_call_changes() -> None:
    """A step or a sum that is not bound reads tables that the next one rewrites."""
    import cupy

    import gdgpu

    with cupy.cuda.Stream(non_blocking=True) as stream:
        w, g, G, out = _zeros(1000), _ones(1000), _ones((40, 3)), _zeros(3)
        optimizer = gdgpu.Momentum(w, lr=0.1)
        for call in (lambda: optimizer.step(g), lambda: gdgpu.reduce_samples(G, out=out)):
            call()
            try:
                _captured(stream, call)
            except RuntimeError as error:
                assert "CUDA graph" in str(error), error
            else:
                raise AssertionError("a CUDA graph captured what is not bound")


def pinned_memory() -> None:
    """Kernels write to memory of the host."""
    import cupy

    import gdgpu

    pinned = cupy.cuda.alloc_pinned_memory(4096 * 4)
    host = np.frombuffer(pinned, np.float32, 4096)
    host[...] = 0
    memory = cupy.cuda.UnownedMemory(pinned.ptr, 4096 * 4, pinned)
    array = cupy.ndarray(4096, np.float32, cupy.cuda.MemoryPointer(memory, 0))
    gdgpu.Momentum(array, lr=0.1).step(_ones(4096))
    cupy.cuda.Device().synchronize()
    same(host, _stepped(gdgpu.Momentum, 4096, 1), "a step in pinned memory")


def optimizer_on_two_streams() -> None:
    """Steps on two streams in turn, the first of them always busy."""
    import cupy

    import gdgpu

    n, turns, busy = 1 << 20, 10, _busy()
    cupy.cuda.Device().synchronize()
    for make in (gdgpu.Momentum, gdgpu.Adam):
        first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        w, g = _zeros(n), _ones(n)
        cupy.cuda.Device().synchronize()
        with first:
            busy()
            optimizer = make(w, lr=0.1)  # its state is zero only when that is done
        with second:
            run = optimizer.bind(g)
        for _ in range(turns):
            with first:
                busy()
                run()
            with second:
                run()
        first.synchronize()
        second.synchronize()
        same(w.get(), _stepped(make, n, 2 * turns), f"{make.__name__} on two streams")


def workspace_after_its_stream_is_gone() -> None:
    """Streams are destroyed while they are busy, and their handles are given out again."""
    import cupy

    import gdgpu
    from gdgpu.samples import reduce

    G = _normal((ROWS, COLUMNS))
    batches = [G * np.float32(k + 1) for k in range(3 * reduce.STREAMS)]
    A, out = [cupy.asarray(batch) for batch in batches], [_zeros(COLUMNS) for _ in batches]
    busy = _busy()
    cupy.cuda.Device().synchronize()
    for batch, result in zip(A, out, strict=True):
        with cupy.cuda.Stream(non_blocking=True):
            busy()
            gdgpu.reduce_samples(batch, out=result)
    cupy.cuda.Device().synchronize()
    for k, batch in enumerate(batches):
        same(out[k].get(), gdgpu.reduce_samples(batch), f"the sum on stream {k}")


def torch_stream_without_a_warning() -> str | None:
    """A step of torch's tensors on a stream of torch's, where a warning is an error."""
    import gdgpu

    try:
        import torch
    except ImportError:
        torch = None
    if torch is None or not torch.cuda.is_available():
        return "skipped: no torch with CUDA"
    w, g = torch.zeros(1000, device="cuda"), torch.ones(1000, device="cuda")
    torch.cuda.synchronize()
    with warnings.catch_warnings(), torch.cuda.stream(torch.cuda.Stream()):
        warnings.filterwarnings("error", ".*[Ss]tream", DeprecationWarning)
        optimizer = gdgpu.Momentum(w, lr=0.1)
        optimizer.step(g)
        optimizer.bind(g)()
    torch.cuda.synchronize()
    same(w.cpu().numpy(), _stepped(gdgpu.Momentum, 1000, 2), "steps on a stream of torch's")
    return None


def counters_are_zero() -> None:
    """Of all workspaces that there are, whatever was launched before; and of a tall one."""
    import cupy

    import gdgpu
    from gdgpu import devices
    from gdgpu.kernels.backend.buffers import Counters

    run = gdgpu.Momentum(_zeros(COLUMNS), lr=0.1).bind_samples(cupy.asarray(_normal((ROWS, COLUMNS))))
    run()
    cupy.cuda.Device().synchronize()
    arrays = [c.array for c in gc.get_objects() if type(c) is Counters and c.array is not None]
    assert run and any(len(counters) for counters in arrays), "no counters were found"
    left = sum(int(np.count_nonzero(devices.on_host(counters))) for counters in arrays)
    assert left == 0, f"{left} counters are not 0 between launches"


HAZARDS = {
    check.__name__: check
    for check in (
        fences_over_many_launches,
        thread_without_a_context,
        graph_after_its_step_was_laid_out_again,
        graph_refuses_what_the_next_call_changes,
        pinned_memory,
        optimizer_on_two_streams,
        workspace_after_its_stream_is_gone,
        torch_stream_without_a_warning,
        counters_are_zero,
    )
}


def _normal(shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _zeros(shape):
    import cupy

    return cupy.zeros(shape, np.float32)


def _ones(shape):
    """Copied: CuPy would compile a kernel to fill them."""
    import cupy

    return cupy.asarray(np.ones(shape, np.float32))


def _busy():
    """The call that keeps CuPy's current stream busy for some milliseconds; nothing puts two of them in order."""
    import cupy

    source, target = (cupy.zeros(BUSY, np.uint8) for _ in range(2))

    def copy():
        for _ in range(10):
            target.data.copy_from_device_async(source.data, BUSY)

    return copy


def _captured(stream, call):
    stream.begin_capture()
    try:
        call()
    finally:
        graph = stream.end_capture()
    return graph


def _stepped(make, n, steps):
    """What becomes of n zeros in so many steps with gradients of 1, one after the other."""
    w, g = _zeros(n), _ones(n)
    run = make(w, lr=0.1).bind(g)
    for _ in range(steps):
        run()
    return w.get()


def same(actual, expected, what):
    different = int(np.count_nonzero(actual.view(np.int32) != expected.view(np.int32)))
    assert not different, f"{what}: {different} of {expected.size} numbers have other bits"
