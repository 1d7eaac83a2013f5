"""Every line here ends with one line on standard error that says which argument to mend."""

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from gdgpu import checkpoint, devices
from gdgpu.cli import main
from support.command import in_empty_directory, one_line, trained  # noqa: F401

FINE = "a,b,y\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n"


def csv(text, name="bad.csv"):
    return lambda: Path(name).write_text(text)


def npz(**arrays):
    return lambda: np.savez("bad.npz", **arrays)


def npy(**arrays):
    return lambda: [np.save(name, array) for name, array in arrays.items()]


def raw(name, content):
    return lambda: Path(name).write_bytes(content)


def truncated():
    np.savez("whole.npz", X=np.random.default_rng(0).normal(size=(100, 3)), y=np.arange(100) % 2)
    Path("bad.npz").write_bytes(Path("whole.npz").read_bytes()[:1500])


def truncated_npy():
    np.save("whole.npy", np.ones((100, 3)))
    Path("X.npy").write_bytes(Path("whole.npy").read_bytes()[:1500])
    np.save("t.npy", np.arange(100) % 2)


X4, Y4 = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
NAN, INF = X4.copy(), X4.copy()
NAN[2, 1], INF[3, 0] = np.nan, np.inf
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 0, 1])
IMAGES = bytes([0, 0, 8, 2, 0, 0, 0, 4, 0, 0, 0, 2, *range(8)])

