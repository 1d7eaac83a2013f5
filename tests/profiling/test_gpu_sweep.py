"""The sweep over variants of CUDA kernels, with no GPU: its table, what variants change, lines, restarts, the best."""

import json
from contextlib import suppress

import cases
import gpu_prepare
import numpy as np
import pytest
from gpu import process

from gdgpu.kernels.backend import generated, geometry
from gdgpu.kernels.reduction import plan, reduce
from gdgpu.machine_code.tools import assembled

NEEDED = "gdgpu.kernels.backend.cuda", "gpu.hints", "gpu.sweep", "gpu.variants", "gpu.work"
target, gpu_hints, gpu_sweep, gpu_variants, gpu_work = (
    pytest.importorskip(name, reason="needs numba-cuda: install gdgpu[test]") for name in NEEDED
)
pytestmark = pytest.mark.skipif(geometry.SIMULATED, reason="the simulator compiles nothing")

USUAL, Variant = gpu_variants.USUAL, gpu_variants.Variant
PLANNED = ("chunk", "block", "blocks")  # words of variants that only plan otherwise, but for models' blocks
ROWS = "reduce/64x784"


def test_every_case_is_measured_as_it_is_first_and_under_names_of_their_own():
    assert gpu_variants.TABLE.keys() < cases.CASES.keys()
    for case, variants in gpu_variants.TABLE.items():
        names = [variant.name for variant in variants]
        assert variants[0] == Variant(USUAL) and len(set(names)) == len(names) > 1, case
        assert cases.find(case).kind in gpu_variants.BUILDERS
        for variant in variants[1:]:
            assert variant.changes or variant.hint in gpu_hints.HINTS
            assert all(getattr(module, name) != value for module, name, value in variant.changes), variant


@pytest.mark.parametrize("fails", (False, True), ids=("left", "raised"))
def test_what_a_variant_changes_is_restored(fails):
    def state():
        return [getattr(*name) for name in names]

    variants = {v.name: v for _, v in gpu_variants.pairs()}.values()
    names = {change[:2] for v in variants for change in v.changes}
    names |= {(target, "load"), (target, "store"), (generated, "_fingerprint")}
    names = list(names)
    before = state()
    for variant in variants:
        with suppress(ZeroDivisionError), variant.applied():
            assert all(getattr(module, name) == value for module, name, value in variant.changes)
            assert (target.load is before[names.index((target, "load"))]) == (variant.hint is None)
            if fails:
                raise ZeroDivisionError
        assert state() == before, variant


def test_a_constant_that_there_is_not_is_an_error_and_makes_none():
    with pytest.raises(AttributeError), Variant("", ((plan, "CUDA_BLOCKS", 1), (plan, "BLOKS", 1))).applied():
        pass
    assert plan.CUDA_BLOCKS != 1 and not hasattr(plan, "BLOKS")


def test_what_was_kept_of_another_variant_is_forgotten():
    few = Variant("", ((plan, "CUDA_BLOCKS", 1),))
    usual = plan.split_cuda((1 << 16,), 1024, 4, 4, 256)
    with few.applied():
        assert plan.split_cuda((1 << 16,), 1024, 4, 4, 256) != usual
    assert plan.split_cuda((1 << 16,), 1024, 4, 4, 256) == usual


SOME = (
    "momentum/100x65536",
    "reduce/65536x784",
    "norms/65536x784",
    "clip_update/65536x784",
    "linear_gradient/40000x10000",
)


@pytest.mark.parametrize("case", SOME)
def test_only_what_stands_in_a_kernel_makes_another_kernel(case, tmp_path):
    """Blocks and chunks are planned on the host, but for those of models."""

    def asked(variant):
        work = {f"sweep/{variant.name}": lambda: gpu_work._variant(cases.find(case), variant)}
        return gpu_work.launch(work, (9, 0), 1, gpu_prepare.environment(tmp_path), compiles=False).asked

    usual, *others = gpu_variants.TABLE[case]
    as_it_is = asked(usual)
    for variant in others:
        is_planned = variant.hint is None and any(word in variant.name.split() for word in PLANNED)
        is_planned &= not case.startswith("linear_gradient")
        assert (asked(variant) == as_it_is) == is_planned, variant


