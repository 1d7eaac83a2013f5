"""The sweep over variants of CUDA kernels, with no GPU: its table, what variants change, lines, restarts, the best."""

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "profiling"))

import cases
import gpu_prepare

from gdgpu.kernels import generate, plan, reduce, tree

NEEDED = "gdgpu.kernels.target", "gpu_hints", "gpu_sweep", "gpu_variants", "gpu_work"
target, gpu_hints, gpu_sweep, gpu_variants, gpu_work = (
    pytest.importorskip(name, reason="needs numba-cuda: install gdgpu[test]") for name in NEEDED
)
pytestmark = pytest.mark.skipif(tree.SIMULATED, reason="the simulator compiles nothing")

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
    names |= {(target, "load"), (target, "store"), (generate, "_fingerprint")}
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


@pytest.mark.parametrize("case", ("momentum/100x65536", "reduce/65536x784", "norms/65536x784", "clip_update/65536x784"))
def test_only_what_stands_in_a_kernel_makes_another_kernel(case, tmp_path):
    """Blocks and chunks are planned on the host."""

    def asked(variant):
        work = {f"sweep/{variant.name}": lambda: gpu_work._variant(cases.find(case), variant)}
        return gpu_work.launch(work, (9, 0), 1, gpu_prepare.environment(tmp_path), compiles=False).asked

    usual, *others = gpu_variants.TABLE[case]
    as_it_is = asked(usual)
    for variant in others:
        is_planned = variant.hint is None and any(word in variant.name.split() for word in PLANNED)
        assert (asked(variant) == as_it_is) == is_planned, variant


def test_a_hint_has_a_kernel_of_its_own_that_carries_it():
    """Its text is that of any other: only the instructions differ."""
    code = {}
    for variant in (Variant(USUAL), Variant("hinted", (), "streaming")):
        with variant.applied():
            kernel = reduce.kernel("cuda", "float32", False)
            code[variant.name] = kernel.link()[0], kernel.code
    (plain, name), (hinted, other) = code.values()
    assert name != other and plain != hinted


