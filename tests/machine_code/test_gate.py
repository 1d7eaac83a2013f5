"""The machine code of every CUDA kernel, with no GPU, and the gate that it must pass: does it see bad code?"""

import importlib.util
import itertools
import re

import numpy as np
import pytest

from gdgpu import machine_code
from gdgpu.kernels.backend.limits import Limits
from gdgpu.kernels.catalogue import DTYPES, ROWS
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.rules.rule import Rule
from gdgpu.kernels.rules.table import RULES
from gdgpu.machine_code import gate
from gdgpu.machine_code.sass import ARRIVAL, FLOAT64
from support.compiling import compiles
from support.covering import some, usual

EASY = Limits(threads=256, in_flight=0)
STRIDE = 4 * 256 * 100  # elements between the vectors of a thread, in the kernels below


# Flags change a rule's arithmetic alone, and a reduction adds the same to every rule: of those some.
FLAGS = {flag for rule in RULES.values() for flag in rule.flags}
REDUCED = "gradient_descent", "momentum", "momentum_weighted", "adam", "adam_amsgrad"


def usual_pairs():
    """Every rule, family and dtype of a family on one architecture, and a row of each family on all of them."""
    rows = {
        (row.name, (row.family, row.dtype)): row
        for row in ROWS
        if row.name.rpartition("_")[2] not in FLAGS
        and (row.family != "fused" or row.name.removeprefix("reduce_update_") in REDUCED)
    }
    families = {row.family: row for row in reversed(ROWS) if row.dtype == "float32"}
    pairs = [(rows[key], gate.COMPARED) for key in some(rows, together=1)]
    return [*pairs, *itertools.product(families.values(), machine_code.ARCHITECTURES)]


PAIRS = list(itertools.product(ROWS, machine_code.ARCHITECTURES))


@pytest.fixture(scope="module")
def reports(request):
    """Futures of the reports that the chosen tests ask for, all of them under way at once."""
    chosen = [i.callspec.params for i in request.session.items if getattr(i, "originalname", "") == "test_kernel"]
    architectures = {}
    for params in chosen:
        architectures.setdefault(params["row"], []).append(params["arch"])
    jobs, pool = machine_code.inspect_rows(architectures)
    yield jobs
    pool.shutdown(cancel_futures=True)


@compiles
@pytest.mark.parametrize(("row", "arch"), usual(PAIRS, usual_pairs()), ids=lambda value: getattr(value, "label", value))
def test_kernel(row, arch, reports):
    report = reports[row].result()[arch]
    assert report.code.having(FLOAT64) or row.dtype != "float64"  # the kernel for this dtype, and it was disassembled
    found = machine_code.check(report, row.limits)
    assert not found, "\n".join(found)


def test_catalogue_has_every_rule_and_dtype():
    labels = {row.label for row in ROWS}
    assert len(labels) == len(ROWS)
    families = {*RULES, "reduce", "reduce_weighted", "accumulate", "accumulate_weighted", "collect"}
    families |= {"reduce_update_momentum", "reduce_update_adam", "reduce_update_momentum_weighted"}
    families |= {"lars_norms", "lamb_norms", "momentum_joint_norm"}
    assert {f"{name}.{dtype}" for name in families for dtype in DTYPES} <= labels
    fused = {f"reduce_update_{rule.name}" for rule in RULES.values() if not rule.norm}
    variants = {"momentum_nesterov", "adam_codes", "momentum_step_options"}
    assert {f"{name}.float32" for name in fused | variants} <= labels


def bad_kernel(body):
    """A Kernel that walks over w and g in steps of `body(w, g, i)`."""
    from gdgpu.kernels.backend.cuda import cuda, jit

    @jit("int64 int64 int64", body.__name__)
    def kernel(w, g, n):
        i = np.int64(cuda.threadIdx.x) * 4
        while i + 4 <= n:
            body(w, g, i)
            i += STRIDE

    return kernel


def device_functions():
    """The bodies, by name; made where numba-cuda is at hand."""
    from gdgpu.kernels.backend.cuda import add_atomic, cuda, device, load, store

    load4, store4, load1, store1 = load("float32", 4), store("float32", 4), load("float32"), store("float32")
    load64, tenth = load("float32", 64), np.float64(0.1)

    @device
    def good(w, g, i):
        a, b = load4(w, i), load4(g, i)
        store4(w, i, (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]))

    @device
    def float64_literal(w, g, i):
        a, b = load4(w, i), load4(g, i)
        store4(w, i, (np.float32(a[0] + tenth * b[0]), a[1] + b[1], a[2] + b[2], a[3] + b[3]))

    @device
    def scalar_loads(w, g, i):
        store1(w, i, load1(w, i) + load1(g, i))

    @device
    def scalar_load_among_vectors(w, g, i):
        a, b = load4(w, i), load1(g, i)
        store4(w, i, (a[0] + b, a[1] + b, a[2] + b, a[3] + b))

    @device
    def scalar_store(w, g, i):
        a = load4(g, i)
        store1(w, i, a[0] + a[1] + a[2] + a[3])

    @device
    def many_registers(w, g, i):
        a = load64(g, i)
        b = load4(w, i)
        for k in range(64):
            b = (b[1], b[2], b[3], b[0] * a[k])
        store4(w, i, b)

    @device
    def much_shared_memory(w, g, i):
        shared = cuda.shared.array(11_000, np.float32)
        a = load4(w, i)
        shared[cuda.threadIdx.x] = a[0]
        cuda.syncthreads()
        b = shared[i & 255]
        store4(w, i, (b, a[1], a[2], a[3]))

    @device
    def float_atomic(w, g, i):
        shared = cuda.shared.array(1, np.float32)
        a = load4(w, i)
        cuda.atomic.add(shared, 0, a[0])
        store4(w, i, (a[1], shared[0], a[2], a[3]))

    @device
    def arrival_between_fences(w, g, i):
        a = load4(w, i)
        store4(w, i, (a[1], a[0], a[2], a[3]))
        cuda.threadfence()
        add_atomic(g, np.int32(1))
        cuda.threadfence()

    @device
    def no_fence_before(w, g, i):
        a = load4(w, i)
        store4(w, i, (a[1], a[0], a[2], a[3]))
        add_atomic(g, np.int32(1))
        cuda.threadfence()

    @device
    def no_fence_after(w, g, i):
        a = load4(w, i)
        store4(w, i, (a[1], a[0], a[2], a[3]))
        cuda.threadfence()
        add_atomic(g, np.int32(1))

    return {f.py_func.__name__: f for f in locals().values() if hasattr(f, "py_func")}


