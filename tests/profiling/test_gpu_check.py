"""The GPU check with no GPU: its report, what holds and what does not, the tables, its time, its exit codes."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import gpu_check
import pytest
from gpu import plan
from gpu import report as gpu_report
from gpu import stages as gpu_stages

PEER_LIMIT = {"torch": 1.0, "torch_compile": 1.0, "cupy": 3.0}


def good_row(case="reduce/2^20x64", **change):
    row = {
        "case": case,
        "dtype": "float32",
        "bytes": 100,
        "median_ms": 0.5,
        "share_of_copy": 0.9375,
        "limit": 0.9,
        "peers": {"torch": 2.0, "torch_compile": 1.0, "cupy": 3.5},
        "peer_limit": PEER_LIMIT,
        "host_us": 20.5,
    }
    return gpu_report.row_of(row | change)


def good_report(**change):
    """A report in which everything holds."""
    report = gpu_report.empty("Some GPU 9000", "2030-01-02", {"python": "3.12"})
    return report | {
        "copy_gbs": 1000.0,
        "rows": [good_row(), good_row("momentum/1x2^28", host_us=9.5, peer_limit=1.0)],
        "host_us": {"reduce/2^20x64": 20.5, "momentum/1x2^28": 9.5},
        "bits_equal": True,
        "sanitizer_findings": 0,
        "tests": {"passed": 3, "failed": 0},
        **change,
    }


@pytest.fixture
def report():
    return gpu_report.empty("Some GPU 9000", "2030-01-02", {})


def test_keys_come_first_and_in_order(report):
    assert list(report) == ["device", "date", "versions", *gpu_report.KEYS[3:]]
    assert tuple(good_row())[: len(gpu_report.ROW_KEYS)] == gpu_report.ROW_KEYS
    assert gpu_report.row_of({"case": "x", "peers": {"torch": 2.0}})["peers"] == {
        "torch": 2.0,
        "torch_compile": None,
        "cupy": None,
        "usual": None,
    }


def recorded(report, directory):
    record = gpu_report.Record(report, directory)
    record.save()
    return record


def test_file_is_replaced_in_one_piece(tmp_path, report):
    record = recorded(report, tmp_path / "new")
    path = tmp_path / "new" / "gpu-some-gpu-9000.json"
    assert json.loads(path.read_text()) == report
    with pytest.raises(TypeError):
        record.put("rows", [object()])
    assert json.loads(path.read_text()) == report | {"rows": None}
    assert list(path.parent.iterdir()) == [path]


def test_the_file_moves_when_the_device_is_known_and_goes_when_there_is_none(tmp_path):
    record = recorded(gpu_report.empty(None, "2030-01-02", {}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-unknown.json"]
    record.put("device", "Some GPU 9000")
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-some-gpu-9000.json"]
    record.forget()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_fills_up_stops_nothing_and_is_said(tmp_path, report, monkeypatch, capsys):
    record = recorded(report, tmp_path)
    with monkeypatch.context() as full:
        full.setattr(gpu_report.files, "write_json", Mock(side_effect=OSError(28, "No space left on device")))
        record.put("bits", "a", "equal")
        assert "No space left" in record.unsaved
        assert gpu_check.conclude(record) == 1 and "not written: " in capsys.readouterr().out
    record.put("bits", "b", "equal")
    assert record.unsaved is None
    assert json.loads(gpu_report.path_of(tmp_path, report["device"]).read_text())["bits"] == {
        "a": "equal",
        "b": "equal",
    }


def test_many_threads_put_in_at_once(tmp_path, report):
    record = recorded(report, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: record.put("bits", f"case {k}", "equal"), range(100)))
    assert len(json.loads(gpu_report.path_of(tmp_path, report["device"]).read_text())["bits"]) == 100


def test_nothing_is_missing_where_everything_holds():
    assert gpu_report.faults(good_report()) == []


@pytest.mark.parametrize(
    "change, line",
    [
        ({"rows": [good_row(share_of_copy=0.89)]}, "share of copy 0.89 short by 0.010, limit 0.9"),
        ({"rows": [good_row(share_of_copy=None)]}, "share of copy not measured, limit 0.9"),
        ({"rows": [good_row(peers={"torch": 0.5, "torch_compile": 1, "cupy": 3})]}, "vs torch 0.50 short by 0.500"),
        ({"rows": [good_row(peers={"torch": 1, "torch_compile": 1, "cupy": 2})]}, "vs cupy 2.00 short by 1.000"),
        ({"rows": [good_row(peers={"torch": 1, "cupy": 3})]}, "vs torch_compile not measured, limit 1"),
        (
            {"rows": [good_row(peers={"torch": 1, "cupy": 3}, skipped={"torch_compile": "no triton"})]},
            "vs torch_compile not measured (no triton), limit 1",
        ),
        ({"rows": [good_row(error="no memory")]}, "reduce/2^20x64 float32: no memory"),
        ({"rows": None}, "rows: not yet measured"),
        ({"host_us": {"momentum/1x2^28": 10.1}}, "momentum/1x2^28: host time 10.1 us, limit 10 us"),
        ({"host_us": {"adam/1x2^28": None}}, "adam/1x2^28: host time not yet measured, limit 10 us"),
        ({"bits_equal": False, "bits": {"a": "x", "b": "equal", "c": "y"}}, "bits: different in a, c (x), 2 in all"),
        ({"bits_equal": None, "bits": {"a": "equal", "b": None}}, "bits: 1 of 2 cases reached, all equal"),
        ({"bits_equal": None}, "bits: not yet measured"),
        ({"sanitizer_findings": 2}, "sanitizer: 2 findings"),
        ({"sanitizer_findings": None, "sanitizer": {"memcheck": {"note": "no tool"}}}, "sanitizer: memcheck: no tool"),
        ({"tests": {"passed": 3, "failed": 1}}, "GPU tests: 1 failed, 3 passed"),
        ({"tests": {"passed": 0, "failed": 0}}, "GPU tests: 0 failed, 0 passed"),
        ({"tests": {"passed": 3, "failed": 0, "note": "cut after 9 s"}}, "0 failed, 3 passed (cut after 9 s)"),
        ({"tests": None}, "GPU tests: not yet measured"),
        ({"compiled": 2}, "kernels compiled here, which should have been prepared: 2"),
        ({"smoke": {"fences": {"said": None}, "pinned": {"error": "no"}}}, "smoke: pinned: no"),
        ({"smoke": {"fences": None}}, "smoke: fences: not reached"),
        ({"stages": {"bits": {"error": None}, "dtypes": {"error": "OSError: full"}}}, "dtypes: OSError: full"),
    ],
)
def test_what_does_not_hold_is_said_and_fails_the_check(change, line, tmp_path, capsys):
    (fault,) = gpu_report.faults(good_report(**change))
    assert line in fault
    assert gpu_check.conclude(gpu_report.Record(good_report(**change), tmp_path)) == 1
    assert line in capsys.readouterr().out


def test_conclusion_shows_the_table(tmp_path, capsys):
    assert gpu_check.conclude(gpu_report.Record(good_report(), tmp_path)) == 0
    out = capsys.readouterr().out
    for text in ("Some GPU 9000", "copy 1000 GB/s", "reduce/2^20x64", "0.94 ok", "3.50 ok", "9.5"):
        assert text in out


def test_table_of_the_readme(tmp_path):
    assert gpu_report.table(tmp_path) == "not yet measured"
    recorded(gpu_report.empty("Killed at once", "2030-01-02", {}), tmp_path)
    assert gpu_report.table(tmp_path) == "not yet measured"
    recorded(good_report(), tmp_path)
    recorded(good_report(device="Other", rows=[good_row(median_ms=None, share_of_copy=None)]), tmp_path)
    first, _, head, rule, *rows = gpu_report.table(tmp_path).split("\n\n", 1)[1].splitlines()[-6:]
    lines = gpu_report.table(tmp_path).splitlines()
    assert lines[0] == "Other, 2030-01-02; a copy: 1000 GB/s; python 3.12."
    assert first == "Some GPU 9000, 2030-01-02; a copy: 1000 GB/s; python 3.12."
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, rule, *rows)]
    assert {len(row) for row in cells} == {len(gpu_report.COLUMNS)}
    assert cells[2] == [
        "reduce/2^20x64",
        "float32",
        "0.500",
        "0.94 (limit 0.9)",
        "2.00 (limit 1)",
        "1.00 (limit 1)",
        "3.50 (limit 3)",
        "",
        "20.5",
    ]
    assert "| reduce/2^20x64 | float32 |  | not yet measured |" in lines[4]


def test_a_slow_stage_shortens_the_last_and_an_error_stops_nobody(tmp_path, report, monkeypatch):
    clock, given = [0.0], {}
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: clock[0])
    record = gpu_report.Record(report, tmp_path)

    def first(record, names, end, setting):
        """Takes all that it may: twice what it was expected to."""
        given["first"] = list(names), end - clock[0]
        clock[0] = end
        record.put("bits_equal", True)

    def second(record, names, end, setting):
        """Fails."""
        given["second"] = list(names), end - clock[0]
        saved = json.loads(gpu_report.path_of(tmp_path, report["device"]).read_text())
        assert saved["bits_equal"] is True and saved["rows"] is None and saved["stages"]["second"]["seconds"] is None
        raise RuntimeError("out of order\nand more")

    def third(record, names, end, setting):
        """Gets what is left."""
        given["third"] = list(names), end - clock[0]
        record.put("sanitizer_findings", 0)
        return "twice: no memory"

    stages = [
        plan.Stage("first", first, ["a"], 30),
        plan.Stage("second", second, ["b", "c"], 5, 5),
        plan.Stage("third", third, ["d", "e", "f"], 5, 10),
        plan.Stage("last", third, ["g"], 50),
    ]
    gpu_check.check(record, stages, 85, gpu_stages.Setting(), gpu_check.Console(quiet=True))
    assert given == {"first": (["a"], 60), "second": (["b", "c"], 25), "third": (["d", "e"], 25)}
    saved = json.loads(gpu_report.path_of(tmp_path, report["device"]).read_text())
    assert [stage["error"] for stage in saved["stages"].values()] == [
        None,
        "RuntimeError: out of order",
        "twice: no memory",
        None,
    ]
    assert saved["stages"]["third"]["left_out"] == ["f"] and saved["stages"]["last"]["left_out"] == ["g"]
    assert (saved["bits_equal"], saved["sanitizer_findings"], saved["rows"]) == (True, 0, None)


def command(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, gpu_check.__file__, *arguments],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "environment, reason",
    [({"CUDA_VISIBLE_DEVICES": ""}, ""), ({"NUMBA_ENABLE_CUDASIM": "1"}, "a simulator is no GPU")],
)
def test_without_a_gpu(environment, reason, tmp_path):
    status, out, err = command("--compile", "--out", tmp_path, **environment)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("profiling/gpu_check.py: ") and reason in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def here(capsys, monkeypatch):
    """here(*arguments): the same as command, in this process."""
    monkeypatch.setattr(gpu_check.devices, "simulated", lambda: False)

    def main(*arguments):
        try:
            status = gpu_check.main(list(map(str, arguments)))
        except SystemExit as leaving:
            status = leaving.code
        return status, *capsys.readouterr()

    return main


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((), "expected --prebuilt DIR"),
        (("--prebuilt", "nowhere"), "--prebuilt: no manifest.json in nowhere"),
        (("--compile", "--out", "/proc/nowhere"), "--out: cannot be written"),
        (("--compile", "--peers", "torsh"), "peers: expected some of"),
    ],
)
def test_refused_before_anything_is_touched(arguments, said, here):
    status, out, err = here(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err


def test_table_needs_no_gpu(tmp_path):
    assert command("--table", "--out", tmp_path) == (0, "not yet measured\n", "")


@pytest.mark.parametrize("wrong", (["--minutes", "0"], ["--minutes", "nan"], ["--stages", "bit"], ["--minutes", "x"]))
def test_wrong_arguments(wrong, here):
    status, out, err = here(*wrong)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert wrong[0] in err
