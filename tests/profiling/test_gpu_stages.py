"""The stages of the GPU check with no GPU: fed by a stub in place of the scripts that they run."""

import json
import os
import random
import signal
import sys
import time
from pathlib import PurePosixPath

import gpu_check
import numpy as np
import pytest
from cases.optimizers import OPTIMIZERS
from gpu import bits as gpu_bits
from gpu import report as gpu_report
from gpu import rows as gpu_rows
from gpu import short_run
from gpu import stages as gpu_stages

from support import bits, gpu_stub

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
CORE = CASES[:10]
SETTING = gpu_stages.Setting()
SOON = 60  # seconds that no test needs


@pytest.fixture
def record(tmp_path):
    record = gpu_report.Record(gpu_report.empty("Some GPU 9000", "2030-01-02", {}), tmp_path / "out")
    record.change(gpu_stages.begin)
    return record


def written(record):
    """What the file says."""
    return json.loads(gpu_report.path_of(record.directory, record.report["device"]).read_text())


def rows_of(record, dtype="float32"):
    return {row["case"]: row for row in written(record)["rows"] if row["dtype"] == dtype}


def soon():
    return time.monotonic() + SOON


def test_every_case_of_the_table_has_a_row_from_the_start(record):
    assert [name for name, _ in gpu_stages.gpu_cases()] == list(CASES)
    assert list(rows_of(record)) == list(CASES)
    assert all(row["error"] == "not reached" for row in written(record)["rows"])
    assert written(record)["bits"] == dict.fromkeys(bits.CASES)


def test_a_row_that_fails_loses_only_itself(record, stub, hanging):
    hanging(SOON)
    stub(**{CORE[2]: "die", CORE[4]: {"error": "MemoryError: too large"}, CORE[9]: "hang"})
    assert gpu_stages._measure(record, CORE, soon(), "float32", ["torch"]) == "out of time"
    errors = {name: row["error"] for name, row in rows_of(record).items() if "error" in row}
    assert errors == {
        CORE[2]: "killed by SIGSEGV",
        CORE[4]: "MemoryError: too large",
        **dict.fromkeys(CASES[9:], "not reached"),
    }
    row = rows_of(record)[CORE[5]]
    assert (row["median_ms"], row["limit"], row["peers"]["torch"], row["peers"]["cupy"]) == (0.5, 0.93, 4.0, None)
    assert written(record)["copy_gbs"] == 3000 and "copy_gbs" not in row
    assert written(record)["host_us"] == {c: None if c in errors else 5.5 for c in CASES}


def test_slow_peers_add_to_a_row_and_never_take_from_it(record, stub):
    gpu_stages.core(record, CORE, soon(), SETTING)
    before = rows_of(record)
    stub(**{CORE[1]: {"error": "no triton"}, CORE[3]: "die"})
    assert gpu_stages.late(record, CORE, soon(), SETTING) is None
    for name, row in rows_of(record).items():
        same = {key: row[key] for key in ("median_ms", "share_of_copy", "limit") if key in row}
        assert same.items() <= before[name].items()
        if name in (CORE[1], CORE[3]):
            why = "no triton" if name == CORE[1] else "killed by SIGSEGV"
            assert row["skipped"] == {"torch_compile": why, "cupy": why} and row["peers"]["torch"] == 4.0
        elif name in CORE:
            assert row["peers"] == {"torch": 4.0, "torch_compile": 4.0, "cupy": 4.0, "usual": None}


def test_only_the_peers_that_were_asked_for(record, stub):
    gpu_stages.core(record, CORE[:1], soon(), gpu_stages.Setting(peers=("cupy",)))
    gpu_stages.rows(record, CASES[10:11], soon(), gpu_stages.Setting(peers=("torch", "torch_compile")))
    core, other = rows_of(record)[CORE[0]]["peers"], rows_of(record)[CASES[10]]["peers"]
    assert {name for name, value in core.items() if value} <= {"none"}
    assert {name for name, value in other.items() if value} == {"torch"}


def test_other_dtypes_have_no_limit_and_are_left_out_where_time_is(record, stub):
    (names,) = (stage.names for stage in gpu_stages.stages() if stage.name == "dtypes")
    assert gpu_stages.dtypes(record, names[:3], soon(), SETTING) is None
    assert list(rows_of(record, "bfloat16")) == list(gpu_stages.IN_OTHER_DTYPES)
    assert list(rows_of(record, "float16")) == [gpu_stages.IN_OTHER_DTYPES[0]]
    assert rows_of(record, "float64") == {} and set(gpu_stages.IN_OTHER_DTYPES) <= set(CASES)
    assert all(row["limit"] is row["peer_limit"] is None for row in rows_of(record, "bfloat16").values())
    assert all(row["error"] == "not reached" for row in rows_of(record).values())


