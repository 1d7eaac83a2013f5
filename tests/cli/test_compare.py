"""gdgpu compare: each run is the one that gdgpu train makes, and the table says what the runs say."""

import json
import re
import statistics
from itertools import product
from pathlib import Path

import pytest

from gdgpu.cli import progress, train
from gdgpu.cli.plotting import COLORS
from support.command import in_empty_directory, one_line, run, trained  # noqa: F401


def compared(line):
    """The runs of the history, the loss to reach, and what is shown."""
    code, out, err = run(f"compare {line} --history compare.json")
    assert (code, err) == (0, "")
    written = json.loads(Path("compare.json").read_text())
    return written["runs"], written["reach"], out


def rows(out):
    """The table as lists of cells, the header first."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()[2:-2]]
    return [line for line in lines if len(line) > 1]


def table(out):
    header, *cells = rows(out)
    return [dict(zip(header, row, strict=True)) for row in cells]


def without_seconds(history):
    for record in history["epochs"]:
        assert record.pop("seconds") > 0
    return history


def test_each_run_is_the_one_of_train():
    line = "--epochs 2 --test-fraction 0.3 --no-standardize --model softmax"
    names, sizes, seeds = ("sgd", "nesterov", "adam"), (16, "full"), (0, 3)
    several = " ".join(
        [f"--optimizer {name}" for name in names]
        + [f"--batch-size {size}" for size in sizes]
        + [f"--seed {seed}" for seed in seeds]
    )
    runs, _, _ = compared(f"{line} {several}")
    for found, (name, size, seed) in zip(runs, product(names, sizes, seeds), strict=True):
        assert found.pop("diverged_at_step") is None
        _, single = trained(f"{line} --optimizer {name} --batch-size {size} --seed {seed}")
        assert without_seconds(found) == without_seconds(single)


def test_several_learning_rates():
    _, _, out = compared("--epochs 1 --optimizer sgd --batch-size full --lr 0.01 --lr 0.1")
    assert [row["lr"] for row in table(out)] == ["0.01", "0.1"]
    for row in table(out):
        last, _ = trained(f"--epochs 1 --optimizer sgd --batch-size full --lr {row['lr']}")
        assert row["test loss"] == f"{last['test_loss']:.3g}"


def test_the_table_says_what_the_runs_say():
    runs, reach, out = compared("--epochs 4 --batch-size 32 --batch-size full")
    assert reach == max(min(record["loss"] for record in one["epochs"]) for one in runs)
    assert f"until the training loss is {reach:.4g}" in out
    assert [(row["optimizer"], row["batch"]) for row in table(out)] == [
        (name, size) for name in ("sgd", "momentum", "nesterov", "adam") for size in ("32", "full")
    ]
    for row, one in zip(table(out), runs, strict=True):
        epochs, last = one["epochs"], one["epochs"][-1]
        reached = [record["loss"] <= reach for record in epochs].index(True) + 1
        seconds = [record["seconds"] for record in epochs]
        expected = {
            "lr": one["config"]["lr"],
            "training loss": last["loss"],
            "test loss": last["test_loss"],
            "test accuracy": last["test_metric"],
            "epochs": reached,
            "seconds": sum(seconds[:reached]),
        }
        assert {name: row[name] for name in expected} == {name: f"{value:.3g}" for name, value in expected.items()}
        assert row["samples/s"] == progress.short(1438 * 4 / sum(seconds))


def test_a_loss_to_reach():
    runs, reach, out = compared("--epochs 3 --batch-size 32 --optimizer sgd --optimizer adam --seed 0 --reach 0.5")
    assert reach == 0.5
    for row, one in zip(table(out), runs, strict=True):
        assert row["epochs"] == str([record["loss"] <= 0.5 for record in one["epochs"]].index(True) + 1)
    never = table(compared("--epochs 2 --optimizer sgd --batch-size 32 --reach 1e-9")[2])
    assert never[0]["epochs"] == "never" and "seconds" not in never[0]


def test_seeds_are_mean_and_deviation():
    runs, _, out = compared("--epochs 2 --optimizer momentum --batch-size 32 --seed 0 --seed 1 --seed 2")
    losses = [one["epochs"][-1]["test_loss"] for one in runs]
    (row,) = table(out)
    assert row["test loss"] == f"{statistics.mean(losses):.3g} ± {statistics.stdev(losses):.2g}"
    lowest = sorted(one["epochs"][-1]["loss"] for one in runs)
    middle = compared(f"--epochs 2 --optimizer momentum --batch-size 32 --seed 0 --seed 1 --seed 2 --reach {lowest[1]}")
    assert table(middle[2])[0]["epochs"] == "2 of 3 seeds"


def test_a_run_that_diverges_is_a_row_and_the_others_go_on():
    line = "--epochs 2 --batch-size 32 --optimizer sgd --optimizer momentum --lr 0.01 --lr 1e38"
    code, out, err = run(f"compare {line} --history compare.json --plot a.png")
    assert (code, err) == (0, "")
    step = re.search(r"at step (\d+)", one_line("train --optimizer sgd --lr 1e38 --epochs 2", code=1))[1]
    header, *cells = rows(out)
    assert [row[2:4] for row in cells if row[2] == "1e+38"] == [["1e+38", f"diverged at step {step}"]] * 2
    last, _ = trained("--epochs 2 --optimizer sgd --lr 0.01")
    assert dict(zip(header, cells[0], strict=True))["training loss"] == f"{last['loss']:.3g}"
    assert Path("a.png").exists()
    runs = json.loads(Path("compare.json").read_text())["runs"]
    assert [one["diverged_at_step"] for one in runs] == [None, int(step)] * 2


def test_every_run_diverges():
    code, out, err = run("compare --epochs 2 --optimizer sgd --lr 1e38 --seed 0 --seed 1 --plot a.png")
    assert code == 1 and err.startswith("gdgpu: training diverged at step ") and err.count("\n") == 1
    assert out.count("(2 of 2 seeds)") == 2 and not Path("a.png").exists()


BAD = [
    ("--optimizer sgdd", "'--optimizer': 'sgdd' is not one of"),
    ("--batch-size 32 --batch-size x", "'--batch-size': expected an int >= 1 or \"full\", got 'x'"),
    ("--batch-size 32 --batch-size 0", '--batch-size: expected an int >= 1 or "full", got 0'),
    ("--lr 0.1 --lr -1", "--lr: expected a finite number >= 0, got -1.0"),
    ("--reach nan", "--reach: expected a finite number >= 0, got nan"),
    ("--epochs 0", "--epochs: expected an int >= 1, got 0"),
    ("--seed 0 --seed -1", "--seed: expected an int >= 0, got -1"),
    ("--model logistic", "--model: logistic takes 2 classes, digits has 10"),
    ("--plot a.txt", "--plot: expected a file named .png, .pdf or .svg, got a.txt"),
    ("--plot a.png --history a.png", "--history: a.png is the file of --plot already"),
    ("nothing.csv", "DATA: nothing.csv does not exist"),
    ("--momentum 0.9", "--momentum"),
]


@pytest.mark.parametrize(("line", "says"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_line_before_anything_is_trained(line, says, monkeypatch):
    monkeypatch.setattr(train.Session, "train", lambda self: pytest.fail("trained"))
    assert says in one_line(f"compare {line}")
    assert not list(Path().iterdir())


def test_interrupted(monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Session, "train", interrupt)
    assert one_line("compare", code=130) == "gdgpu: interrupted\n"


@pytest.mark.parametrize("width", [1, 10, 40, 60, 100, 400])
def test_every_number_is_whole_at_any_width_of_the_terminal(width, monkeypatch):
    from rich.console import Console

    line = "--epochs 1 --optimizer sgd --optimizer adam --seed 0 --seed 1 --batch-size 32"
    usual = rows(compared(line)[2])
    terminal = {"width": width, "force_terminal": True, "color_system": None}
    monkeypatch.setattr(progress, "console", lambda stderr=False: Console(**terminal))
    words = set(compared(line)[2].split())
    for header, *cells in zip(*usual, strict=True):
        if header not in ("seconds", "samples/s") and width >= 40:
            assert set(" ".join([header, *cells]).split()) <= words


def test_plot():
    image = pytest.importorskip("PIL.Image", reason="comes with matplotlib")
    import numpy as np

    assert run("compare --epochs 3 --quiet --optimizer sgd --optimizer adam --plot a.png --batch-size 32") == (
        0,
        "",
        "",
    )
    picture = image.open("a.png")
    assert picture.format == "PNG" and picture.width >= 1280
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    for color, drawn in zip(COLORS, (True, True, False), strict=False):
        rgb = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        for half in np.split(pixels[: int(0.8 * len(pixels))], [pixels.shape[1] // 2], axis=1):
            assert (int((abs(half - rgb).sum(-1) < 30).sum()) > 300) == drawn
