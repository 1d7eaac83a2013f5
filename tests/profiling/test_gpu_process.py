"""Processes with time limits: what they say is heard as it comes, and what one of them loses is its own."""

import json
import sys
import time

import pytest
from gpu import process

from support import gpu_stub
from support.processes import is_gone


def script(text, *arguments):
    return [sys.executable, "-c", text, *arguments]


def test_lines_are_heard_as_they_come():
    heard = []
    done = process.run(script("print('a'); print('b', end=''); 1/0"), 30, heard=heard.append)
    assert (heard, done.out, done.status, done.cut) == (["a", "b"], ["a", "b"], 1, None)
    assert done.why == "ZeroDivisionError: division by zero"


def test_time_limit_ends_a_process_and_what_it_started():
    child = "import subprocess as s; p = s.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    start = time.monotonic()
    done = process.run(script(child), 1)
    assert done.cut is not None and done.why == "cut after 1 s" and time.monotonic() - start < 10
    assert any(is_gone(done.out[0]) or time.sleep(0.1) for _ in range(100))


@pytest.mark.parametrize(
    "end",
    ("time.sleep(60)", "os.close(1); time.sleep(60)", "while True: print('a warning', flush=True); time.sleep(0.05)"),
    ids=("silent", "closed", "chatters"),
)
def test_a_process_that_answers_no_more_is_ended(end):
    text = f"import os, sys, time\nfor k in range(4): print(k, flush=True); time.sleep(0.2)\n{end}"
    start = time.monotonic()
    done = process.run(script(text), 30, heard=str.isdigit, quiet=1)
    assert done.out[:4] == ["0", "1", "2", "3"] and done.why == "cut after 1 s"
    assert time.monotonic() - start < 10


def test_the_time_is_kept_also_where_it_never_stops_talking():
    text = "while True: print('a line of some length', flush=True)"
    start = time.monotonic()
    done = process.run(script(text), 1, heard=lambda line: time.sleep(0.0001))
    assert done.why == "cut after 1 s" and time.monotonic() - start < 10


@pytest.mark.parametrize("end", ("os.kill(os.getpid(), 11)", "sys.exit(0)"), ids=("dies", "leaves"))
def test_what_a_process_leaves_behind_neither_holds_it_up_nor_stays(end):
    """It has the process's output open."""
    text = f"import os, subprocess, sys\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\n{end}"
    start = time.monotonic()
    done = process.run(script(text), 30)
    assert done.cut is None and done.status == (-11 if "kill" in end else 0) and time.monotonic() - start < 10
    assert any(is_gone(done.out[0]) or time.sleep(0.1) for _ in range(100))


def test_all_processes_can_be_ended():
    text = "import time; print('here', flush=True); time.sleep(60)"
    done = process.run(script(text), 50, heard=lambda line: process.end_all())
    assert (done.out, done.status, done.cut) == (["here"], -9, None)


@pytest.fixture
def ask(tmp_path, hanging):
    """ask(names, seconds, **asked): (why it ended, {name: what was heard}, how many processes it took)."""
    hanging(process.START + 1)

    def run(names, seconds=600, **asked):
        path = tmp_path / "asked.json"
        path.write_text(json.dumps(asked))
        heard, started = {}, []

        def command(left):
            started.append(list(left))
            return [sys.executable, gpu_stub.__file__, "bits.py", "-", *left]

        end = time.monotonic() + seconds
        why = process.each(command, names, end, heard.__setitem__, {"GDGPU_STUB": str(path)})
        return why, heard, len(started)

    return run


NAMES = ["a", "b", "c", "d"]
GOOD = {"different": None}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("hang", "cut after 25 s"),
        ("die", "killed by SIGSEGV"),
        ({"error": "ValueError: no"}, "ValueError: no"),
    ],
    ids=("hangs", "dies", "raises"),
)
@pytest.mark.parametrize("name", NAMES)
def test_a_case_that_fails_loses_only_itself(name, asked, error, ask):
    why, heard, processes = ask(NAMES, **{name: asked})
    assert why is None and list(heard) == NAMES
    first_takes_longer = asked == "hang" and name == "a"
    assert heard.pop(name)["error"] == ("cut after 45 s" if first_takes_longer else error)
    assert all(found == {"case": other} | GOOD for other, found in heard.items())
    assert processes == (1 if name == "d" else 2)


def test_lines_that_are_no_answers_are_passed_over(ask):
    why, heard, processes = ask(NAMES, b="chatter")
    assert (why, list(heard), processes) == (None, NAMES, 1)


def test_the_same_error_twice_ends_it(ask):
    why, heard, _ = ask(NAMES, a={"error": "no memory"}, b={"error": "no memory"})
    assert why == "twice: no memory" and list(heard) == ["a", "b"]
    why, heard, _ = ask(NAMES, a={"error": "no memory"}, b={"error": "other"})
    assert why is None and list(heard) == NAMES


def test_a_process_that_leaves_without_an_answer_is_not_asked_for_ever(ask):
    why, heard, processes = ask(NAMES, b="leave")
    assert why == "b: no answer" and list(heard) == ["a"] and processes == 1


def test_no_more_than_its_time(ask):
    start = time.monotonic()
    why, heard, _ = ask([f"n{k}" for k in range(100)], seconds=3, pause=0.4)
    assert why == "out of time" and 0 < len(heard) < 8
    assert time.monotonic() - start < 10
    assert not any("error" in found for found in heard.values())


def test_the_other_side_leaves_behind_an_error(capsys):
    def answer(name):
        if name == "b":
            raise RuntimeError("CUDA_ERROR\nmore")
        return {"value": name}

    assert process.serve(NAMES, answer) == 1
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"case": "a", "value": "a"},
        {"case": "b", "error": "RuntimeError: CUDA_ERROR"},
    ]
    assert process.serve(["a"], answer) == 0