def test_a_measured_row_has_the_roof(monkeypatch):
    def measure(names, device, peers, dtype):
        return [{"case": names[0], "dtype": dtype, "device": device, "peers": dict.fromkeys(peers, 2.0)}]

    gpu_rows.copy_gbs.cache_clear()
    monkeypatch.setattr(gpu_rows.harness, "copy_gbs", lambda device, nbytes: 5.0)
    monkeypatch.setattr(gpu_rows.run, "measure", measure)
    found = gpu_rows.measured("momentum/8", "float16", ("torch",))
    assert found == {"case": "momentum/8", "dtype": "float16", "device": "cuda", "peers": {"torch": 2.0}, "copy_gbs": 5}
    gpu_rows.copy_gbs.cache_clear()


NAMES = list(bits.CASES)[:40]


@pytest.mark.parametrize(
    ("asked", "equal", "said"),
    [
        ({}, True, "equal"),
        ({"different": "array 0: 1 of 4 elements"}, False, "array 0: 1 of 4 elements"),
        ({"error": "KeyError: 3"}, False, "KeyError: 3"),
        ("hang", False, "cut after "),
    ],
    ids=("equal", "different", "raises", "hangs"),
)
def test_bits_are_put_together_case_by_case(asked, equal, said, record, stub, monkeypatch):
    monkeypatch.setattr(gpu_stages.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(gpu_stages, "each", lambda *args, **how: each(*args, **how, limit=1.0))
    record.put("bits", dict.fromkeys(NAMES))
    stub(**({NAMES[7]: asked} if asked else {}))
    assert gpu_stages.bits(record, NAMES, soon(), SETTING) is None
    found = written(record)
    assert found["bits_equal"] is equal
    assert found["bits"].pop(NAMES[7]).startswith(said)
    assert set(found["bits"].values()) == {"equal"}


each = gpu_stages.each


def test_bits_that_are_not_all_reached_are_not_equal(record, stub, hanging):
    hanging(SOON)
    stub(**{NAMES[7]: "hang"})
    assert gpu_stages.bits(record, NAMES, soon(), SETTING) == "out of time"
    found = written(record)["bits"]
    assert 0 < sum(said == "equal" for said in found.values()) < len(NAMES)
    assert written(record)["bits_equal"] is None


A, B = np.arange(4, dtype=np.uint32), np.zeros(3, np.uint16)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ([A, B], None),
        ([np.array([0, 1, 2, 9], np.uint32), B], "array 0: 1 of 4 elements"),
        ([A, np.zeros(3, np.uint32)], "array 1 is uint32 (3,), of uint16 (3,)"),
        ([A, np.zeros((3, 1), np.uint16)], "array 1 is uint16 (3, 1), of uint16 (3,)"),
        ([A], "1 arrays, of 2"),
        ([A, B, B], "3 arrays, of 2"),
    ],
)
def test_differences(other, expected):
    assert gpu_bits.difference([A, B], other) == expected


@pytest.mark.parametrize("made", ("here", "before"))
def test_bits_in_the_simulator(made, tmp_path, python):
    """Two cases as they are, and one whose answer was changed by a bit."""
    names = ["reduce/float32/33x3/plain", "update/gradient_descent/float32/float32"]
    answers = "-"
    if made == "before":
        answers = tmp_path / "cpu.npz"
        arrays = {f"{name}:{k}": a for name in names for k, a in enumerate(bits.answers(name))}
        arrays[f"{names[0]}:0"] = arrays[f"{names[0]}:0"] ^ (np.arange(3) == 1)
        np.savez(answers, device="cpu", **arrays)
        names.append("reduce/float32/1x3/plain")  # which has no answer
    out = python(gpu_bits.__file__, answers, *reversed(names), NUMBA_ENABLE_CUDASIM="1", status=int(made == "before"))
    found = {line["case"]: line for line in map(json.loads, out.splitlines())}
    if made == "here":
        assert {name: found[name]["different"] for name in names} == dict.fromkeys(names)
    else:
        assert "has no answer to this case" in found[names[2]]["error"] and len(found) == 1
        out = python(gpu_bits.__file__, answers, *names[:2], NUMBA_ENABLE_CUDASIM="1")
        said = [json.loads(line)["different"] for line in out.splitlines()]
        assert said == ["array 0: 1 of 3 elements", None]


CLEAN = {
    "memcheck": ["========= ERROR SUMMARY: 0 errors", 0],
    "racecheck": ["RACECHECK SUMMARY: 0 hazards displayed", 0],
}


@pytest.mark.parametrize(
    ("says", "findings", "note"),
    [
        ({}, 0, None),
        ({"memcheck": ["========= Invalid read", "========= ERROR SUMMARY: 3 errors", 1]}, 3, None),
        ({"racecheck": ["RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", 0]}, 1, None),
        ({"memcheck": ["========= Error: Device not supported", 1]}, None, "Error: Device not supported"),
        ({"memcheck": ["fused/momentum", "hang"]}, None, "s, behind fused/momentum"),
    ],
    ids=("clean", "errors", "a hazard", "no device", "hangs"),
)
def test_findings(says, findings, note, record, stub, hanging, monkeypatch):
    hanging(SOON, lambda: "racecheck" in (record.report.get("sanitizer") or {}))
    monkeypatch.setattr(gpu_stages.shutil, "which", lambda name, path: name)
    run = gpu_stages.run

    def tool(command, *rest):
        return run([sys.executable, gpu_stub.__file__, command[2]], *rest)

    monkeypatch.setattr(gpu_stages, "run", tool)
    stub(**(CLEAN | says))
    said = gpu_stages.proof(record, list(gpu_stages.SANITIZERS), soon(), SETTING)
    found = written(record)
    assert found["sanitizer_findings"] == findings
    assert (note or "") in (said or "") and bool(said) == bool(note)
    assert found["sanitizer"]["racecheck" if "memcheck" in says else "memcheck"]["findings"] == 0
    if findings == 3:
        assert found["sanitizer"]["memcheck"]["report"][0] == "========= Invalid read"


