"""gdgpu train and a file at --checkpoint: what may continue, what may be replaced, what is refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from gdgpu import checkpoint
from support.command import in_empty_directory, one_line, run, trained  # noqa: F401

LINE = "a.csv --batch-size 16"
RECORD = {"epoch": 0, "loss": 1.0, "test_loss": 1.0, "test_metric": 0.5, "seconds": 0.1}


@pytest.fixture(autouse=True)
def checkpoint_of_one_epoch(in_empty_directory):  # noqa: F811
    rows = np.random.default_rng(0).normal(size=(40, 2)).round(3).tolist()
    Path("a.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{('cat', 'inf')[a > 0]}\n" for a, b in rows))
    trained(f"{LINE} --epochs 1 --checkpoint c.safetensors")


def history(**change):
    return json.dumps([RECORD | change])


DAMAGE = {
    "history": [
        *("", "null", "7", "{}", "[]", "[1]", "[[]]", "[null]", '["epoch"]', "[{}]", "NaN", "[" * 100_000),
        *(history(epoch=value) for value in (1, "0", 0.0, None, True, [])),
        *(history(loss=value) for value in (None, "1", float("nan"), float("inf"), [1], {}, True)),
        *(history(seconds=value) for value in (None, -1, "1", 10**400)),
        *(history(test_loss=value) for value in ("1", [], float("nan"), False)),
        history(more=1),
        json.dumps([RECORD, RECORD | {"epoch": 1}]),
    ],
    "settings": ["", "null", "[]", "7", "{", '{"lr": NaN}', '{"a":' * 100_000, "{}"],
    "labels": ["", "null", "{}", '["cat", "dog"]', '["cat"]', "[0, 1]", "[" * 100_000, '["cat", NaN]'],
    "epoch": ["", "null", "0", "-1", "1.0", "2", "[1]", "true", '"1"', "NaN", "9" * 5000],
    "steps": ["", "null", "1", "-2", "2.0", "3", "[2]", "true", "1e999", "9" * 30],
    "hyper": [
        "",
        "null",
        "[]",
        "{}",
        "7",
        '{"lr": null}',
        '{"lr": 0.1, "momentum": "x"}',
        '{"lr": [1]}',
        "[" * 100_000,
    ],
    "format": ["", "gdgpu train", "gdgpu train 1", "gdgpu train 2 "],
    "optimizer": ["", "SGD", "null"],
}


def refused(line):
    """A run that is refused says one line, and leaves the file."""
    before = Path("c.safetensors").read_bytes()
    said = one_line(f"train {LINE} {line} --checkpoint c.safetensors")
    assert said.startswith("gdgpu: --checkpoint: c.safetensors") and len(said) <= 301
    assert Path("c.safetensors").read_bytes() == before
    return said


@pytest.mark.parametrize("name", DAMAGE)
def test_text_of_other_types(name):
    tensors, metadata = checkpoint.load("c.safetensors")
    for text in [*DAMAGE[name], None]:
        changed = {key: value for key, value in (metadata | {name: text}).items() if value is not None}
        checkpoint.save("c.safetensors", tensors, changed)
        for epochs in (1, 2):
            refused(f"--resume --epochs {epochs}")


def test_settings_of_other_types():
    tensors, metadata = checkpoint.load("c.safetensors")
    settings = json.loads(metadata["settings"])
    for name, value in settings.items():
        for other in (str(value), [value], None, {"a": value}, float(value) if type(value) is int else True):
            if json.dumps(other) == json.dumps(value):
                continue
            changed = metadata | {"settings": json.dumps(settings | {name: other})}
            checkpoint.save("c.safetensors", tensors, changed)
            assert f"of another run: {name} " in refused("--resume --epochs 2")


@pytest.mark.parametrize("name", ["params/weight", "params/bias", "state/velocity/weight", "mean", "scale"])
def test_tensors_that_do_not_fit(name):
    tensors, metadata = checkpoint.load("c.safetensors")
    array, nan = tensors[name], tensors[name].copy()
    nan.flat[0] = np.nan
    others = [array[:-1], array[None], array.astype("float16"), array.astype("int64"), np.zeros((), "f4"), nan, None]
    for other in others:
        changed = {key: value for key, value in (tensors | {name: other}).items() if value is not None}
        checkpoint.save("c.safetensors", changed, metadata)
        refused("--resume --epochs 2")


def test_a_longer_run_is_not_replaced():
    trained(f"{LINE} --epochs 3 --resume --checkpoint c.safetensors")
    said = refused("--epochs 2")
    assert "holds 3 epochs, more than 2" in said and "--resume" in said and "another file" in said
    code, _, err = run(f"train {LINE} --epochs 3 --seed 1 --checkpoint c.safetensors")
    assert code == 0 and err == "c.safetensors of 3 epochs will be replaced; --resume would continue it\n"
    assert json.loads(checkpoint.load("c.safetensors")[1]["settings"])["seed"] == 1


FOREIGN = {
    "text": b"hello",
    "a table": b"a,b\n1,2\n",
    "zeros": bytes(100),
    "another program's": None,
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_checkpoint_is_not_replaced(case):
    if FOREIGN[case] is None:
        checkpoint.save("c.safetensors", {"weight": np.zeros(3)}, {"epoch": "1"})
    else:
        Path("c.safetensors").write_bytes(FOREIGN[case])
    assert "another file" in refused("--epochs 5")
    Path("c.safetensors").write_bytes(b"")
    assert run(f"train {LINE} --epochs 1 --quiet --checkpoint c.safetensors") == (0, "", "")


def test_an_epoch_that_is_no_number_is_not_replaced():
    tensors, metadata = checkpoint.load("c.safetensors")
    for text in DAMAGE["epoch"]:
        if text != "2":
            checkpoint.save("c.safetensors", tensors, metadata | {"epoch": text})
            refused("--epochs 5")
