"""The GPU check from its arguments to its exit status, with a stub in place of every script that it runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpu_check
import pytest
from gpu import hazards, smoke, stages, variants
from gpu import process as gpu_process

from gdgpu import devices
from support import ROOT, gpu_stub
from support.processes import is_gone

TESTS = [
    "tests/gpu/test_gpu_graphs.py::test_a PASSED [ 50%]",
    "tests/gpu/test_gpu_memory.py::test_b SKIPPED (no second GPU) [100%]",
    0,
]
GOOD = {"-m": TESTS, "memcheck": ["ERROR SUMMARY: 0 errors", 0], "racecheck": ["RACECHECK SUMMARY: 0 hazards", 0]}
OTHER = {"properties": {"compute_capability": "10.0"}}
MANIFEST = {"complete": True, "architecture": "9.0"}
CORE = [name for name, _ in stages.gpu_cases()][:10]


@pytest.fixture
def check(tmp_path, stub, monkeypatch):
    """check(*arguments, **asked): (exit status, what the only file says, or None)."""
    folder, out, tools = tmp_path / "prebuilt", tmp_path / "out", tmp_path / "bin"
    (folder / "kernels").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "kernels" / "a.sm_90.cubin").touch()
    tools.mkdir()
    tool = tools / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{gpu_stub.__file__}" "$2"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    for name in ("GDGPU_CACHE_DIR", "GDGPU_FINGERPRINT"):
        monkeypatch.setenv(name, "")  # which the check sets
    monkeypatch.setattr(devices, "simulated", lambda: False)
    monkeypatch.setattr(gpu_check.signal, "signal", lambda *_: None)
    monkeypatch.setattr(stages, "NAMES_OF_BITS", stages.NAMES_OF_BITS[:30])

    def run(*arguments, **asked):
        stub(**(GOOD | asked))
        status = gpu_check.main(["--prebuilt", str(folder), "--out", str(out), "--minutes", "20", *arguments])
        files = list(out.iterdir()) if out.exists() else []
        return status, json.loads(files[0].read_text()) if files else None

    return run


def test_everything_holds(check, capsys):
    status, report = check()
    out, err = capsys.readouterr()
    assert status == 0, out
    assert "Limits, bits, sanitizer and tests hold." in out and "Some GPU 9000" in out
    assert report["device"] == "Some GPU 9000" and report["versions"] == {"python": "3.12"}
    assert list(report["smoke"]) == list(smoke.CHECKS) and all(report["smoke"].values())
    assert (report["bits_equal"], report["sanitizer_findings"], report["compiled"]) == (True, 0, 0)
    assert report["tests"] == {"passed": 1, "failed": 0, "skipped": ["test_b (no second GPU)"], "failures": []}
    assert all("error" not in row for row in report["rows"]) and len(report["rows"]) == 43 + 6
    assert all(stage["error"] is None and "left_out" not in stage for stage in report["stages"].values())
    assert [line.split(":")[0] for line in err.splitlines()] == list(report["stages"])


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"machine": {"error": "no CUDA device", "no_gpu": True}}, 2, "no CUDA device"),
        ({"machine": "die"}, 3, "machine: killed by SIGSEGV"),
        ({"step_has_the_bits": {"error": "7 of 9 elements"}}, 3, "step_has_the_bits: 7 of 9 elements"),
        ({"reduction_has_the_bits": "hang"}, 3, "reduction_has_the_bits: cut after"),
        ({"missing": ["update_a_1", "b"]}, 3, "--prebuilt: 2 kernels are not in "),
        ({"machine": {"error": "numba-cuda cannot be imported"}}, 3, "machine: numba-cuda cannot be imported"),
        ({"machine": {"said": gpu_stub.MACHINE | OTHER}}, 3, "is for compute capability 9.0, the device has 10.0"),
        ({"whole": False}, 3, "is not as it was prepared"),
        ({"gpu_prepare.py": ["ImportError: no numba", 1]}, 3, "could not be looked through: ImportError: no numba"),
    ],
)
def test_it_stops_before_its_first_measurement(asked, status, said, check, capsys, hanging):
    hanging(gpu_process.LIMIT + 1)
    found, report = check(**asked)
    err = capsys.readouterr().err
    assert found == status and said in err and err.count("\n") == 1
    if status == 2:
        assert report is None
    else:
        assert said in report["stopped"] and not report.get("stages")
        assert all(row["error"] == "not reached" for row in report["rows"])


@pytest.mark.parametrize(
    ("manifest", "said"),
    [(None, "no manifest.json"), ("{", "no manifest.json"), ('{"complete": false}', "not complete")],
)
def test_a_folder_that_was_not_prepared_to_the_end_is_refused(manifest, said, check, tmp_path, capsys):
    path = tmp_path / "prebuilt" / "manifest.json"
    path.unlink()
    if manifest:
        path.write_text(manifest)
    assert check() == (2, None) and said in capsys.readouterr().err


def test_what_smoke_did_not_reach_is_said(check, capsys):
    """Two hazards with the same error end it."""
    first, second, *others = hazards.HAZARDS
    status, report = check(**{first: {"error": "lost"}, second: {"error": "lost"}})
    out = capsys.readouterr().out
    assert status == 1 and report["smoke_ended"] == "twice: lost" and report["smoke"][others[0]] is None
    assert f"smoke: {first}: lost" in out and f"smoke: {others[0]}: not reached" in out


def test_a_look_that_takes_too_long_holds_nothing_up(check, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "SMOKE", 1)
    status, report = check("--stages", "core", **{"gpu_prepare.py": ["hang"]})
    assert status == 1 and all("error" not in row for row in report["rows"][:10])


def test_missing_kernels_may_be_compiled_and_are_counted(check, capsys):
    status, report = check("--compile", missing=["a"], compiles="rows.py")
    assert (status, report["compiled"]) == (0, 1)
    status, report = check(compiles="bits.py")
    assert (status, report["compiled"]) == (0, 0)  # it was there already


def test_a_kernel_that_was_compiled_is_a_fault(check, capsys):
    status, report = check("--stages", "core", compiles="rows.py")
    assert status == 1 and report["compiled"] == 1
    assert "kernels compiled here, which should have been prepared: 1" in capsys.readouterr().out


def test_what_fails_is_said_and_all_else_is_there(check, capsys, hanging):
    """A hazard, a row that hangs, one that raises, a case of bits that dies, a sanitizer that is missing."""
    hanging(gpu_process.LIMIT + 1)
    bad = stages.NAMES_OF_BITS[3]
    asked = {CORE[1]: "hang", CORE[5]: {"error": "ValueError: no"}, bad: "die", "memcheck": ["Error: no device", 1]}
    status, report = check("--stages", "core", "bits", "rows", "proof", pinned_memory={"error": "no"}, **asked)
    out = capsys.readouterr().out
    assert status == 1
    errors = {row["case"]: row["error"] for row in report["rows"] if "error" in row}
    assert errors == {CORE[1]: "cut after 25 s", CORE[5]: "ValueError: no"}
    assert {case for case, said in report["bits"].items() if said != "equal"} == {bad}
    assert report["tests"]["passed"] == 1 and report["sanitizer"]["racecheck"]["findings"] == 0
    for line in (f"{CORE[1]} float32: cut after 25 s", f"bits: different in {bad}", "memcheck: Error: no device"):
        assert line in out


def test_the_same_error_twice_ends_its_stage_alone(check, capsys):
    status, report = check("--stages", "core", "bits", **{name: {"error": "no memory"} for name in CORE[:5]})
    assert status == 1 and report["stages"]["core"]["error"] == "twice: no memory"
    left = [row["case"] for row in report["rows"][:10] if row.get("error") == "not reached"]
    assert left == CORE[2:] and report["bits_equal"] is True


def test_the_sweep_is_for_who_asks_for_it(check, capsys):
    status, report = check("--stages", "sweep")
    assert status == 1 and list(report["stages"]) == ["sweep"]  # all else is not measured
    assert set(report["sweep"]) == {variants.label(*pair) for pair in variants.pairs()}
    assert report["best"][0] in capsys.readouterr().out and len(report["best"]) > len(variants.TABLE)


def test_it_leaves_at_once_when_it_is_told_to(tmp_path, check, stub):
    """The signal comes while a row hangs; what was measured is in the file."""
    stub(**{CORE[3]: "hang"})
    script = (
        f"import sys; sys.path[:0] = {[str(Path(gpu_check.__file__).parent), str(ROOT / 'tests')]}\n"
        "import gpu_check\nfrom gpu import stages\nfrom support import gpu_stub\n"
        "python = lambda script, *rest: [sys.executable, gpu_stub.__file__, script, *map(str, rest)]\n"
        "gpu_check.python = stages.python = python\n"
        f"gpu_check.main(['--prebuilt', {str(tmp_path / 'prebuilt')!r}, '--out', {str(tmp_path / 'out')!r}])\n"
    )
    path = tmp_path / "out" / "gpu-some-gpu-9000.json"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 30
        while time.monotonic() < end and measured(path) < 3:
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM and time.monotonic() - start < 3
    pid = (tmp_path / "asked.json.pid").read_text()
    assert any(is_gone(pid) or time.sleep(0.1) for _ in range(50))
    assert measured(path) == 3


def measured(path):
    return sum("error" not in row for row in json.loads(path.read_text())["rows"]) if path.exists() else 0
