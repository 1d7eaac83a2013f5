"""The stages of the GPU check with no GPU: fed by stubs in place of the processes that they run."""

import json
import sys
import time
from pathlib import Path, PurePosixPath
from unittest.mock import Mock

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "profiling"))

import gpu_process
import gpu_report
import gpu_rows
import gpu_short_run
import gpu_stages
from optimizers import OPTIMIZERS

CASES = (
    "momentum/1x2^28",
    "adam/1x2^28",
    "momentum/1000-mixed",
    "momentum/100x65536",
    "momentum/100x1024",
    "reduce/256x2^20",
    "reduce/4096x2^16",
    "reduce/65536x784",
    "reduce/2^20x64",
    "reduce_update/64x2^22",
    *(f"{kind}/1x2^28" for kind in OPTIMIZERS if kind not in ("momentum", "adam", "momentum_8bit_g16")),
    "momentum_8bit_g16/1x2^28",
    "norms/4096x2^16",
    "statistics/4096x2^16",
    "norms/65536x784",
    "statistics/65536x784",
    "clip_update/65536x784",
    "clip_update/64x2^22",
    "linear_gradient/40000x10000",
    "softmax_gradient/60000x784",
)


@pytest.fixture
def report():
    return gpu_report.empty("Some GPU 9000", "2030-01-02", {})


@pytest.fixture
def saved():
    """A stage's save()."""
    return Mock()


def ended(out=(), err=(), status=0, cut=False):
    return gpu_process.Done(status, cut, list(out), list(err))


def said(heard, out, **end):
    """What a process says while it runs, and how it ends."""
    for line in out:
        heard(line)
    return ended(out, **end)


def test_every_case_of_the_table_is_measured():
    assert [name for name, _ in gpu_stages.gpu_cases()] == list(CASES)


def test_lines_are_heard_as_they_come():
    heard = []
    done = gpu_process.run((sys.executable, "-c", "print('a'); print('b'); 1/0"), 30, heard=heard.append)
    assert (heard, done.out, done.status, done.cut) == (["a", "b"], ["a", "b"], 1, False)
    assert done.why(30) == "ZeroDivisionError: division by zero"


def test_time_limit_ends_a_process_and_what_it_started():
    child = "import subprocess as s; p = s.Popen(['sleep', '60'], stdout=s.DEVNULL); print(p.pid, flush=True); p.wait()"
    done = gpu_process.run((sys.executable, "-c", child), 1.5)
    assert (done.cut, done.why(1.5)) == (True, "cut after 2 s")
    assert any(is_gone(done.out[0]) or time.sleep(0.1) for _ in range(100))


def test_all_processes_can_be_ended():
    child = "import time; print('here', flush=True); time.sleep(60)"
    done = gpu_process.run((sys.executable, "-c", child), 50, heard=lambda line: gpu_process.end_all())
    assert (done.out, done.status, done.cut) == (["here"], -9, False)


