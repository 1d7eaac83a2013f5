"""The profiling harness and its cases: how it times, what it counts, that peers do the same work. No time is tested."""

import itertools
from types import SimpleNamespace

import cases
import harness
import numpy as np
import peers
import pytest
import run
from cases.optimizers import OPTIMIZERS

import gdgpu
from gdgpu.optimizers.base import Optimizer

MATRICES = [kind for kind in cases.KINDS if kind not in OPTIMIZERS]
SMALL = (*(f"{kind}/3x1000" for kind in OPTIMIZERS), "momentum/7-mixed", *(f"{kind}/70x33" for kind in MATRICES))


class StubCuda:
    """cupy.cuda as a clock sees it: a device whose time is counted, with launches of calls that cost `cost` ms.

    A call that finds the device idle starts `latency` ms late.
    """

    latency, memory, l2 = 5.0, 1 << 40, 50 << 20

    def __init__(self):
        self.now, self.idle = 0.0, True
        self.runtime = SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda device: self.properties())

    def properties(self):
        return {"l2CacheSize": self.l2, "name": b"Stub 9000"}

    def launch(self, cost):
        self.now += cost + (self.latency if self.idle else 0)
        self.idle = False

    def Event(self):
        return StubEvent(self)

    def Device(self):
        return SimpleNamespace(synchronize=self.synchronize, mem_info=(self.memory, self.memory))

    def synchronize(self):
        self.idle = True

    def get_elapsed_time(self, start, end):
        return end.time - start.time


class StubEvent:
    def __init__(self, cuda):
        self.cuda, self.time = cuda, None

    def record(self):
        self.time = self.cuda.now

    def synchronize(self):
        self.cuda.synchronize()


@pytest.fixture
def cuda():
    return StubCuda()


def rotated(cuda, costs):
    """Calls that cost these ms, and the list of which of them were made."""
    made = []

    def call(k):
        made.append(k)
        cuda.launch(costs[k])

    return [lambda k=k: call(k) for k in range(len(costs))], made


@pytest.mark.parametrize("cost, batch", [(0.004, 256), (0.3, 4), (1.0, 1), (20.0, 1)])
def test_cuda_times_batches_behind_a_busy_device(cuda, cost, batch):
    clock = harness.CudaClock(cuda)
    cuda.latency = 0
    calls, made = rotated(cuda, [cost] * 3)
    assert clock.turn(calls) == pytest.approx([cost / 1e3] * clock.batches)
    assert batch * cost >= clock.batch_ms > batch * cost / 2 or batch == 1
    assert len(made) == (2 * batch - 1) + (1 + clock.batches) * batch  # to find the size, to warm, counted
    assert made == list(itertools.islice(itertools.cycle(range(3)), len(made)))


def test_what_an_idle_device_costs_is_not_counted(cuda):
    calls, _ = rotated(cuda, [2.0])
    assert harness.CudaClock(cuda).turn(calls) == pytest.approx([2e-3] * 10)


def test_cuda_host_time_is_taken_without_waiting(cuda, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(ticks))
    calls, made = rotated(cuda, [1.0, 1.0])
    idle = []
    calls.append(lambda: idle.append(cuda.idle))
    assert harness.CudaClock(cuda).host_seconds(calls, count=9) == 1
    assert made == [0, 1] * 3 and not any(idle) and cuda.idle


