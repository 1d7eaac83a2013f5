"""What fits into the minutes of a GPU check."""

import subprocess
import sys

import gpu_check
import pytest
from gpu import plan
from gpu import stages as gpu_stages


def stage(name, count, *how, **more):
    return plan.Stage(name, gpu_stages.rows, [f"{name}{k}" for k in range(count)], *how, **more)


STAGES = (stage("a", 10, 10, 5), stage("b", 3, 70, least=30), stage("c", 100, 5, 1))


@pytest.mark.parametrize(
    ("seconds", "counts", "takes"),
    [
        (1000, [10, 3, 100], [60, 70, 105]),
        (235, [10, 3, 100], [60, 70, 105]),
        (200, [10, 3, 65], [60, 70, 70]),
        (100, [10, 3, 0], [60, 40, 0]),  # less than it is expected to take, and no less than its least
        (89, [10, 0, 24], [60, 0, 29]),  # what is worth less may still fit
        (30, [4, 0, 0], [30, 0, 0]),
        (14, [0, 0, 9], [0, 0, 14]),
        (0, [0, 0, 0], [0, 0, 0]),
        (-5, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_what_fits(seconds, counts, takes):
    planned = plan.plan(STAGES, seconds)
    assert [len(p.names) for p in planned] == counts
    assert [p.seconds for p in planned] == takes
    assert sum(takes) <= max(0, seconds)
    for p, whole in zip(planned, STAGES, strict=True):
        assert [*p.names, *p.left_out] == list(whole.names)


@pytest.mark.parametrize(
    ("seconds", "counts"), [(200, [10, 3]), (100, [10, 3]), (80, [8, 3]), (45, [1, 3]), (44, [0, 3])]
)
def test_names_that_are_worth_less_give_way(seconds, counts):
    stages = stage("a", 10, 10, 5, gives_way=True), stage("b", 3, 70, least=30)
    planned = plan.plan(stages, seconds)
    assert [len(p.names) for p in planned] == counts and sum(p.seconds for p in planned) <= seconds


def test_the_plan_in_words():
    *stages, left, total = plan.lines(plan.plan(STAGES, 100), 110)
    assert [line.split()[:5] for line in stages] == [
        ["a", "60", "s", "10", "of"],
        ["b", "40", "s", "3", "of"],
        ["c", "0", "s", "0", "of"],
    ]
    assert (left, total) == ("left out: c: all", "sum: 100 s of 110 s")
    assert "a4, a5, a6, a7 and 2 more" in plan.lines(plan.plan(STAGES, 30), 30)[-2]


@pytest.mark.parametrize("minutes", (0.1, 1, 5, 6, 12, 60))
def test_a_plan_is_printed_without_a_gpu_and_sums_to_less(minutes):
    done = subprocess.run(
        [sys.executable, gpu_check.__file__, "--plan", "--minutes", str(minutes)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    *stages, left, total = done.stdout.splitlines()
    assert [line.split()[0] for line in stages] == ["smoke", "core", "bits", "rows", "proof", "dtypes", "late"]
    takes, of = (float(word) for word in total.split()[1::3])
    assert takes <= 60 * minutes - plan.RESERVE + 1 and of == 60 * minutes
    assert (left == "left out: nothing") == (minutes >= 12)
    assert sum(float(line.split()[1]) for line in stages) == pytest.approx(takes, abs=len(stages))


def test_rows_come_by_worth():
    """The core rows, then what they have no family of, then fewer bytes, then the other optimizers."""
    stages = {stage.name: list(stage.names) for stage in gpu_stages.stages()}
    assert set(stages["core"]) | set(stages["rows"]) == {name for name, _ in gpu_stages.gpu_cases()}
    assert not set(stages["core"]) & set(stages["rows"])
    kinds = [name.split("/")[0] for name in stages["rows"]]
    assert kinds.index("softmax_gradient") < kinds.index("adam_8bit") < kinds.index("nesterov")
    assert set(stages["late"]) == set(stages["core"]) and len(stages["core"]) == 10
    assert stages["late"][0].startswith("reduce") and stages["late"][-1].startswith("momentum")


def test_five_minutes_have_room_for_the_proof():
    usual = [stage for stage in gpu_stages.stages() if stage.name not in gpu_stages.ASKED_FOR]
    planned = {p.stage.name: p for p in plan.plan(usual, 300 - gpu_check.SMOKE - plan.RESERVE)}
    assert all(planned[name].names for name in ("core", "bits", "rows", "proof"))