BAD_DATA = {
    "missing": (None, "bad.csv", "DATA: bad.csv does not exist"),
    "missing npz": (None, "bad.npz", "DATA: bad.npz does not exist"),
    "missing target": (npy(X=X4), "X.npy --target t.npy", "--target: t.npy does not exist"),
    "no target": (npy(X=X4), "X.npy", "--target: "),
    "directory": (lambda: os.mkdir("bad.csv"), "bad.csv", "DATA: bad.csv"),
    "empty csv": (csv(""), "bad.csv", "DATA: bad.csv is empty"),
    "header alone": (csv("a,b,y\n"), "bad.csv", "DATA: bad.csv"),
    "one column": (csv("1\n2\n"), "bad.csv", "DATA: "),
    "semicolons": (csv("a;b;y\n1;2;3\n"), "bad.csv", "DATA: "),
    "text": (csv(FINE + "9,red,0\n"), "bad.csv", "line 6, column 'b'"),
    "text in the target": (csv(FINE + "9,10,?\n"), "bad.csv", "line 6, column 'y'"),
    "text without header": (csv("1,2,0\n3,x,1\n"), "bad.csv", "line 2, column 1"),
    "empty cell": (csv("a,b,y\n1,,0\n3,4,1\n"), "bad.csv", "line 2, column 'b'"),
    "empty label": (csv("a,y\n1,cat\n3,\n4,dog\n"), "bad.csv", "line 3, column 'y'"),
    "nan in csv": (csv(FINE + "nan,1,0\n"), "bad.csv", "line 6, column 'a'"),
    "inf in csv": (csv(FINE + "1,-inf,0\n"), "bad.csv", "line 6, column 'b'"),
    "nan in the target": (csv(FINE + "1,1,nan\n"), "bad.csv", "line 6, column 'y'"),
    "too large": (csv(FINE + "1,1e39,0\n"), "bad.csv", "line 6, column 'b'"),
    "far down": (csv(FINE + "1,1,0\n" * 5000 + "1,x,0\n"), "bad.csv", "line 5006, column 'b'"),
    "ragged": (csv(FINE + "1,0\n"), "bad.csv", "DATA: bad.csv, line 6"),
    "open quote": (csv(FINE + '"1,2,0\n'), "bad.csv", "DATA: bad.csv cannot be read"),
    "no such column": (csv(FINE), "bad.csv --target z", "--target: no column 'z'"),
    "no such index": (csv(FINE), "bad.csv --target 3", "--target: no column '3'"),
    "one class": (csv("a,y\n1,5\n2,5\n3,5\n"), "bad.csv", "DATA: the target in bad.csv has only one"),
    "one text class": (csv("a,y\n1,u\n2,u\n3,u\n"), "bad.csv", "DATA: the target in bad.csv has only one"),
    "names as classes": (csv("a,y\n1,u\n2,v\n3,w\n"), "bad.csv", "DATA: "),
    "not utf-8": (raw("bad.csv", b"a,b\xff\n1,2\n"), "bad.csv", "DATA: bad.csv"),
    "truncated gz": (raw("bad.csv.gz", gzip.compress(FINE.encode() * 99)[:40]), "bad.csv.gz", "DATA: bad.csv.gz"),
    "truncated npz": (truncated, "bad.npz", "DATA: bad.npz"),
    "empty npz": (raw("bad.npz", b""), "bad.npz", "DATA: bad.npz"),
    "text as npz": (raw("bad.npz", b"hello"), "bad.npz", "DATA: bad.npz"),
    "no X": (npz(x=X4, y=Y4), "bad.npz", "DATA: "),
    "no y": (npz(X=X4, z=Y4), "bad.npz", "y or t"),
    "no such array": (npz(X=X4, y=Y4), "bad.npz --target z", "--target: "),
    "pickled": (npz(X=X4, y=np.array([{}] * 4)), "bad.npz", "DATA: bad.npz"),
    "lengths": (npz(X=X4, y=Y4[:3]), "bad.npz", "has 3 samples"),
    "nan in X": (npz(X=NAN, y=Y4), "bad.npz", "nan at row 2, column 1"),
    "inf in X": (npz(X=INF, y=Y4), "bad.npz", "inf at row 3, column 0"),
    "inf in half": (npz(X=INF.astype("float16"), y=Y4), "bad.npz", "inf at row 3, column 0"),
    "nan in y": (npz(X=X4, y=NAN[:, 1]), "bad.npz", "nan at row 2"),
    "text in X": (npz(X=X4.astype(str), y=Y4), "bad.npz", "DATA: X in bad.npz"),
    "complex": (npz(X=X4 + 1j, y=Y4), "bad.npz", "DATA: X in bad.npz"),
    "no samples": (npz(X=X4[:0], y=Y4[:0]), "bad.npz", "DATA: X in bad.npz is empty"),
    "truncated npy": (truncated_npy, "X.npy --target t.npy", "DATA: X.npy"),
    "lengths of npy": (npy(X=X4, t=Y4[:3]), "X.npy --target t.npy", "--target: t.npy has 3"),
    "nan in npy": (npy(X=NAN, t=Y4), "X.npy --target t.npy", "DATA: X in X.npy"),
    "pickled npy": (npy(X=X4, t=np.array([{}] * 4)), "X.npy --target t.npy", "--target: t.npy"),
    "no IDX": (raw("bad", b"hello"), "bad --target bad", "DATA: "),
    "truncated IDX": (raw("bad", IMAGES[:-1]), "bad --target bad", "DATA: bad is truncated"),
    "header of IDX": (raw("bad", IMAGES[:6]), "bad --target bad", "DATA: bad is truncated"),
    "long IDX": (raw("bad", IMAGES + b"0"), "bad --target bad", "DATA: bad is longer"),
    "huge IDX": (raw("bad", IMAGES[:4] + b"\xff" * 8 + IMAGES[12:]), "bad --target bad", "DATA: bad is truncated"),
    "labels of IDX": (
        lambda: [raw("X", IMAGES)(), raw("bad", LABELS[:-1])()],
        "X --target bad",
        "--target: bad is truncated",
    ),
    "target of the digits": (None, "--target y", "--target: "),
}  # fmt: skip

