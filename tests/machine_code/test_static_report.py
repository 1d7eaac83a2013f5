"""The static report as a program: its table, its files, its exit status and what it says to bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gdgpu.kernels.catalogue import ROWS
from support import ROOT
from support.compiling import compiles

SCRIPT = ROOT / "profiling" / "static_report.py"


def report(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run: (its process, the folder with what it wrote)."""
    folder = tmp_path_factory.mktemp("report")
    run = report("momentum.float32", "--arch", "sm_90", "--dump", folder / "new" / "sass", "--json", folder / "r.json")
    return run, folder


@compiles
def test_a_row_a_kernel_as_table_and_json(done):
    run, folder = done
    (row,) = json.loads((folder / "r.json").read_text())
    assert run.returncode == (1 if row["findings"] else 0), run.stderr
    assert (row["kernel"], row["dtype"], row["arch"]) == ("momentum", "float32", "sm_90")
    assert (row["spill_bytes"], row["float64_instructions"], row["local_memory_instructions"]) == (0, 0, 0)
    assert row["load_bits"] == row["store_bits"] == [128]
    (line,) = (line for line in run.stdout.splitlines() if "momentum" in line and "float32" in line)
    assert all(str(row[key]) in line for key in ("registers", "threads", "bytes_in_flight", "arch"))


@compiles
def test_the_dump_is_what_nvdisasm_prints(done):
    _, folder = done
    (file,) = (folder / "new" / "sass").iterdir()
    assert file.name == "momentum.float32.sm_90.sass"
    text = file.read_text()
    assert ".target\tsm_90" in text and text.count("LDG.E.128") >= 3 and "STG.E.128" in text


def run_with(setup, *arguments):
    """The script's main in a process that runs `setup` before."""
    script = f"import runpy, sys\n{setup}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


BROKEN_PROMISE = """
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.backend.limits import Limits
update.LIMITS = Limits(threads=4096)
"""


@compiles
def test_a_broken_limit_is_listed_and_makes_the_exit_status_1(tmp_path):
    file = tmp_path / "r.json"
    run = run_with(BROKEN_PROMISE, "momentum.float32", "--arch", "sm_90", "--json", file)
    assert run.returncode == 1, run.stderr
    (finding,) = json.loads(file.read_text())[0]["findings"]
    assert finding.startswith("momentum.float32.sm_90: 2048 threads resident, fewer than 4096, bound by threads")
    assert finding in run.stdout.splitlines()


NO_NVDISASM = """
from gdgpu import machine_code
from gdgpu.machine_code import gate, tools
found = tools.tool
def tool(name):
    if name == "nvdisasm":
        raise tools.MissingToolError("nvdisasm is not here")
    return found(name)
machine_code.tool = gate.tool = tools.tool = tool
"""


@compiles
def test_without_nvdisasm_the_rest_still_runs():
    run = run_with(NO_NVDISASM, "momentum.float32", "--arch", "sm_90")
    assert "nvdisasm is not here; without it no instruction is looked at" in run.stderr
    (line,) = (line for line in run.stdout.splitlines() if "momentum" in line)
    assert run.returncode == 1 and "2048" in line and "?" in line


BAD = {
    "a kernel": (["momentun"], [*dict.fromkeys(row.name for row in ROWS), "'momentun'"]),
    "a dtype": (["momentum.int8"], ["'momentum.int8'"]),
    "an architecture": (["--arch", "sm_99"], ["sm_80, sm_90, sm_100, sm_120", "'sm_99'"]),
    "an option": (["--tabel"], ["--tabel"]),
    "a folder that cannot be": (["momentum", "--dump", __file__], [__file__]),
    "a file that cannot be": (["momentum", "--json", Path(__file__).parent], [str(Path(__file__).parent)]),
}


ALL_OF_THEM = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
script, cases, said = sys.argv[1], json.loads(sys.argv[2]), {}
for name, arguments in cases.items():
    sys.argv, out, err, status = [script, *arguments], io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as leaving:
            status = leaving.code
    said[name] = status, out.getvalue(), err.getvalue()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def refused():
    """{name: (exit status, standard output, standard error)} of the script with bad input, all in one process."""
    cases = json.dumps({name: list(map(str, arguments)) for name, (arguments, _) in BAD.items()})
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    command = [sys.executable, "-c", ALL_OF_THEM, SCRIPT.as_posix(), cases]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300, env=environment).stdout)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_status_2(case, refused):
    (status, out, err), expected = refused[case], BAD[case][1]
    assert (status, out) == (2, "")
    assert err.startswith("static_report.py: ") and err.count("\n") == 1
    assert all(text in err for text in expected), err


def test_the_simulator_compiles_nothing():
    run = report("momentum", NUMBA_ENABLE_CUDASIM="1")
    assert run.returncode == 2 and run.stderr == (
        "static_report.py: NUMBA_ENABLE_CUDASIM is set: the simulator compiles nothing\n"
    )
