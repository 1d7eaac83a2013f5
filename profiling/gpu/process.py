"""Other processes with time limits, for the GPU check: heard line by line, and none is waited for long."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from gdgpu.kernels.backend import toolchain
from gpu import ROOT

START = 45  # seconds that a process may take to begin: imports, a context, the first machine code to load
LIMIT = 25  # seconds for each thing that it then does
OUT_OF_TIME = "out of time"
POLL = 0.2  # seconds between looks at whether it has ended
PATIENCE = 5  # seconds for a process that was killed
_running: set[subprocess.Popen] = set()


@dataclass(frozen=True)
class Done:
    """How a process ended. status: its exit status. cut: seconds after which it was killed. out, err: lines."""

    status: int
    cut: float | None
    out: list[str]
    err: list[str]

    @property
    def why(self) -> str:
        """One line that says why it failed."""
        if self.cut is not None:
            return f"cut after {self.cut:.0f} s"
        said = [line.strip() for line in (*self.out, *self.err) if line.strip() and not line.startswith("{")]
        last = said[-1][:300] if said else ""
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}" + (f": {last}" if last else "")
        return last or f"exit status {self.status}"


def run(
    command: Iterable,
    seconds: float,
    environment: dict[str, str] | None = None,
    heard: Callable[[str], object] | None = None,
    quiet: float | None = None,
) -> Done:
    """Run a command of Python's in the repository; heard(line) gets each line of its output as it comes.

    It is killed, with all that it started, after so many seconds, and when no answer, a line for which `heard` returned
    something true, comes for `quiet` seconds (START before the first).
    """
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0", "PYTHONUNBUFFERED": "1"} | (environment or {})
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            env=environment,
            process_group=0,  # what it starts goes with it
        )
        out, watch = [], _Watch(process, time.monotonic() + seconds, quiet)
        _running.add(process)
        try:
            for line in watch.lines():
                out.append(line)
                if heard and heard(line):
                    watch.answered()
        finally:
            _kill(process)
            _running.discard(process)
            process.stdout.close()
        errors.seek(0)
        return Done(_status(process), watch.cut, out, errors.read().splitlines())


class _Watch:
    """Reads what a process says until it ends or its time is over. cut: seconds that it had then, or None."""

    def __init__(self, process: subprocess.Popen, end: float, quiet: float | None):
        self.process, self.end, self.quiet, self.cut = process, end, quiet, None
        self.start = self._since = time.monotonic()
        self._last = min(end, self.start + max(START, quiet)) if quiet else end

    def answered(self) -> None:
        """It has as long again for the next answer."""
        if self.quiet:
            self._since = time.monotonic()
            self._last = min(self.end, self._since + self.quiet)

    def lines(self) -> Iterator[str]:
        output, rest, is_open = self.process.stdout.fileno(), b"", True
        while (left := self._last - time.monotonic()) > 0:
            has_ended = self.process.poll() is not None
            if is_open and select.select([output], [], [], 0 if has_ended else min(left, POLL))[0]:
                data = os.read(output, 1 << 16)
                *lines, rest = (rest + data).split(b"\n")
                is_open = bool(data)
                for line in lines:
                    yield line.decode(errors="replace")
            elif has_ended:  # what it started may hold its output open
                break
            elif not is_open:
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(min(left, POLL))
        else:
            self.cut = self._last - (self.start if self._last == self.end else self._since)
        if rest:
            yield rest.decode(errors="replace")


def _status(process: subprocess.Popen) -> int:
    """The exit status; of what not even a signal ends, as one that waits for a broken device, that of the signal."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def each(
    command: Callable[[list[str]], Iterable],
    names: Iterable[str],
    end: float,
    heard: Callable[[str, dict], None],
    environment: dict[str, str] | None = None,
    limit: float | None = None,
    often: int = 2,
) -> str | None:
    """Let processes answer for these names until `end` (of time.monotonic()); what fails loses only itself.

    command(names): one that says {"case": name, …} in JSON for each in turn, and leaves behind one that has an "error".
    heard(name, found) gets these, and {"error": …} for a name whose process dies or says nothing for `limit` seconds,
    LIMIT if None; another process goes on behind it. Returns why it ended early, or None: no time left, or the same
    error so `often`.
    """
    waiting, errors = list(dict.fromkeys(names)), Counter()

    def take(name, found):
        waiting.remove(name)
        errors.update([found["error"]] if found.get("error") else [])
        heard(name, found)

    while waiting:
        if (left := end - time.monotonic()) <= 0:
            return OUT_OF_TIME
        left_by_itself = False

        def line(text):
            nonlocal left_by_itself
            if (found := _json(text)) and found.get("case") in waiting:
                left_by_itself = bool(found.get("error"))
                take(found["case"], found)
                return True
            return False

        done = run(command(waiting), left, environment, line, limit or LIMIT)
        if time.monotonic() >= end:
            return OUT_OF_TIME if waiting else None
        if waiting and not left_by_itself:
            if not done.status:
                return f"{waiting[0]}: no answer"
            take(waiting[0], {"error": done.why})
        if again := next((error for error, count in errors.items() if count >= often), None):
            return f"{'twice' if often == 2 else f'{often} times'}: {again}"
    return None


def serve(names: Iterable[str], answer: Callable[[str], dict]) -> int:
    """The other side of `each`: say answer(name) for each name; leave after an error, which may have cost the GPU."""
    for name in names:
        try:
            found = answer(name)
        except Exception as error:
            found = {"error": one_line(error)}
        print(json.dumps({"case": name} | found, default=str), flush=True)
        if found.get("error"):
            return 1
    return 0


def one_line(error: BaseException) -> str:
    """What an error says, for a line of a report."""
    return toolchain.one_line(error)[:300]


def python(script: str, *arguments) -> list[str]:
    """The command of a script of the repository."""
    return [sys.executable, script, *map(str, arguments)]


def _json(text: str) -> dict | None:
    with suppress(ValueError):
        found = json.loads(text) if text.startswith("{") else None
        return found if isinstance(found, dict) else None
    return None


def _kill(process: subprocess.Popen) -> None:
    """End it and what it started, also what has outlived it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def end_all() -> None:
    """End what is running, from a signal handler say: threads that wait for it go on."""
    for process in list(_running):
        _kill(process)
