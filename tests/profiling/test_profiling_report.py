"""The profiling report: its rows, what it says when something is missing, its files and its picture."""

import gc
import json
from pathlib import Path

import cases
import harness
import peers
import pytest
import roofline
import run

KEYS = {
    "case",
    "dtype",
    "bytes",
    "median_ms",
    "spread",
    "gbs",
    "share_of_copy",
    "limit",
    "peers",
    "peer_limit",
    "host_us",
}
SMALL = ("momentum/3x1000", "momentum/7-mixed", "adam/3x1000", "reduce/70x33", "reduce_update/70x33")


@pytest.fixture
def quick(monkeypatch):
    """Measuring takes milliseconds, and means nothing."""
    gc.freeze()  # each case ends with a collection, which need not go through what torch and Numba have left
    monkeypatch.setattr(harness, "MAX_SETS", 3)
    monkeypatch.setattr(harness, "clock", lambda device: harness.CpuClock(seconds=0.0))
    monkeypatch.setattr(harness, "copy_gbs", lambda device: 12.5)


@pytest.mark.parametrize("name", SMALL)
def test_a_row_has_what_the_report_needs(name, quick, monkeypatch):
    monkeypatch.setattr(cases, "MIXED", 5000)
    (row,) = run.measure([name], "cpu", cases.PEERS["cpu"], repeats=2)
    assert row.keys() >= KEYS and row["case"] == name and not row["skipped"] and row["sets"] == 3
    assert row["gbs"] == pytest.approx(row["bytes"] / row["median_ms"] / 1e6)
    assert row["spread"][0] <= row["median_ms"] <= row["spread"][1]
    for peer, ratio in row["peers"].items():
        low, high = row["peer_spread"][peer]
        assert 0 < low <= ratio <= high
    assert json.loads(json.dumps(row)) == row


def broken(*args):
    raise RuntimeError("no such luck\nand a second line")


