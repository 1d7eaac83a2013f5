"""Streams: steps and reductions take their place in them, share no workspace, and do not wait for the device."""

import threading
import warnings

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.backend import buffers
from gdgpu.optimizers import launches
from gdgpu.samples import reduce
from support.gpu import bound, cupy, every_binding, every_optimizer, needs_gpu, on_cpu
from support.references import assert_same_bits, samples

pytestmark = needs_gpu


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
