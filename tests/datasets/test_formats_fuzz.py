"""Damaged files of every kind through gdgpu train: one line each, nothing touched, no memory beyond what files hold."""

import json
import os
import subprocess
import sys

import pytest

from support import fuzz_files

pytest.importorskip("resource", reason="the largest resident set is POSIX")
SEED = int(os.environ.get("GDGPU_FUZZ_SEED", 0))


def fuzzed(seed, count):
    """What fuzz_files prints, of files that are mutated and run in a process of their own."""
    line = [sys.executable, fuzz_files.__file__, str(seed), "0", str(count)]
    done = subprocess.run(line, env=os.environ | {"GDGPU_DEVICE": "cpu"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.full)])
def test_mutated_files_end_in_one_line(count):
    found = fuzzed(SEED, count)
    assert not found["failures"], f"seed {SEED}: {found['failures']}"
    assert found["megabytes"] < 300, f"seed {SEED}: {found['megabytes']:.0f} MB"
    assert {"0", "2"} <= found["codes"].keys()  # some get through