class Clock:
    """Times nothing. hurt: what a GPU that is lost raises at the next call."""

    xp, cold_bytes, hurt = np, 0, None

    def free_bytes(self):
        return 1 << 40

    def copy(self, nbytes):
        return lambda: None

    def turn(self, calls):
        return [2e-6 if calls[0].__name__ == "<lambda>" else calls[0].seconds]

    def warm(self, calls):
        if self.hurt:
            raise RuntimeError(self.hurt)
        for call in calls:
            call()

    def release(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """A sweep of four variants, which take 4, 2, 1 and 8 us; the third has other bits, the last fails."""
    held = Clock()
    found = {USUAL: (4e-6, 1), "same": (2e-6, 1), "other": (1e-6, 2), "broken": (8e-6, 3)}
    variants = [Variant(name, ((plan, "CUDA_BLOCKS", k),) if k else ()) for k, name in enumerate(found)]

    def built(arrays, case):
        name = list(found)[plan.CUDA_BLOCKS if plan.CUDA_BLOCKS < 4 else 0]

        def call():
            if name == "broken":
                raise ValueError("does not fit\nat all")

        call.seconds, bits = found[name]
        return call, lambda: np.array([bits])

    monkeypatch.setattr(gpu_sweep.harness, "clock", lambda device: held)
    monkeypatch.setattr(gpu_variants, "TABLE", {ROWS: variants})
    monkeypatch.setattr(gpu_variants, "built", built)
    monkeypatch.delenv("GDGPU_CACHE_DIR", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield held
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(capsys, *options):
    """(exit status, rows, other lines)."""
    capsys.readouterr()
    try:
        status = gpu_sweep.main(list(map(str, options)))
    except SystemExit as leaving:
        status = leaving.code
    lines = capsys.readouterr().out.splitlines()
    return status, [json.loads(line) for line in lines if line[0] == "{"], [line for line in lines if line[0] != "{"]


def test_a_line_for_each_variant_in_order_and_the_best_last(clock, capsys, tmp_path):
    status, rows, said = run(capsys, "--out", tmp_path / "sweep.jsonl")
    assert status == 0
    assert [row["variant"] for row in rows] == [USUAL, "same", "other", "broken"]
    assert {row["case"] for row in rows} == {ROWS}
    assert [row.get("us") and round(row["us"], 3) for row in rows] == [4, 2, 1, None]
    assert [row.get("share") for row in rows] == [0.5, 1, 2, None]
    assert [row.get("same_bits") for row in rows] == [True, True, False, None]
    assert rows[-1]["error"] == "ValueError: does not fit"
    assert said[1].split() == [ROWS, "other", "1.0", "4.0", "2.000", "+300.0", "%", "other", "bits"]
    assert said[-1] == f"{ROWS}, broken: ValueError: does not fit"
    assert [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()] == rows
    assert run(capsys, "--best", tmp_path / "sweep.jsonl") == (0, [], said)


def test_what_was_skipped_counts_if_the_file_has_it(clock, capsys, tmp_path):
    path = tmp_path / "sweep.jsonl"
    _, rows, said = run(capsys, "--out", path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:40] + "\n")  # killed half way
    status, more, again = run(capsys, "--out", path, "--skip", 2)
    assert (status, more, again) == (0, rows[2:], said)
    assert [row["same_bits"] for row in run(capsys, "--skip", 2)[1] if "us" in row] == [None]


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_a_signal_ends_it_with_the_best_so_far(number, clock, capsys, monkeypatch):
    built = gpu_variants.built

    def interrupted(arrays, case):
        if plan.CUDA_BLOCKS == 2:
            signal.raise_signal(number)
        return built(arrays, case)

    monkeypatch.setattr(gpu_variants, "built", interrupted)
    status, rows, said = run(capsys)
    assert status == 128 + number and len(rows) == 2
    assert said[1].split()[1] == "same"
    assert gpu_variants.built is interrupted and plan.CUDA_BLOCKS > 4  # restored on the way out


def test_a_lost_gpu_and_a_late_hour_end_it_with_the_best_so_far(clock, capsys, monkeypatch):
    release = Clock.release
    monkeypatch.setattr(Clock, "release", lambda self: setattr(self, "hurt", "an illegal address"))
    status, rows, said = run(capsys)
    assert status == 1 and len(rows) == 1 and said[1].split()[1:4] == ["as", "it", "is"]
    clock.hurt = None
    monkeypatch.setattr(Clock, "release", release)
    assert run(capsys, "--seconds", 1e-9)[:2] == (1, [])


def test_variants_that_were_not_prepared_are_named_and_not_tried(clock, capsys, tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text(json.dumps({"left_out": {f"sweep/{ROWS}, same": "48 bytes spilled"}}))
    (tmp_path / "kernels").mkdir()
    monkeypatch.setenv("GDGPU_CACHE_DIR", str(tmp_path / "kernels"))
    rows = run(capsys)[1]
    assert rows[1]["error"] == "RuntimeError: left out when kernels were prepared: 48 bytes spilled"
    assert "us" in rows[2]


def test_the_list_is_in_order_and_only_chooses_cases(capsys):
    _, _, listed = run(capsys, "--list")
    assert listed == [gpu_variants.label(*pair) for pair in gpu_variants.pairs()]
    assert run(capsys, "--list", "--skip", len(listed) - 1)[2] == listed[-1:]
    some = run(capsys, "--list", "--only", "norms", "softmax")[2]
    assert some and some == [line for line in listed if line.startswith(("norms", "softmax"))]


@pytest.mark.parametrize("options", ("--only nothing", "--skip -1", "--skip 9999", "--seconds 0", "--best none.jsonl"))
def test_bad_options_are_refused_in_one_line(options, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        gpu_sweep.main(options.split())
    err = capsys.readouterr().err
    assert leaving.value.code == 2 and err.count("\n") == 1 and err.startswith("profiling/gpu_sweep.py: ")


def test_a_table_of_several_cases_has_one_best_for_all():
    """Of what was measured on all of them: a gain on one may be a loss on another."""

    def rows(case, **times):
        return [{"case": case, "variant": name.replace("_", " "), "us": us, "share": 0.5} for name, us in times.items()]

    first, second = rows("norms/65536x784", as_it_is=100.0), rows("norms/4096x2^16", as_it_is=100.0)
    first += rows("norms/65536x784", block_128=50.0, block_512=80.0, resident_512=1.0)
    second += rows("norms/4096x2^16", block_128=150.0, block_512=80.0)
    lines = gpu_sweep.best(first + second)
    assert lines[-1] == "all of norms/65536x784, norms/4096x2^16: block 512, +25.0 %, the least +25.0 %"
    assert lines[1].split()[1:3] == ["resident", "512"] and "?" in gpu_sweep.best(first[1:])[1]