BAD_OPTIONS = {
    "lr -1": ("--lr -1", "--lr: "),
    "lr nan": ("--lr nan", "--lr: "),
    "lr text": ("--lr fast", "'--lr'"),
    "momentum 1": ("--momentum 1", "--momentum: "),
    "momentum -0.1": ("--momentum -0.1", "--momentum: "),
    "momentum nan": ("--momentum nan", "--momentum: "),
    "batch size 0": ("--batch-size 0", "--batch-size: "),
    "batch size -1": ("--batch-size -1", "--batch-size: "),
    "batch size text": ("--batch-size half", "'--batch-size'"),
    "epochs 0": ("--epochs 0", "--epochs: "),
    "seed": ("--seed -1", "--seed: "),
    "test fraction": ("--test-fraction 1", "--test-fraction: "),
    "test fraction nan": ("--test-fraction nan", "--test-fraction: "),
    "nothing left": ("--test-fraction 0.9999", "--test-fraction: "),
    "model": ("--model tree", "'--model'"),
    "two classes": ("--model logistic", "--model: "),
    "optimizer": ("--optimizer newton", "'--optimizer'"),
    "device": ("--device tpu", "--device: "),
    "unknown option": ("--colour red", "--colour"),
    "two files": ("a.csv b.csv", "b.csv"),
    "resume": ("--resume", "--resume: needs --checkpoint"),
    "format of the plot": ("--plot a.docx", "--plot: "),
    "same file": ("--plot a.png --history a.png", "--history: a.png"),
    "over the data": ("data.csv --checkpoint data.csv", "--checkpoint: data.csv"),
    "over the target": ("data.csv --target t.npy --history t.npy", "--history: t.npy"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case):
    write, line, says = BAD_DATA[case]
    if write:
        write()
    assert says in one_line(f"train {line} --checkpoint c.safetensors")
    assert not os.path.exists("c.safetensors")


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_option(case):
    line, says = BAD_OPTIONS[case]
    csv(FINE, "data.csv")()
    assert says in one_line(f"train {line}")
    assert os.listdir() == ["data.csv"] and Path("data.csv").read_text() == FINE


MISFITS = [
    ("a,y\n1,cat\n2,dog\n3,cat\n4,dog\n", "linear", "DATA: "),
    ("a,y\n1,0.5\n2,1.5\n3,0.5\n4,2.5\n", "softmax", "DATA: "),
]


@pytest.mark.parametrize(("text", "model", "says"), MISFITS, ids=["text", "fractions"])
def test_model_that_the_target_does_not_fit(text, model, says):
    csv(text, "data.csv")()
    assert says in one_line(f"train data.csv --model {model}")


NOWHERE = {"no directory": "no/a.png", "directory": "a.png", "device": os.devnull}


@pytest.mark.parametrize("option", ["plot", "history", "checkpoint"])
@pytest.mark.parametrize("place", [*NOWHERE, "read-only file", "read-only directory"])
def test_output_that_cannot_be_written(option, place, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    os.mkdir("a.png")
    Path("b.png").touch()
    if place == "read-only file":  # simulated: root may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    elif place == "read-only directory":
        monkeypatch.setattr("gdgpu.core.files.open", refuse, raising=False)
    monkeypatch.setattr("gdgpu.cli.train.Session", None)  # checked before anything else happens
    assert f"--{option}: " in one_line(f"train --{option} {NOWHERE.get(place, 'b.png')}")
    assert sorted(os.listdir()) == ["a.png", "b.png"]


def test_disk_that_fills_while_training(monkeypatch):
    trained("--epochs 1 --checkpoint c.safetensors")
    before = Path("c.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    line = "train --epochs 2 --resume --checkpoint c.safetensors --quiet"
    assert "c.safetensors: No space left on device" in one_line(line)
    assert Path("c.safetensors").read_bytes() == before
    assert sorted(os.listdir()) == ["c.safetensors", "h.json"]


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(devices, "why_no_cuda", lambda: "the driver\nis too old")
    assert "'cuda' was asked for, but the driver is too old" in one_line("train --device cuda")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    line = "train --plot a.png --checkpoint c.safetensors"
    assert 'pip install "gdgpu[plot]"' in one_line(line)
    assert os.listdir() == []


def test_divergence_says_where_and_keeps_the_checkpoint():
    np.savez("a.npz", X=np.arange(20.0)[:, None], y=np.arange(20.0) ** 1.5)
    line = "train a.npz --batch-size full --epochs 200 --lr 1e6 --momentum 0 --checkpoint c.safetensors"
    said = one_line(line, code=1)
    steps = checkpoint.load("c.safetensors")[1]["steps"]
    assert f"diverged at step {int(steps) + 1}" in said


@pytest.mark.parametrize("error", [KeyError("bug"), ZeroDivisionError("bug"), AssertionError("bug")])
def test_bugs_keep_their_traceback(monkeypatch, error):
    def broken(options):
        raise error

    monkeypatch.setattr("gdgpu.cli.train.train", broken)
    with pytest.raises(type(error)):
        main(["train"])