def contracted(w, g, lr):
    return w - lr * g


def findings(body, limits=EASY, **options):
    """The report of a kernel made from a body, and the gate's findings on sm_90."""
    report = machine_code.inspect(bad_kernel(device_functions()[body]), "sm_90", body, **options)
    return report, machine_code.check(report, limits)


@compiles
def test_a_good_kernel_has_no_findings():
    report, found = findings("good", Limits(threads=2048))
    assert found == []
    assert report.in_flight == 2048 * 32  # two vectors of 16 bytes


@compiles
def test_an_arrival_between_fences_is_no_finding():
    report, found = findings("arrival_between_fences")
    assert found == [] and report.code.having(ARRIVAL)


BAD = {
    "float64_literal": (r"float64 arithmetic: /\*[0-9a-f]{4}\*/ .*\bD(FMA|MUL)\b", {}),
    "scalar_loads": (r"not 128 bits wide in the main loop: /\*[0-9a-f]{4}\*/ LDG\.E R", {}),
    "scalar_load_among_vectors": (r"not 128 bits wide in the main loop: /\*[0-9a-f]{4}\*/ LDG\.E R\d+", {}),
    "scalar_store": (r"not 128 bits wide in the main loop: /\*[0-9a-f]{4}\*/ STG\.E ", {}),
    "many_registers": (r"\d+ threads resident, fewer than 1024, bound by registers .*: /\*[0-9a-f]{4}\*/ ", {}),
    "much_shared_memory": (r"1280 .* than 2048, bound by shared memory .*44000 .*: /\*.* (STS|LDS)", {"threads": 2048}),
    "no_fence_before": (r"no fence before it, or none after: /\*[0-9a-f]{4}\*/ .*(ATOM|RED)", {}),
    "no_fence_after": (r"no fence before it, or none after: /\*[0-9a-f]{4}\*/ .*(ATOM|RED)", {}),
    "float_atomic": (r"atomics of floats: /\*[0-9a-f]{4}\*/ .*ATOMS\.CAST", {}),
}


@compiles
@pytest.mark.parametrize("body", BAD)
def test_a_bad_kernel_is_reported_with_the_instruction(body):
    expected, limits = BAD[body]
    _, found = findings(body, Limits(**{"threads": 1024, "in_flight": 0} | limits))
    assert len(found) == 1 and found[0].startswith(f"{body}.float32.sm_90: "), found
    assert "\n" not in found[0]
    assert_matches(expected, found[0])


def assert_matches(pattern, text):
    assert re.search(pattern, text), text


@compiles
def test_spills_are_reported():
    row = next(row for row in ROWS if row.label == "momentum.bfloat16")
    options = ("--maxrregcount=24",)
    report = machine_code.inspect(row.kernel, "sm_90", row.name, row.dtype, options=options)
    (found,) = machine_code.check(report, EASY)
    assert report.spilled > 0
    assert_matches(r"^momentum\.bfloat16\.sm_90: \d+ bytes spilled, \d+ bytes of stack.*: /\*....\*/ .*STL", found)


@compiles
def test_nothing_is_contracted_unless_that_is_switched_on_and_then_it_is_reported(monkeypatch):
    kernel = update.kernel("cuda", Rule(contracted), (), ("float32", "float32"))
    assert machine_code.check(machine_code.inspect(kernel, "sm_90"), EASY) == []
    monkeypatch.setattr("gdgpu.kernels.backend.linking.CONTRACTION", "-fma=1")
    report = machine_code.inspect(kernel, "sm_90")
    (found,) = machine_code.check(report, EASY)
    assert_matches(r"^kernel\.float32\.sm_90: contracted, unlike with --fmad=false: /\*....\*/ .*FFMA R", found)


@compiles
def test_too_few_bytes_in_flight_are_reported_with_the_instruction_that_waits():
    report, found = findings("good", Limits(threads=1024, in_flight=1 << 20))
    assert report.in_flight == 65_536
    assert_matches(r"65536 bytes in flight, fewer than 1048576: 2048 threads with 32 bytes each .*LDG.*FADD", found[0])
    assert len(found) == 1


@compiles
def test_limits_may_allow_float64_and_no_main_loop():
    report, found = findings("float64_literal", Limits(threads=256, float64=True, streams=False))
    assert report.row()["float64_instructions"] > 0 and found == []


@compiles
def test_without_a_disassembler_there_are_resources_only():
    report, found = findings("good", with_code=False)
    row = report.row()
    assert row["registers"] > 0 and row["threads"] == 2048
    assert row["load_bits"] is row["float64_instructions"] is row["bytes_in_flight"] is None
    assert found == []


def test_a_missing_tool_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    machine_code.tool.cache_clear()
    with pytest.raises(machine_code.MissingToolError, match=r"^nvdisasm is not installed: pip install nvidia-cuda-nvd"):
        machine_code.tool("nvdisasm")
    machine_code.tool.cache_clear()