def test_a_hint_has_a_kernel_of_its_own_that_carries_it():
    """Its text is that of any other: only the instructions differ."""
    code = {}
    for variant in (Variant(USUAL), Variant("hinted", (), "streaming")):
        with variant.applied():
            kernel = reduce.kernel("cuda", "float32", False)
            code[variant.name] = assembled(*kernel.link()).instructions, kernel.code
    (plain, name), (hinted, other) = code.values()
    assert name != other and plain != hinted


class Clock:
    """Times nothing."""

    xp, cold_bytes = np, 0

    def free_bytes(self):
        return 1 << 40

    def copy(self, nbytes):
        return lambda: None

    def turn(self, calls):
        return [2e-6 if calls[0].__name__ == "<lambda>" else calls[0].seconds]

    def warm(self, calls):
        for call in calls:
            call()

    def release(self):
        pass


def test_a_variant_is_measured_as_it_says_and_beside_a_copy(monkeypatch):
    """Four variants, which take 4, 2, 1 and 8 us; the third has other bits, the last fails."""
    found = {USUAL: (4e-6, 1), "same": (2e-6, 1), "other": (1e-6, 2), "broken": (8e-6, 3)}
    variants = [Variant(name, ((plan, "CUDA_BLOCKS", k),) if k else ()) for k, name in enumerate(found)]

    def built(arrays, case):
        name = list(found)[plan.CUDA_BLOCKS if plan.CUDA_BLOCKS < 4 else 0]

        def call():
            if name == "broken":
                raise ValueError("does not fit")

        call.seconds, bits = found[name]
        return call, lambda: np.array([bits])

    monkeypatch.setattr(gpu_sweep.harness, "clock", lambda device: Clock())
    monkeypatch.setattr(gpu_variants, "TABLE", {ROWS: variants})
    monkeypatch.setattr(gpu_variants, "built", built)
    bench = gpu_sweep.Bench()
    rows = [bench.measured(f"{ROWS}, {name}") for name in (USUAL, "same", "other")]
    assert [round(row["us"], 3) for row in rows] == [4, 2, 1] and [row["share"] for row in rows] == [0.5, 1, 2]
    assert rows[0]["bits"] == rows[1]["bits"] != rows[2]["bits"]
    with pytest.raises(ValueError, match="does not fit"):
        bench.measured(f"{ROWS}, broken")
    assert plan.CUDA_BLOCKS > 4


LABELS = [gpu_variants.label(*pair) for pair in gpu_variants.pairs(["norms/65536"])]


@pytest.fixture
def run(stub, hanging, tmp_path, capsys, monkeypatch):
    """run(*options, **asked): (exit status, {label: row}, other lines) of a sweep over stubs, see gpu_stub.py."""
    monkeypatch.setattr(gpu_sweep.devices, "resolve", lambda device: None)
    monkeypatch.setattr(gpu_sweep.signal, "signal", lambda *_: None)
    hanging(process.LIMIT + 1)
    monkeypatch.delenv("GDGPU_CACHE_DIR", raising=False)

    def go(*options, **asked):
        stub(**asked)
        capsys.readouterr()
        status = gpu_sweep.main(["--only", "norms/65536", *map(str, options)])
        lines = capsys.readouterr().out.splitlines()
        rows = [json.loads(line) for line in lines if line[0] == "{"]
        return status, {row.pop("case"): row for row in rows}, [line for line in lines if line[0] != "{"]

    return go