def test_a_peer_that_fails_is_left_out_with_a_line(quick, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(peers.Arrays, "tensor", broken)
    lines, names = [], ["reduce/64x64", "momentum/2x10"]
    first, second = run.measure(names, "cpu", ["torch", "numpy"], repeats=2, progress=lines.append)
    assert first["peers"].keys() == {"numpy"} and second["peers"] == {}
    assert first["skipped"] == second["skipped"] == {"torch": "RuntimeError: no such luck"}
    assert [line for line in lines if "left out" in line] == [
        f"{name}: torch left out: RuntimeError: no such luck" for name in names
    ]


def test_a_case_that_fails_is_a_row_with_the_reason(quick, monkeypatch):
    monkeypatch.setattr(peers.Optimizer, "bound", broken)
    lines = []
    rows = run.measure(["momentum/2x10", "reduce/64x64"], "cpu", ["numpy"], repeats=1, progress=lines.append)
    assert rows[0] == {"case": "momentum/2x10", "dtype": "float32", "error": "RuntimeError: no such luck"}
    assert rows[1]["median_ms"] > 0 and "momentum/2x10: gdgpu left out: RuntimeError: no such luck" in lines


def test_without_torch_one_line_says_what_to_install(quick, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    lines = []
    rows = run.measure(["reduce/64x64", "momentum/9"], "cpu", ["torch", "numpy"], repeats=1, progress=lines.append)
    assert [line for line in lines if "torch" in line] == ['torch: not installed; pip install -e ".[peers]"']
    assert [list(row["peers"]) for row in rows] == [["numpy"], []]


def test_without_torch_there_is_no_torch_compile_either(monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    lines = []
    assert run._present(["torch", "cupy", "torch_compile"], "cuda", lines.append) == ["cupy"]
    assert len(lines) == 1


def test_a_peer_of_the_other_device_is_left_out(quick):
    lines = []
    (row,) = run.measure(["reduce/64x64"], "cpu", ["cupy", "numpy"], repeats=1, progress=lines.append)
    assert row["peers"].keys() == {"numpy"}
    assert lines[0] == f"cupy: not measured on cpu, only {', '.join(cases.PEERS['cpu'])}"


@pytest.mark.parametrize(
    "program, line, says",
    [
        (run, "no_such_case", f"case: expected {', '.join(cases.FAMILIES)}, momentum, adam"),
        (run, "no_such/64x784", "momentum/1x2^28, adam/1x2^28, "),
        (run, "reduce --sizes 1000-mixed", "sizes: reduce takes ROWSxCOLUMNS"),
        (run, "momentum --sizes 3x0", "got '3x0'"),
        (
            run,
            "--peers jax",
            f"peers: expected some of {', '.join(cases.KNOWN_PEERS)}, or none, got 'jax'",
        ),
        (run, "--device tpu", "choose from"),
        (run, "--dtype int8", "choose from"),
        (run, "--repeats 0", "repeats: expected an int >= 1, got 0"),
        (run, "--json no/such/folder.json", "json: no/such/folder.json cannot be written"),
        (run, "--plot picture.txt", "plot: expected a file named .png, .pdf or .svg"),
        (roofline, "missing.json p.png", "missing.json: No such file"),
        (roofline, "text.json p.png", "text.json: expected the JSON that"),
        (roofline, "old.json p.png", "old.json: rows lack bytes"),
        (roofline, "empty.json p.png", "empty.json: no row was measured"),
    ],
)
def test_bad_input_is_one_line(program, line, says, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GDGPU_DEVICE", "cpu")
    row = {"case": "reduce/2x2", "median_ms": 1.0, "share_of_copy": 1.0, "peers": {}}
    for name, text in (("text", "hello"), ("old", json.dumps({"rows": [row]})), ("empty", '{"rows": []}')):
        Path(f"{name}.json").write_text(text)
    with pytest.raises(SystemExit) as leaving:
        program.main(line.split())
    out, err = capsys.readouterr()
    assert leaving.value.code == 2 and out == "" and says in err
    assert err.count("\n") == 1 and err.startswith(f"{program.__name__}.py: ")


@pytest.fixture
def reported(quick, tmp_path, monkeypatch, capsys):
    """reported(line): standard output and error of run.py on the CPU, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def main(line):
        run.main(["--device", "cpu", "--repeats", "1", *line.split()])
        return capsys.readouterr()

    return main


def test_the_report_is_printed_written_and_drawn_the_same_again(reported):
    pytest.importorskip("matplotlib")
    out, err = reported("reduce/64x64 momentum/2x10 --peers numpy,read --json r.json --plot r.png")
    assert all(text in out for text in ("reduce/64x64", "momentum/2x10", "vs numpy", "vs read", "copy 12.5 GB/s"))
    assert err.splitlines() == ["reduce/64x64: measuring", "momentum/2x10: measuring"]
    report = json.loads(Path("r.json").read_text())
    assert report.keys() == {"device", "date", "versions", "copy_gbs", "rows"}
    assert [row["case"] for row in report["rows"]] == ["reduce/64x64", "momentum/2x10"]
    assert report["versions"].keys() >= {"python", "gdgpu", "numpy"} and "threads" in report["device"]
    roofline.main(["r.json", "again.png"])
    assert Path("again.png").read_bytes() == Path("r.png").read_bytes()
    width = int.from_bytes(Path("r.png").read_bytes()[16:20], "big")
    assert width >= 800


def test_without_matplotlib_the_table_is_still_there(reported, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    out, err = reported("reduce/64x64 --peers none --plot r.png")
    assert "reduce/64x64" in out and not Path("r.png").exists()
    assert err.splitlines()[-1] == 'plot: matplotlib is not installed; pip install -e ".[plot]"'


def test_a_table_marks_what_misses_its_limit():
    assert run._marked(0.92, ".0%", 0.95) == "[red]92%[/]"
    assert run._marked(0.96, ".0%", 0.95) == run._marked(0.96, ".0%") == "96%"
    assert run._marked(None, ".0%", 0.95) == ""