def test_without_the_tool(record, monkeypatch):
    monkeypatch.setattr(gpu_stages.shutil, "which", lambda name, path: None)
    gpu_stages.proof(record, list(gpu_stages.SANITIZERS), soon(), SETTING)
    assert written(record)["sanitizer_findings"] is None
    assert any("compute-sanitizer is not on the PATH" in line for line in gpu_report.faults(written(record)))


def test_short_run_covers_every_family_and_every_pattern_means_something():
    names = short_run.chosen(list(bits.CASES))
    assert {name.split("/")[0] for name in names} == {name.split("/")[0] for name in bits.CASES}
    for pattern in short_run.PATTERNS:
        assert any(PurePosixPath(name).match(pattern) for name in bits.CASES), pattern
    assert len(names) < len(bits.CASES) / 4


def test_outcome_of_the_tests(tmp_path, record, hanging, monkeypatch):
    """Real tests: every outcome, a name with spaces, and one at which the time is over."""
    file = tmp_path / "tests" / "test_it.py"
    file.parent.mkdir()
    file.write_text(
        "import pytest, time\n"
        "@pytest.mark.parametrize('x', ['a b, c - d', 'e'])\ndef test_good(x): pass\n"
        "def test_bad(): assert 1 == 2, 'wrong'\n"
        "@pytest.fixture\ndef broken(): raise KeyError('k')\n"
        "def test_broken(broken): pass\n"
        "@pytest.mark.skip(reason='no second GPU')\ndef test_skipped(): pass\n"
    )
    shown = os.path.relpath(file.parent, gpu_stages.ROOT)
    monkeypatch.setattr(gpu_stages, "GPU_TESTS", shown)
    monkeypatch.setattr(gpu_stages, "OUTCOME", gpu_stages.outcomes(shown))
    monkeypatch.setattr(gpu_stages, "REASON", gpu_stages.reasons(shown))
    assert gpu_stages.tests(record, soon()) is None
    found = written(record)["tests"]
    assert (found["passed"], found["failed"]) == (2, 2) and "note" not in found
    (skipped,) = found["skipped"]
    assert "test_skipped" in skipped and "no second GPU" in skipped
    assert found["failures"][0].startswith("test_bad: ") and "wrong" in found["failures"][0]
    assert found["failures"][1].startswith("test_broken: ") and "KeyError" in found["failures"][1]
    hangs = tmp_path / "hangs"
    hanging(SOON, path=hangs)
    with file.open("a") as more:
        more.write(f"def test_slow():\n    open({str(hangs)!r}, 'w').write('here')\n    time.sleep(600)\n")
    assert gpu_stages.tests(record, soon()) == "tests: cut after 60 s"
    found = written(record)["tests"]
    assert (found["passed"], found["failed"], found["note"]) == (2, 2, "cut after 60 s")


def test_killed_at_twenty_moments_it_holds_all_that_was_finished(tmp_path, stub, monkeypatch):
    """The check in a process of its own says after every result how many it has put away; then it is killed."""
    monkeypatch.setattr(gpu_stages.os, "cpu_count", lambda: 4)
    stub(pause=0.002)
    rng, lost, numbers = random.Random(0), [], set()
    for k in range(20):
        record = gpu_report.Record(gpu_report.empty("Some GPU 9000", "2030-01-02", {}), tmp_path / str(k))
        said, says = os.pipe()
        if (child := os.fork()) == 0:
            check_and_tell(record, says)
        os.close(says)
        with os.fdopen(said) as pipe:
            enough = rng.randrange(60)
            number = next(number for number in map(int, pipe) if number >= enough)
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            number = max([number, *map(int, pipe)])
        numbers.add(number)
        lost.append(number - finished(written(record)))
    assert max(lost) <= 0, lost
    assert len(numbers) > 5 and max(numbers) > 10  # it was killed at work


def check_and_tell(record, pipe):
    """Never returns."""
    os.setpgid(0, 0)
    save = gpu_report.Record.save

    def saved(self):
        save(self)
        os.write(pipe, f"{finished(self.report)}\n".encode())

    gpu_report.Record.save = saved
    stages = [stage for stage in gpu_stages.stages() if stage.name in ("core", "bits", "rows")]
    try:
        record.change(gpu_stages.begin)
        gpu_check.check(record, stages, soon(), SETTING, gpu_check.Console(quiet=True))
    finally:
        os._exit(0)


def finished(report):
    rows = sum("error" not in row for row in report["rows"] or [])
    return rows + sum(said == "equal" for said in (report.get("bits") or {}).values())
