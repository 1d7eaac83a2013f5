"""One optimizer, or one workspace, on several streams; CUDA graphs; contexts of threads: on a driver that records."""

import gc
import sys
import threading
import types
import warnings
import weakref

import numpy as np
import pytest

import gdgpu
from gdgpu.core import arrays
from gdgpu.kernels.backend import buffers, driver
from gdgpu.samples import reduce
from support import recording
from support.recording import row_of

pytestmark, stub = recording.pytestmark, recording.stub


def made(**hyper):
    """A small optimizer and its gradient."""
    return gdgpu.Momentum(np.zeros(4, np.float32), **{"lr": 0.1} | hyper), np.ones(4, np.float32)


def waits(stub, handle):
    """The handles of the streams that one has waited for."""
    return [what[1].ptr for what in stub.streams[handle].seen if what[0] == "wait"]


CALLS = {
    "step": lambda optimizer, g: optimizer.step(g),
    "step_samples": lambda optimizer, g: optimizer.step_samples(g[None]),
    "bind": lambda optimizer, g: optimizer.bind(g),
    "lr": lambda optimizer, g: setattr(optimizer, "lr", 0.5),
    "momentum": lambda optimizer, g: setattr(optimizer.groups[0], "momentum", 0.5),
    "nesterov": lambda optimizer, g: setattr(optimizer, "nesterov", not optimizer.nesterov),
    "state_dict": lambda optimizer, g: optimizer.state_dict(),
    "load_state_dict": lambda optimizer, g: optimizer.load_state_dict(made()[0].state_dict()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_on_another_stream_waits_for_the_one_before(call, stub):
    optimizer, g = made()
    stub.current = 12
    call(optimizer, g)
    call(optimizer, g)
    assert set(waits(stub, 12)) == {11}
    stub.current = 11
    call(optimizer, g)
    assert set(waits(stub, 11)) == {12}


def test_bound_steps_of_one_optimizer_wait_for_each_other_before_they_launch(stub):
    optimizer, g = made()
    runs = optimizer.bind(g), optimizer.bind_samples(g[None])
    for stub.current, run in zip((12, 12, 13, 12), (*runs, *runs), strict=True):
        launched = len(stub.launched)
        stub.launch, usual = (lambda *launch: stub.streams[stub.current].seen.append("launch")), stub.launch
        run()
        stub.launch = usual
        assert len(stub.launched) == launched + 1
    assert (waits(stub, 12), waits(stub, 13)) == ([11, 13], [12])


def test_a_stream_is_held_until_another_follows_so_that_its_handle_stays_its_own(stub):
    optimizer, g = made()
    stub.current = 12
    run = optimizer.bind(g)
    run()
    watched = weakref.ref(stub.streams.pop(12))
    gc.collect()
    assert watched() is not None
    stub.current = 13
    run()
    assert waits(stub, 13) == [12]
    gc.collect()
    assert watched().seen[-1][0] == "record"


def test_what_is_recorded_is_not_ordered_and_the_next_call_still_is(stub):
    optimizer, g = made()
    run = optimizer.bind(g)
    run()
    stub.current = 12
    stub.current_stream().capturing = True
    run()
    assert stub.streams[11].seen == stub.streams[12].seen == []
    stub.streams[12].capturing = False
    run()
    assert waits(stub, 12) == [11]


def test_a_graph_sees_numbers_and_flags_that_it_would_not_see_are_refused(stub):
    """Its replays read the scalars where they lie; what is compiled in, they would repeat."""
    optimizer, g = made()
    run = optimizer.bind(g)
    run()
    optimizer.nesterov = True  # before the capture
    run()
    stub.current_stream().capturing = True
    run()
    stub.current_stream().capturing = False
    (scalars,) = optimizer._engine.scalars.values()
    optimizer.momentum = 0.25
    optimizer.groups[0].weight_decay = 0.5
    assert np.asarray(scalars.values.array).tolist() == [[np.float32(0.1), 0.25, 0.5]]
    before = optimizer.state_dict(), repr(optimizer)
    for name in ("nesterov", "maximize"):
        with pytest.raises(RuntimeError, match=rf"\A{name}: [^\n]*CUDA graph has recorded[^\n]*\Z"):
            setattr(optimizer, name, not getattr(optimizer, name))
    assert repr((optimizer.state_dict(), repr(optimizer))) == repr(before)


def test_nobody_waits_for_a_stream_that_records(stub):
    optimizer, g = made()
    run = optimizer.bind(g)
    stub.streams[11].capturing, stub.current = True, 12
    with pytest.raises(RuntimeError, match="end the capture first"):
        run()
    assert not stub.launched and optimizer.steps == 0
    stub.streams[11].capturing = False
    run()
    assert waits(stub, 12) == [11]


@pytest.mark.parametrize("call", (CALLS["step"], CALLS["step_samples"]), ids=("step", "step_samples"))
def test_a_graph_captures_only_what_is_bound(call, stub):
    """The next step would rewrite the table that the graph reads."""
    optimizer, g = made()
    call(optimizer, g)
    stub.current_stream().capturing = True
    with pytest.raises(RuntimeError, match="bind this step before the capture"):
        call(optimizer, g)
    assert len(stub.launched) == 1 and optimizer.steps == 1


def test_a_graph_captures_no_reduction_with_a_shared_workspace(stub):
    G, out = np.ones((40, 3), np.float32), np.empty(3, np.float32)
    gdgpu.reduce_samples(G, out=out)
    sums = gdgpu.Accumulator(out)
    stub.current_stream().capturing = True
    for call in (lambda: gdgpu.reduce_samples(G, out=out), lambda: sums.add(G), sums.result):
        with pytest.raises(RuntimeError, match="CUDA graph"):
            call()
    assert len(stub.launched) == 1 and sums.count == 0


def test_a_graph_would_repeat_the_lr_of_a_function(stub):
    optimizer, g = made(lr=lambda steps: 0.1)
    run = optimizer.bind(g)
    run()
    stub.current_stream().capturing = True
    with pytest.raises(RuntimeError, match="repeat this step's lr"):
        run()
    assert len(stub.launched) == 1 and optimizer.steps == 1
    stub.current_stream().capturing = False
    run()
    assert optimizer.steps == 2


MODELS = {
    "linear": lambda: gdgpu.models.LinearRegression(2, device="cuda"),
    "mlp": lambda: gdgpu.models.MLP((2, 3, 1), loss="squared", device="cuda"),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_calls_of_a_model_wait_for_each_other(make, stub, monkeypatch):
    """They work in the same memory, so that a graph must not hold it."""
    monkeypatch.setattr(driver.api, "load", lambda cubin, name: (1, None))
    monkeypatch.setattr(driver.api, "launch", lambda *launch: None)
    model, X, t = make(), np.ones((5, 2), np.float32), np.ones(5, np.float32)
    for stub.current in (12, 13):
        model.gradient(X, t)
    assert (waits(stub, 12)[:1], waits(stub, 13)[:1]) == ([11], [12])
    stub.current_stream().capturing = True
    with pytest.raises(RuntimeError, match="CUDA graph"):
        model.gradient(X, t)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_reads_the_params_of_a_model_waits_for_its_steps(make, stub, monkeypatch):
    monkeypatch.setattr(driver.api, "load", lambda cubin, name: (1, None))
    monkeypatch.setattr(driver.api, "launch", lambda *launch: None)
    model, X, t = make(), np.ones((5, 2), np.float32), np.ones(5, np.float32)
    stub.current = 12
    model.gradient(X, t)
    calls = lambda: model.loss(X, t), lambda: model.predict(X), lambda: model.per_sample_gradients(X, t)
    for stub.current, call in enumerate(calls, 13):
        call()
        assert waits(stub, stub.current)[:1] == [stub.current - 1]


REFUSED = {name: CALLS[name] for name in ("bind", "lr", "state_dict", "load_state_dict")}
REFUSED["steps"] = lambda optimizer, g: setattr(optimizer, "steps", 5)


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_a_graph_would_repeat_or_never_run_is_refused(call, stub):
    """A copy that a graph records has not run when state_dict returns."""
    optimizer, g = gdgpu.Adam(np.zeros(4, np.float16), 0.1, rounding="stochastic"), np.ones(4, np.float16)
    optimizer.step(g)
    before = optimizer.steps, optimizer._engine.version, optimizer.lr
    if call is CALLS["load_state_dict"]:
        saved = optimizer.state_dict()
        call = lambda optimizer, g: optimizer.load_state_dict(saved)  # noqa: E731
    stub.current_stream().capturing = True
    with pytest.raises(RuntimeError, match="CUDA graph"):
        call(optimizer, g)
    stub.current_stream().capturing = False
    assert (optimizer.steps, optimizer._engine.version, optimizer.lr) == before


def test_a_fault_that_counters_show_is_raised_before_anything_is_launched(stub):
    optimizer, g = made()
    run = optimizer.bind(g)
    buffers._faults.append("two launches overlapped")
    with pytest.raises(RuntimeError, match="two launches overlapped"):
        run()
    assert not stub.launched and optimizer.steps == 0
    run()
    assert len(stub.launched) == optimizer.steps == 1


@pytest.mark.parametrize("later", ("dropped", "laid out again"))
def test_a_graph_reads_what_the_optimizer_keeps(later, stub):
    optimizer, g = made()
    run = optimizer.bind(g)
    launches, address, gradient = weakref.ref(run._launches), g.ctypes.data, weakref.ref(g)
    stub.current_stream().capturing = True
    run()
    stub.current_stream().capturing = False
    table = stub.launched[-1][3][0]
    if later == "dropped":
        del run, g
    else:
        optimizer.load_state_dict(optimizer.state_dict())
        run()
        assert stub.launched[-1][3][0] != table
        finish(stub)
    gc.collect()
    assert launches() is not None and row_of(table, 0, 5)[3] == address and gradient() is not None
    del optimizer
    if later == "dropped":
        gc.collect()
        assert launches() is None


def finish(stub):
    """All that is enqueued comes to its end."""
    for stream in stub.streams.values():
        for what, event in stream.seen:
            if what == "record":
                event.done = True


def test_what_a_launch_may_still_read_is_kept_until_it_has_run(stub):
    optimizer, g = made()
    run = optimizer.bind(g)
    run()
    watched, loaded = weakref.ref(run._launches), optimizer.state_dict()
    for _ in range(2):
        optimizer.load_state_dict(loaded)
        run()
        gc.collect()
        assert watched() is not None
    finish(stub)
    optimizer.load_state_dict(loaded)
    gc.collect()
    assert watched() is None


def test_a_few_streams_have_workspaces_and_others_wait_for_the_oldest(stub):
    G, out = np.ones((40, 3), np.float32), np.empty(3, np.float32)
    handles = range(20, 20 + reduce.STREAMS)
    for stub.current in (*handles, *handles):
        gdgpu.reduce_samples(G, out=out)
    assert not any(stub.streams[handle].seen for handle in handles)
    watched = weakref.ref(stub.streams.pop(20))
    gc.collect()
    assert watched() is not None  # no other stream can be given this handle
    for stub.current in (99, 20):
        gdgpu.reduce_samples(G, out=out)
    assert (waits(stub, 99), waits(stub, 20)) == ([20], [21])
    assert len(reduce._local.workspaces[("cuda", 0)]) == reduce.STREAMS
    assert len(stub.launched) == 2 * reduce.STREAMS + 2


def test_an_accumulator_waits_too(stub):
    G = np.ones((40, 3), np.float32)
    sums = gdgpu.Accumulator(G[0])
    for stub.current in (12, 13):
        sums.add(G)
    sums.result()
    stub.current = 11
    sums.reset()
    assert (waits(stub, 11), waits(stub, 12), waits(stub, 13)) == ([13], [11], [12])


COUNTED = {
    "samples": lambda w, G: gdgpu.Momentum(w, 0.1).bind_samples(G)(),
    "clipped samples": lambda w, G: gdgpu.Momentum(w, 0.1).bind_samples(G, max_norm=1.0)(),
    "clipped gradient": lambda w, G: gdgpu.Momentum(w, 0.1).bind(G[0], clip_norm=1.0)(),
    "norms of a rule": lambda w, G: gdgpu.LARS(w, 0.1).bind(G[0])(),
    "sums": lambda w, G: gdgpu.reduce_samples(G, out=w),
}


@pytest.mark.parametrize("call", COUNTED.values(), ids=COUNTED)
def test_whoever_has_counters_looks_after_them(call, stub, monkeypatch):
    looked = []
    monkeypatch.setattr(buffers.Counters, "launching", lambda counters: looked.append(counters))
    G = np.ones((40, 3), np.float32)
    monkeypatch.setattr(stub, "load", lambda cubin, name: (1, None))
    monkeypatch.setattr(stub, "launch", lambda *launch: stub.launched.append(launch))
    call(np.zeros(3, np.float32), G)
    assert looked


def cupy_of_no_device():
    """As much of CuPy as the driver's bindings take, and the contexts that were asked for."""
    contexts = []
    runtime = types.SimpleNamespace(
        getDevice=lambda: 3,
        streamIsCapturing=lambda handle: False,
        setDevice=lambda device: contexts.append((threading.current_thread().name, device)),
    )
    launch = types.SimpleNamespace(launchKernel=lambda *launch: None)
    stream = types.SimpleNamespace(ptr=7)
    cuda = types.SimpleNamespace(runtime=runtime, driver=launch, get_current_stream=lambda: stream, Event=object)
    return types.SimpleNamespace(cuda=cuda), contexts


def test_a_launch_gives_its_thread_a_context_once(monkeypatch):
    cupy, contexts = cupy_of_no_device()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    api = driver.Cupy()

    def work():
        assert [api.stream() for _ in range(3)] == [7, 7, 7]

    for name in ("one", "two"):
        thread = threading.Thread(target=work, name=name)
        thread.start()
        thread.join()
    assert contexts == [("one", 3), ("two", 3)]


class Entered:
    """A context that can be entered."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class OldStream(Entered):
    """A stream as CuPy 13 wraps it."""

    def __init__(self, ptr):
        self.ptr = ptr


class NewStream(OldStream):
    """As CuPy 14 does: from what speaks the protocol."""

    @classmethod
    def from_external(cls, stream):
        version, handle = stream.__cuda_stream__()
        assert version == 0
        return cls(handle)


def deprecated(ptr):
    warnings.warn("ExternalStream is deprecated", DeprecationWarning, stacklevel=2)


@pytest.mark.parametrize(
    ("stream", "external"), [(NewStream, deprecated), (OldStream, OldStream)], ids=("CuPy 14", "CuPy 13")
)
def test_a_stream_of_torch_is_taken_without_a_warning(stream, external, monkeypatch):
    cuda = types.SimpleNamespace(Stream=stream, ExternalStream=external)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    theirs = types.SimpleNamespace(cuda_stream=77)
    torch = types.SimpleNamespace(cuda=types.SimpleNamespace(current_stream=lambda device: theirs))
    device = Entered()
    device.id = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with arrays._on_stream_of(torch, device):
            assert arrays._of_cupy(theirs).ptr == 77