def test_a_line_for_each_variant_in_order_and_the_best_last(run, tmp_path):
    asked = {LABELS[0]: {"us": 4.0, "share": 0.5, "bits": "0"}, LABELS[3]: {"us": 1.0, "share": 2.0, "bits": "1"}}
    asked |= {LABELS[1]: {"error": "ValueError: does not fit"}, LABELS[4]: "hang", LABELS[6]: "die"}
    status, rows, said = run("--out", tmp_path / "sweep.jsonl", **asked)
    assert status == 0 and list(rows) == LABELS
    assert [label for label, row in rows.items() if "error" in row] == [LABELS[k] for k in (1, 4, 6)]
    name, (case, variant) = LABELS[3], LABELS[3].split(", ")
    figures = ["1.0", "4.0", "2.000", "+300.0", "%", "other", "bits"]
    assert said[1].split() == [case, *variant.split(), *figures] and name in rows
    assert said[-3:] == [
        f"{LABELS[1]}: ValueError: does not fit",
        f"{LABELS[4]}: cut after 25 s",
        f"{LABELS[6]}: killed by SIGSEGV",
    ]
    assert [json.loads(line)["case"] for line in (tmp_path / "sweep.jsonl").read_text().splitlines()] == LABELS
    assert run("--best", tmp_path / "sweep.jsonl") == (0, {}, said)


def test_what_was_cut_in_a_file_does_not_count(run, tmp_path):
    path = tmp_path / "sweep.jsonl"
    run("--out", path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:40])
    assert list(gpu_sweep.read(path)) == LABELS[:2]


def test_a_late_hour_ends_it_with_the_best_so_far(run):
    status, rows, said = run("--seconds", 1.5, pause=0.4)
    assert status == 1 and 0 < len(rows) < len(LABELS) and said[1].startswith("norms/65536x784")


def test_a_lost_gpu_ends_it(run):
    status, rows, _ = run(**{label: {"error": "an illegal address"} for label in LABELS})
    assert status == 1 and len(rows) == 5


def test_variants_that_were_not_prepared_are_named_and_not_tried(run, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text(json.dumps({"left_out": {f"sweep/{LABELS[1]}": "48 bytes spilled"}}))
    (tmp_path / "kernels").mkdir()
    monkeypatch.setenv("GDGPU_CACHE_DIR", str(tmp_path / "kernels"))
    status, rows, said = run(**{LABELS[1]: "hang"})
    assert status == 0 and rows[LABELS[1]] == {"left_out": "48 bytes spilled"} and len(rows) == len(LABELS)
    assert said[-1] == f"{LABELS[1]}: 48 bytes spilled"


def test_the_list_is_in_order_and_only_chooses_cases(capsys):
    gpu_sweep.main(["--list"])
    listed = capsys.readouterr().out.splitlines()
    assert listed == [gpu_variants.label(*pair) for pair in gpu_variants.pairs()]
    assert [gpu_variants.label(*gpu_variants.find(label)) for label in listed] == listed
    gpu_sweep.main(["--list", "--only", "norms", "softmax"])
    some = capsys.readouterr().out.splitlines()
    assert some and some == [line for line in listed if line.startswith(("norms", "softmax"))]


@pytest.mark.parametrize("options", ("--only nothing", "--seconds 0", "--best none.jsonl", "--out none/none"))
def test_bad_options_are_refused_in_one_line(options, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_sweep.devices, "resolve", lambda device: None)
    with pytest.raises(SystemExit) as leaving:
        gpu_sweep.main(options.split())
    err = capsys.readouterr().err
    assert leaving.value.code == 2 and err.count("\n") == 1 and err.startswith("profiling/gpu_sweep.py: ")


def test_a_table_of_several_cases_has_one_best_for_all():
    """Of what was measured on all of them: a gain on one may be a loss on another."""

    def rows(case, **times):
        return {f"{case}, {k.replace('_', ' ')}": {"us": us, "share": 0.5, "bits": "0"} for k, us in times.items()}

    first, second = rows("norms/65536x784", as_it_is=100.0), rows("norms/4096x2^16", as_it_is=100.0)
    first |= rows("norms/65536x784", block_128=50.0, block_512=80.0, resident_512=1.0)
    second |= rows("norms/4096x2^16", block_128=150.0, block_512=80.0)
    lines = gpu_sweep.best(first | second)
    assert lines[-1] == "all of norms/65536x784, norms/4096x2^16: block 512, +25.0 %, the least +25.0 %"
    assert lines[1].split()[1:3] == ["resident", "512"]
    del first["norms/65536x784, as it is"]
    assert "?" in gpu_sweep.best(first)[1]