def test_cpu_counts_the_second_half_of_a_turn(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    costs = itertools.chain([5.0, 5.0], itertools.repeat(1.0))

    def call(k):
        made.append(k)
        now[0] += next(costs)

    made = []
    calls = [lambda k=k: call(k) for k in range(2)]
    assert harness.CpuClock(seconds=20.0).turn(calls) == [1.0] * 6  # of 12 calls, 5 + 5 + 10 x 1
    assert made == [0, 1] * 6


def test_contenders_take_turns():
    order = []

    class Clock:
        def turn(self, calls):
            order.append(calls)
            return [len(order)]

    turns = harness.interleave(Clock(), {"a": "A", "b": "B"}, rounds=3)
    assert order == list("ABABAB") and turns == {"a": [[1], [3], [5]], "b": [[2], [4], [6]]}


def test_a_ratio_is_of_turns_side_by_side():
    """A machine that is twice as slow from the second round on changes no ratio."""
    assert harness.ratios([[2, 2, 9], [4, 4]], [[3, 3, 3], [6, 6]]) == [1.5, 1.5]


@pytest.mark.parametrize(
    "l2, memory, nbytes, sets",
    [
        (50 << 20, 1 << 40, 1 << 33, 1),
        (50 << 20, 1 << 40, 32 << 20, 16),  # 256 MiB, and a call touches at least half of what it moves
        (128 << 20, 1 << 40, 32 << 20, 32),  # four times the L2
        (50 << 20, 1 << 30, 64 << 20, 3),  # what fits, with four contenders, in 80 % of the memory
        (50 << 20, 1 << 20, 1 << 30, 1),
        (50 << 20, 1 << 40, 1000, harness.MAX_SETS),
    ],
)
def test_sets_are_out_of_reach_of_the_cache(cuda, l2, memory, nbytes, sets):
    cuda.l2, cuda.memory = l2, memory
    assert harness.sets_of(harness.CudaClock(cuda), nbytes, 4) == sets


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("nbytes", [2, 10, 5 << 20])
def test_copy_reads_half_and_writes_half(nbytes, threads, use_threads):
    use_threads(threads)
    copy = harness.CpuClock().copy(nbytes)
    source, target = copy.args[1]
    source[:] = np.random.default_rng(0).integers(1, 255, source.size)
    copy()
    assert source.nbytes + target.nbytes == nbytes and (source == target).all()


# What a call of float32 and of bfloat16 must move, by the formulas of the design: 20 bytes a parameter, …
BYTES = {
    "gradient_descent/10": (10 * 12, 10 * 6),
    "adam_amsgrad/10": (10 * 36, 10 * (6 + 24)),
    "momentum_g16/10": (10 * 18, 10 * (6 + 8)),
    "momentum_8bit_g16/1280": (1280 * 12 + 2 * 5 * 4, 1280 * 8 + 2 * 5 * 4),  # a scale for every 256
    "adam_16bit/10": (10 * 20, 10 * (6 + 8)),
    "lars/10": (10 * 28, 10 * (10 + 8)),
    "lamb/10": (10 * 40, 10 * (8 + 24)),
    "momentum/3x1000": (3000 * 20, 3000 * (6 + 8)),
    "adam/3x1000": (3000 * 28, 3000 * (6 + 16)),
    "reduce/70x33": (4 * 71 * 33, 2 * 70 * 33 + 4 * 33),
    "reduce_update/70x33": (4 * 70 * 33 + 16 * 33, 2 * 70 * 33 + 12 * 33),
    "norms/70x33": (4 * 70 * 33 + 4 * 70, 2 * 70 * 33 + 4 * 70),
    "clip_update/70x33": (4 * 70 * 33 + 16 * 33, 2 * 70 * 33 + 12 * 33),
    "statistics/70x33": (4 * 70 * 33 + 16 * 33, 2 * 70 * 33 + 16 * 33),
    "trimmed_mean/70x33": (4 * 71 * 33, 2 * 70 * 33 + 4 * 33),
}
MODEL_BYTES = {  # in float32; targets are float32 or int64
    "linear_gradient/70x33": 4 * 70 * 34 + 2 * 4 * 33,
    "softmax_gradient/70x33": 4 * 70 * 33 + 8 * 70 + 2 * 4 * 330,
    "softmax_gradient_bytes/70x33": 70 * 33 + 8 * 70 + 2 * 4 * 330,
    "logistic_epoch/70x33": 4 * 70 * 33 + 8 * 70,
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_a_case_must_move(name):
    found = [cases.find(name).problem(peers.Arrays(np, dtype))[0] for dtype in ("float32", "bfloat16")]
    assert tuple(found) == BYTES[name]
    assert {cases.find(name).family for name in (*BYTES, *MODEL_BYTES)} == set(cases.FAMILIES)


@pytest.mark.parametrize("name", MODEL_BYTES)
def test_bytes_that_a_case_of_models_must_move(name):
    assert cases.find(name).problem(peers.Arrays(np, "float32"))[0] == MODEL_BYTES[name]
    with pytest.raises(ValueError, match=r"^dtype: models are measured in float32 and float64, got bfloat16"):
        cases.find(name).problem(peers.Arrays(np, "bfloat16"))


def test_every_optimizer_is_measured():
    public = [getattr(gdgpu, name) for name in gdgpu.__all__]
    classes = {c.__name__ for c in public if isinstance(c, type) and issubclass(c, Optimizer)}
    assert {optimizer.ours for optimizer in OPTIMIZERS.values()} == classes - {"Optimizer"}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_states_are_counted_as_the_optimizer_keeps_them(kind):
    row = OPTIMIZERS[kind]
    optimizer = getattr(gdgpu, row.ours)(np.zeros(3, np.float32), **row.hyper, **row.storage)
    assert row.states == len(optimizer.state_dict()["state"])


class Recorded(peers.Arrays):
    """Arrays that remember the parameters that they made, and the last allocation."""

    params, gradients = (), ()

    def parameters(self, *args):
        self.params, self.gradients = super().parameters(*args)
        return self.params, self.gradients

    def normal(self, *shape):
        self.last = super().normal(*shape)
        return self.last


class Kernel:
    """cupy.ElementwiseKernel on NumPy arrays: its operations are Python too."""

    def __init__(self, inputs, outputs, operation, name):
        self.names = [[part.split()[-1] for part in text.split(",")] for text in (inputs, outputs)]
        self.operation = operation

    def __call__(self, *args):
        inputs, outputs = self.names
        scope = dict(zip(inputs + outputs, args, strict=True)) | {"A": np.float64, "sqrt": np.sqrt}
        exec("\n".join(part.strip() for part in self.operation.split(";")), scope)
        for name, array in zip(outputs, args[len(inputs) :], strict=True):
            array[...] = scope[name]


def outcome(name, contender, dtype="float64"):
    """What a contender leaves behind after three calls: its parameters, or the sum that it returns."""
    arrays = Recorded(np, dtype)
    call = cases.find(name).problem(arrays)[1][contender]()
    for _ in range(3):
        result = call()
        for g in arrays.gradients:
            g *= -0.3  # the same gradient again and again would hide Adam's decay rates
    if cases.find(name).family in ("update", "fused", "clip"):
        return arrays.params or [arrays.last]
    return [np.asarray(array) for array in ([result] if hasattr(result, "ndim") else result)]


@pytest.fixture
def uncompiled(monkeypatch):
    """What torch.compile would get runs as it is."""
    caches = (peers._compiled_step, peers.compiled_sum)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(peers, "_compile", lambda function: function)
    monkeypatch.setitem(
        OPTIMIZERS["adam"].functional, "capturable", False
    )  # which on the CPU only compiled code may be
    yield
    for cache in caches:
        cache.cache_clear()


def pairs(leave_out):
    """(case, peer) of the small cases."""
    leave_out = "gdgpu", "sklearn", "sklearn_fit", *leave_out  # scikit-learn's steps are of single samples
    arrays = peers.Arrays(np, "float64")
    found = {name: cases.find(name).problem(arrays)[1] for name in SMALL}
    return [(name, peer) for name, makers in found.items() for peer in makers if peer not in leave_out]


def nearly(name):
    """Whether torch's optimizer is another one."""
    return "nearest" in (cases.find(name).torch or "")


@pytest.mark.parametrize("name, peer", [pair for pair in pairs(("read", *cases.GDGPU_PEERS)) if not nearly(pair[0])])
def test_peers_do_the_same_work(name, peer, monkeypatch, uncompiled):
    if peer.startswith("torch"):
        pytest.importorskip("torch")
    if peer == "cupy":
        monkeypatch.setattr(pytest.importorskip("cupy"), "ElementwiseKernel", Kernel)
    monkeypatch.setattr(cases, "MIXED", 5000)
    for ours, theirs in zip(outcome(name, "gdgpu"), outcome(name, peer), strict=True):
        # the absolute one is for torch's NAdam, which keeps a product in float32
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name, peer", [(name, peer) for name, peer in pairs(("read",)) if peer in cases.GDGPU_PEERS])
def test_fewer_bytes_are_compared_with_the_usual_ones(name, peer):
    """Nearly the same work, and not the very same."""
    ours, theirs = (outcome(name, contender, "float32")[0] for contender in ("gdgpu", peer))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-3)
    assert (theirs != ours).any()


@pytest.mark.parametrize(
    "kind, label", [("momentum", "SGD, fused"), ("rmsprop", "RMSprop"), ("lion", "SGD, fused, the nearest")]
)
def test_the_report_says_what_torch_takes_part_with(kind, label):
    assert cases.find(f"{kind}/9").torch == label


@pytest.mark.parametrize(
    "kind, size, expected",
    [
        ("momentum", "50e6", [50_000_000]),
        ("momentum", "1x2^28", [1 << 28]),
        ("adam", "3x1024", [1024] * 3),
        ("reduce", "2^20x64", (1 << 20, 64)),
        ("reduce_update", "5x1e3", (5, 1000)),
    ],
)
def test_sizes(kind, size, expected):
    assert cases.parse_size(kind, size) == expected


def test_mixed_tensors_are_always_the_same_and_of_all_sizes():
    sizes = cases.parse_size("momentum", "1000-mixed")
    assert len(sizes) == 1000 and sum(sizes) == 1 << 26
    assert min(sizes) == 1 and max(sizes) > 1_000_000
    assert sizes == cases.parse_size("momentum", "1000-mixed")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_are_chosen_by_family_kind_or_name(device):
    table = [name for name, case in cases.CASES.items() if device in case.devices]
    assert sorted(cases.select((), None, device)) == sorted(cases.select(cases.FAMILIES, None, device)) == sorted(table)
    assert cases.select(["fused"], None, device) == [name for name in table if name.startswith("reduce_update/")]
    assert cases.select(["reduce/5x7", "reduce/5x7"], None, device) == ["reduce/5x7"]
    both = ["momentum/2x3", "momentum/9", "adam/2x3", "adam/9"]
    assert cases.select(["momentum", "adam"], ["2x3", "9"], device) == both
    assert cases.select(["update"], ["9"], device) == [f"{kind}/9" for kind in OPTIMIZERS]


def test_a_gpu_row_counts_ratios_and_limits(cuda, monkeypatch):
    """Three contenders of known cost on the stub; a slower peer gives a ratio above 1."""
    costs = {"gdgpu": 2.0, "copy": 1.5, "cupy": 3.0, "torch": 1.0}

    class Clock(harness.CudaClock):
        def copy(self, nbytes):
            return lambda: cuda.launch(costs["copy"])

        def release(self):
            pass

    makers = {name: lambda cost=cost: lambda: cuda.launch(cost) for name, cost in costs.items()}
    monkeypatch.setattr(harness, "clock", lambda device: Clock(cuda, np))
    monkeypatch.setattr(run, "_present", lambda peers, device, progress: peers)
    monkeypatch.setattr(cases.Case, "problem", lambda case, arrays: (8_000_000, makers))
    name = "reduce/65536x784"
    (row,) = run.measure([name], "cuda", ["cupy", "torch"])
    assert (row["median_ms"], row["gbs"], row["share_of_copy"]) == pytest.approx((2.0, 4.0, 0.75))
    assert row["peers"] == pytest.approx({"cupy": 1.5, "torch": 0.5})
    assert row["host_us"] > 0 and row["sets"] == 68
    assert row["limit"] == 0.9 and row["peer_limit"] == {"torch": 1.0, "torch_compile": 1.0, "cupy": 3.0}
    (other,) = run.measure([name], "cuda", [], dtype="float16")
    assert other["limit"] is None and other["peer_limit"] is None


def test_the_simulator_is_not_timed(monkeypatch):
    monkeypatch.setattr(harness.devices, "resolve", lambda device: SimpleNamespace(name="cuda"))
    monkeypatch.setattr(harness.devices, "simulated", lambda: True)
    with pytest.raises(ValueError, match="simulator"):
        harness.clock("cuda")
