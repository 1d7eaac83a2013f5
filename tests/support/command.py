"""Running the command line in this process, for the tests of it."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from gdgpu.cli import main


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GDGPU_DEVICE", "cpu")


def run(line):
    """(exit code, standard output, standard error) of a command line."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line.split())
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


def one_line(line, code=2):
    """What the one line on standard error says, of a command that fails."""
    returned, out, err = run(line)
    assert (returned, out) == (code, "") and err.startswith("gdgpu: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    return err


def trained(line):
    """The last record and the whole history of a quiet run."""
    assert run(f"train {line} --quiet --history h.json") == (0, "", "")
    history = json.loads(Path("h.json").read_text())
    return history["epochs"][-1], history