def is_gone(pid):
    """True for a process that has ended, also if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def lines(*cases, **change):
    """What the measuring process says of cases that it could measure."""
    rows = [
        {"case": case, "dtype": "float32", "median_ms": 0.5, "limit": 0.5, "host_us": 20.5} | change for case in cases
    ]
    return [json.dumps({"copy_gbs": 2000.0}), "a warning", *map(json.dumps, rows)]


def test_every_case_has_a_row_whatever_happens(report, saved, monkeypatch):
    """The first process dies in its third case, the second fails in one and says so, the third is cut."""
    failed = json.dumps({"case": CASES[4], "dtype": "float32", "error": "MemoryError: too large"})
    plans = [
        (lines(*CASES[:2]), {"status": -11, "err": ["Segmentation fault"]}),
        (lines(), {"status": -11, "err": ["Segmentation fault"]}),
        ([*lines(CASES[3]), failed], {"status": 1}),
        (lines(*CASES[5:8], limit=None), {"status": -9, "cut": True}),
    ]
    asked = []

    def run(command, seconds, heard):
        asked.append(command[3:])
        out, end = plans.pop(0)
        clock[0] += 1000 * ("cut" in end)
        return said(heard, out, **end)

    clock = [0.0]
    monkeypatch.setattr(gpu_stages.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(gpu_stages, "run", run)
    gpu_stages.table(report, 100, saved)
    rows = {row["case"]: row for row in report["rows"]}
    assert tuple(rows) == CASES
    errors = {name: row["error"] for name, row in rows.items() if "error" in row}
    assert errors == {
        CASES[2]: "Segmentation fault",
        CASES[4]: "MemoryError: too large",
        CASES[8]: "cut after 100 s",
        **dict.fromkeys(CASES[9:], "not reached"),
    }
    assert [names[0] for names in asked] == [CASES[0], CASES[2], CASES[3], CASES[5]]
    assert report["copy_gbs"] == 2000
    assert rows[CASES[5]]["limit"] == 0.93  # the table's own
    assert (rows[CASES[2]]["median_ms"], rows[CASES[2]]["peers"]["torch"]) == (None, None)
    assert report["host_us"] == {c: None if c in errors else 20.5 for c in CASES}
    assert saved.call_count > 7


def test_other_dtypes_have_no_limit_and_are_left_out_where_time_is(report, saved, monkeypatch):
    def run(command, seconds, heard):
        dtype, *names = command[2:]
        if dtype == "float16":
            return ended(status=-9, cut=True)
        return said(heard, lines(*names, dtype=dtype))

    monkeypatch.setattr(gpu_stages, "run", run)
    report["rows"] = [gpu_report.row_of({"case": "reduce/2^20x64"})]
    gpu_stages.dtypes(report, 100, saved)
    found = [(row["case"], row["dtype"], row["limit"], row["peer_limit"]) for row in report["rows"][1:]]
    names = gpu_stages.IN_OTHER_DTYPES
    assert found == [(name, dtype, None, None) for dtype in ("bfloat16", "float64") for name in names]
    assert set(names) <= set(CASES)


def test_the_measuring_process_says_a_row_a_line_and_leaves_after_an_error(monkeypatch, capsys):
    def measure(names, device, peers, dtype):
        assert (device, peers) == ("cuda", gpu_report.PEERS)
        if names == ["bad"]:
            raise RuntimeError("CUDA_ERROR\nmore")
        return [{"case": names[0], "dtype": dtype}]

    monkeypatch.setattr(gpu_rows.harness, "copy_gbs", lambda device, nbytes: 5.0)
    monkeypatch.setattr(gpu_rows.run, "measure", measure)
    assert gpu_rows.main("float16", "good", "bad", "never") == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"copy_gbs": 5.0},
        {"case": "good", "dtype": "float16"},
        {"case": "bad", "dtype": "float16", "error": "RuntimeError: CUDA_ERROR"},
    ]
    assert gpu_rows.main("float16", "good") == 0


ANSWERS = {"device": np.array("cpu"), "a:0": np.arange(4, dtype=np.uint32), "b:0": np.zeros(3, np.uint16)}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, {}),
        ({"a:0": np.array([0, 1, 2, 9], np.uint32)}, {"a": "array 0: 1 of 4 elements"}),
        ({"b:0": np.zeros(3, np.uint32)}, {"b": "array 0 is not of the same kind"}),
        ({"b:0": np.zeros((3, 1), np.uint16)}, {"b": "array 0 is not of the same kind"}),
        ({"b:1": np.zeros(3, np.uint16)}, {"b": "array 1 is not of the same kind"}),
        ({"b:error": np.array("KeyError()")}, {"b": "GPU: KeyError()"}),
        ({"device": np.array("cpu")}, {"device": "both answers come from the same device"}),
    ],
)
def test_differences(change, expected):
    other = ANSWERS | {"device": np.array("cuda")} | change
    assert gpu_stages.differences(dict(ANSWERS), other) == expected


@pytest.mark.parametrize("fault, equal", [(None, True), ("different", False), ("cut", None)])
def test_parts_are_put_together(fault, equal, report, saved, monkeypatch):
    def run(command, seconds, environment):
        *_, path, _, part = command
        device = environment["GDGPU_DEVICE"]
        if fault == "cut" and part.startswith("1/") and device == "cuda":
            return ended(status=-9, cut=True)
        bad = fault == "different" and part.startswith("1/") and device == "cuda"
        np.savez(path, device=device, **{f"case {part}:0": np.array([1 if bad else 0])})
        return ended()

    monkeypatch.setattr(gpu_stages.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(gpu_stages, "run", run)
    gpu_stages.bits(report, 60, saved)
    assert report["bits_equal"] is equal
    assert list(report["bits_different"]) == (["case 1/3"] if fault == "different" else [])
    assert report.get("bits_note") == ("cuda: cut after 60 s" if fault == "cut" else None)


CLEAN = {
    "memcheck": "========= ERROR SUMMARY: 0 errors",
    "racecheck": "========= RACECHECK SUMMARY: 0 hazards displayed",
}


@pytest.mark.parametrize(
    "says, status, findings, note",
    [
        ({}, 0, 0, None),
        ({"memcheck": "========= ERROR SUMMARY: 3 errors"}, 1, 3, None),
        ({"racecheck": "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"}, 0, 1, None),
        ({"memcheck": "========= Error: Device not supported"}, 1, None, "memcheck: ========= Error: Device not"),
        ({"memcheck": "ImportError: x"}, 1, None, "memcheck: ImportError: x"),
    ],
)
def test_findings(says, status, findings, note, report, saved, monkeypatch):
    def run(command, seconds):
        kind = command[2]
        return ended([(CLEAN | says)[kind]], status=status if kind in says else 0)

    monkeypatch.setattr(gpu_stages, "run", run)
    monkeypatch.setattr(gpu_stages.shutil, "which", lambda name, path: name)
    gpu_stages.sanitizer(report, 60, saved)
    assert report["sanitizer_findings"] == findings
    assert (note or "") in report.get("sanitizer_note", "") and ("sanitizer_note" in report) == bool(note)
    assert bool(findings) == ("sanitizer_report" in report)


def test_without_the_tool(report, saved, monkeypatch):
    monkeypatch.setattr(gpu_stages.shutil, "which", lambda name, path: None)
    gpu_stages.sanitizer(report, 60, saved)
    assert report["sanitizer_findings"] is None and "PATH" in report["sanitizer_note"]


def test_short_run_covers_every_family_and_every_pattern_means_something():
    from bits_cases import CASES

    names = gpu_short_run.chosen(list(CASES))
    assert {name.split("/")[0] for name in names} == {name.split("/")[0] for name in CASES}
    for pattern in gpu_short_run.PATTERNS:
        assert any(PurePosixPath(name).match(pattern) for name in CASES), pattern
    assert len(names) < len(CASES) / 4


def test_outcome_of_the_tests(tmp_path, report, saved, monkeypatch):
    file = tmp_path / "test_it.py"
    file.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'wrong'\n"
        "@pytest.fixture\ndef broken(): raise KeyError('k')\n"
        "def test_broken(broken): pass\n"
        "@pytest.mark.skip(reason='no second GPU')\ndef test_skipped(): pass\n"
    )
    monkeypatch.setattr(gpu_stages, "GPU_TESTS", file)
    gpu_stages.tests(report, 60, saved)
    found = report["tests"]
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, ["test_skipped: no second GPU"])
    assert found["failures"][0].startswith("test_bad: AssertionError: wrong")
    assert "KeyError" in found["failures"][1]
