"""Other processes with a time limit, for the GPU check."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_running = set()


@dataclass(frozen=True)
class Done:
    """How a process ended. status: its exit status. cut: it was killed at its time limit. out, err: lines."""

    status: int
    cut: bool
    out: list
    err: list

    def why(self, seconds):
        """One line that says why it failed."""
        last = next((line for line in reversed(self.out + self.err) if line.strip()), f"exit status {self.status}")
        return f"cut after {seconds:.0f} s" if self.cut else last.strip()[:300]


def run(command, seconds, environment=None, heard=None):
    """Run a command of Python's in the repository; heard(line) gets each line of its output as it comes."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"} | (environment or {})
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env=environment,
            process_group=0,  # what it starts goes with it
        ) as process,
    ):
        out, end = [], time.monotonic() + seconds
        clock = threading.Timer(seconds, _kill, [process])
        clock.start()
        _running.add(process)
        try:
            for line in process.stdout:
                out.append(line.rstrip("\n"))
                if heard:
                    heard(out[-1])
            process.wait()
        finally:
            clock.cancel()
            _kill(process)
            _running.discard(process)
        errors.seek(0)
        cut = process.returncode == -signal.SIGKILL and time.monotonic() >= end
        return Done(process.returncode, cut, out, errors.read().splitlines())


def _kill(process):
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def end_all():
    """End what is running, from a signal handler say: threads that wait for it go on."""
    for process in list(_running):
        _kill(process)
