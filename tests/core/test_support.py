"""What the tests stand on: covers have every pair, slices of --full are parts of it, Ctrl-C reaches the tests."""

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ROOT, covering


def is_allowed(*case):
    return sum(case) % 5 != 3


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_cover_has_every_pair_that_is_allowed(sizes):
    sequences = [range(size) for size in sizes]
    cases = [case for case in itertools.product(*sequences) if is_allowed(*case)]
    chosen = covering.all_pairs(*sequences, allowed=is_allowed)
    assert set(chosen) <= set(cases) and len(chosen) == len(set(chosen))
    for (i, a), (j, b) in itertools.combinations([(k, v) for k, values in enumerate(sequences) for v in values], 2):
        wanted = i != j and any(case[i] == a and case[j] == b for case in cases)
        assert wanted == (i != j and any(case[i] == a and case[j] == b for case in chosen))
    for i, a in ((k, v) for k, values in enumerate(sequences) for v in values):
        assert any(case[i] == a for case in cases) == any(case[i] == a for case in chosen)


def test_values_of_a_cover_need_not_be_hashable():
    assert covering.all_pairs([{}, []], [None]) == [({}, None), ([], None)]


def test_a_cover_is_much_smaller_than_the_product():
    assert len(covering.all_pairs(*[range(4)] * 6)) < 40  # of 4096; no cover has fewer than 16


@pytest.mark.parametrize("full", (False, True))
def test_full_adds_what_is_not_chosen_and_marks_it(full, monkeypatch):
    monkeypatch.setattr(covering, "FULL", full)
    found = covering.usual(["a", ("b",), "c"], ["a", "c"])
    assert [case for case in found if isinstance(case, str)] == ["a", "c"]
    (added,) = [case for case in found if not isinstance(case, str)] or [None]
    assert (added is not None) == full
    if full:
        assert added.values == ("b",) and [mark.name for mark in added.marks] == ["full"]


def test_slices_are_parts_that_the_seed_chooses():
    names = [f"tests/test_any.py::test[{k}]" for k in range(2000)]
    first, again, other = ({n for n in names if covering.in_slice(n, seed, 4)} for seed in ("a", "a", "b"))
    assert first == again != other
    assert 400 < len(first) < 600 and 400 < len(other) < 600
    assert all(covering.in_slice(name, "a", 1) for name in names)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX alone lets a shell ignore SIGINT")
def test_ctrl_c_reaches_tests_that_were_started_with_sigint_ignored(tmp_path):
    test = f"{ROOT}/tests/kernels/backend/test_signals.py::test_an_interrupt_at_every_line[2]"
    script = "import signal, sys, pytest; signal.signal(2, signal.SIG_IGN); sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts=", test]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
