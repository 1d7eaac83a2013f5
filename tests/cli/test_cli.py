"""gdgpu train and gdgpu info: what they leave behind, what they show, how well they learn."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gdgpu
from gdgpu import checkpoint, datasets, devices
from gdgpu.cli.options import OPTIMIZERS
from gdgpu.cli.progress import step_bytes
from support.command import in_empty_directory, one_line, run, trained  # noqa: F401

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals are POSIX")


def test_history():
    _, history = trained("--epochs 3 --lr 0.01 --batch-size full --seed 4 --optimizer nesterov")
    config = history["config"]
    expected = {
        "optimizer": "nesterov",
        "lr": 0.01,
        "momentum": 0.9,
        "batch_size": "full",
        "seed": 4,
        "epochs": 3,
    }
    assert expected.items() <= config.items()
    assert config["model"] == "softmax" and config["labels"] == list(range(10))
    assert [record["epoch"] for record in history["epochs"]] == [0, 1, 2]
    for record in history["epochs"]:
        assert record.keys() == {"epoch", "loss", "test_loss", "test_metric", "seconds"}
        assert all(isinstance(record[name], float) for name in record.keys() - {"epoch"})


def test_without_test_samples():
    last, _ = trained("--epochs 1 --test-fraction 0 --plot a.png")
    assert last["test_loss"] is None and last["test_metric"] is None
    assert "test loss" not in run("train --epochs 1 --test-fraction 0")[1]


def test_checkpoint_is_enough_to_predict():
    last, history = trained("--epochs 3 --seed 2 --checkpoint c.safetensors")
    tensors, metadata = checkpoint.load("c.safetensors")
    digits = datasets.digits()
    order = np.random.Generator(np.random.PCG64([2, 2**63])).permutation(1797)[:359]
    z = (digits.X[order] - tensors["mean"]) / tensors["scale"] @ tensors["params/weight"] + tensors["params/bias"]
    assert last["test_metric"] == pytest.approx((z.argmax(1) == digits.t[order]).mean(), abs=0.5 / 359)
    assert (metadata["epoch"], metadata["steps"]) == ("3", str(3 * 45))
    assert json.loads(metadata["history"]) == history["epochs"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", ["32", "full"])
def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(optimizer, batch_size):
    line = f"--optimizer {optimizer} --batch-size {batch_size} --checkpoint"
    _, whole = trained(f"{line} whole.safetensors --epochs 6")
    trained(f"{line} parts.safetensors --epochs 3")
    _, parts = trained(f"{line} parts.safetensors --epochs 6 --resume")
    (a, steps), (b, again) = checkpoint.load("whole.safetensors"), checkpoint.load("parts.safetensors")
    assert a.keys() == b.keys() and any(name.startswith("state/") for name in a) == (optimizer != "sgd")
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name
    assert all(steps[name] == again[name] for name in steps.keys() - {"history"}) and steps.keys() == again.keys()
    seconds = [[record.pop("seconds") for record in history["epochs"]] for history in (whole, parts)]
    assert whole == parts and len(seconds[0]) == 6


def test_resume_without_a_checkpoint_begins_and_says_so():
    code, out, err = run("train --epochs 1 --resume --checkpoint c.safetensors")
    assert code == 0 and "c.safetensors does not exist" in err and "beginning" in err
    assert "test accuracy" in out and os.path.exists("c.safetensors")


def test_resume_with_nothing_left_shows_the_table():
    trained("--epochs 2 --checkpoint c.safetensors")
    before = Path("c.safetensors").read_bytes()
    code, out, err = run("train --epochs 2 --resume --checkpoint c.safetensors")
    assert code == 0 and "has all 2 epochs already" in err and "test accuracy" in out
    assert Path("c.safetensors").read_bytes() == before


OTHER = [
    ("model", "--model linear"),
    ("optimizer", "--optimizer nesterov"),
    ("lr", "--lr 0.5"),
    ("momentum", "--momentum 0.5"),
    ("batch_size", "--batch-size 16"),
    ("seed", "--seed 1"),
    ("test_fraction", "--test-fraction 0.3"),
    ("standardize", "--no-standardize"),
    ("data", "data.npz"),
]


@pytest.mark.parametrize(("name", "change"), OTHER, ids=[name for name, _ in OTHER])
def test_checkpoint_of_another_run(name, change):
    data = datasets.digits()
    np.savez("data.npz", X=data.X[::-1], y=data.t[::-1])
    trained("--epochs 1 --checkpoint c.safetensors")
    before = Path("c.safetensors").read_bytes()
    said = one_line(f"train {change} --epochs 2 --resume --checkpoint c.safetensors")
    assert "--checkpoint: c.safetensors is of another run" in said and f" {name} " in said.replace(":", " ")
    assert Path("c.safetensors").read_bytes() == before


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_the_library_continues_what_the_command_line_began(optimizer):
    trained(f"--epochs 2 --optimizer {optimizer} --checkpoint c.safetensors")
    tensors, metadata = checkpoint.load("c.safetensors")
    params = {name: np.zeros_like(tensors[f"params/{name}"]) for name in ("weight", "bias")}
    resumed = getattr(gdgpu, OPTIMIZERS[optimizer].new)(params, 0.5)
    assert checkpoint.load_optimizer("c.safetensors", resumed)["epoch"] == "2"
    assert resumed.steps == 2 * 45 and resumed.lr == json.loads(metadata["settings"])["lr"]
    for name, array in params.items():
        np.testing.assert_array_equal(array, tensors[f"params/{name}"])


def test_checkpoint_of_another_program():
    checkpoint.save("c.safetensors", {"weight": np.zeros(3)})
    says = "--checkpoint: c.safetensors was not written by"
    assert says in one_line("train --resume --checkpoint c.safetensors")
    Path("c.safetensors").write_text("hello")
    assert "--checkpoint: c.safetensors" in one_line("train --resume --checkpoint c.safetensors")


@pytest.mark.parametrize("damage", ["tensor", "shape", "metadata"])
def test_checkpoint_that_was_edited(damage):
    trained("--epochs 1 --checkpoint c.safetensors")
    tensors, metadata = checkpoint.load("c.safetensors")
    if damage == "tensor":
        del tensors["state/velocity/bias"]
    elif damage == "shape":
        tensors["params/bias"] = tensors["params/bias"][:9]
    else:
        metadata["settings"] = "{"
    checkpoint.save("c.safetensors", tensors, metadata)
    assert "--checkpoint: " in one_line("train --epochs 2 --resume --checkpoint c.safetensors")


@POSIX
def test_interrupted():
    line = [sys.executable, "-c", "from gdgpu.cli import main; main()", "train", "--epochs", "1000000"]
    training = subprocess.Popen(
        [*line, "--checkpoint", "c.safetensors"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not os.path.exists("c.safetensors") and time.monotonic() < deadline:
        time.sleep(0.02)
    training.send_signal(signal.SIGINT)
    out, err = training.communicate(timeout=60)
    assert (training.returncode, out) == (130, "")
    assert err.startswith("gdgpu: interrupted; c.safetensors ") and err.count("\n") == 1
    epochs = int(checkpoint.load("c.safetensors")[1]["epoch"])
    assert len(trained(f"--epochs {epochs + 1} --resume --checkpoint c.safetensors")[1]["epochs"]) == epochs + 1


# What a run shows


@POSIX
def test_progress_on_a_terminal():
    import pty

    master, slave = pty.openpty()
    line = [sys.executable, "-c", "from gdgpu.cli import main; main()", "train", "--epochs", "40"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    shown = subprocess.run(line, stdout=subprocess.PIPE, stderr=slave, env=environment, timeout=120)
    os.set_blocking(master, False)
    text = os.read(master, 1 << 20).decode()
    assert shown.returncode == 0 and b"test accuracy" in shown.stdout
    for word in ("epoch 40/40", "100%", "loss 0.", "samples/s", "GB/s"):
        assert word in text


def test_no_progress_where_nobody_looks():
    code, out, err = run("train --epochs 2")
    assert (code, err) == (0, "")
    for row in ("data", "model", "optimizer", "device", "epochs", "training loss", "test loss", "seconds"):
        assert row in out


def test_bytes_of_a_step():
    params = {"weight": np.zeros((64, 10), "float32"), "bias": np.zeros(10, "float32")}
    assert step_bytes(gdgpu.Momentum(params, 0.1)) == 20 * 650
    assert step_bytes(gdgpu.SGD(params, 0.1)) == 12 * 650


def test_plot():
    image = pytest.importorskip("PIL.Image", reason="comes with matplotlib")
    trained("--epochs 5 --plot a.png")
    pixels = np.asarray(image.open("a.png").convert("RGB")).astype(int)
    left, right = np.split(pixels, [pixels.shape[1] // 2], axis=1)

    def drawn(half, color):
        return int((np.abs(half - color).sum(-1) < 30).sum())

    training, test = (0x42, 0x69, 0xD0), (0xFF, 0x72, 0x5C)
    assert drawn(left, training) > 500 and drawn(left, test) > 500
    assert drawn(right, test) > 500 and drawn(right, training) == 0


def test_info():
    code, out, err = run("info")
    assert (code, err) == (0, "")
    for word in (gdgpu.__version__, np.__version__, "Numba", "CuPy", "CPU", "threads", "GPU"):
        assert word in out


def test_info_without_cupy_and_numba_cuda(monkeypatch):
    for module in ("cupy", "cupy.cuda", "numba_cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    devices.why_no_cuda.cache_clear()
    try:
        code, out, err = run("info")
    finally:
        devices.why_no_cuda.cache_clear()
    assert (code, err) == (0, "") and "not used: cupy" in out


@pytest.mark.parametrize("line", ["", "--help", "train --help", "--version"])
def test_help_imports_nothing_slow(line):
    script = (
        "import sys\n"
        "from gdgpu.cli import main\n"
        "main(sys.argv[1:])\n"
        "slow = {'numpy', 'numba', 'cupy', 'rich', 'matplotlib', 'safetensors'} & sys.modules.keys()\n"
        "assert not slow, slow\n"
    )
    shown = subprocess.run([sys.executable, "-c", script, *line.split()], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0 and shown.stderr == "", shown
    assert ("0.1" in shown.stdout) if line == "--version" else ("Usage: gdgpu" in shown.stdout)


# How well it learns


@pytest.mark.parametrize("line", ["", "--batch-size 1 --epochs 10", "--batch-size full --epochs 300"])
def test_digits_as_well_as_scikit_learn(line):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="the reference")
    data, ours, theirs = datasets.digits(), [], []
    for seed in range(5) if line == "" else range(2):
        ours.append(trained(f"{line} --seed {seed}")[0]["test_metric"])
        parts = datasets.split(data.X, data.t, seed=seed)
        reference = linear_model.LogisticRegression(max_iter=1000).fit(parts.X, parts.t)
        theirs.append(reference.score(parts.X_test, parts.t_test))
    assert np.mean(ours) >= 0.955
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.01


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_the_digits_with_its_defaults(optimizer):
    reached = [trained(f"--optimizer {optimizer} --seed {seed}")[0]["test_metric"] for seed in range(3)]
    assert min(reached) >= 0.94, reached


def test_momentum_is_refused_where_the_optimizer_takes_none():
    assert "--momentum: adam takes none, got 0.5" in one_line("train --optimizer adam --momentum 0.5")
    assert trained("--optimizer rmsprop --momentum 0.5 --epochs 1")[1]["config"]["momentum"] == 0.5


def test_the_command_line_has_every_optimizer():
    classes = {name for name in gdgpu.__all__ if hasattr(getattr(gdgpu, name), "step_samples")}
    assert {row.new for row in OPTIMIZERS.values()} == classes - {"Optimizer"}


@pytest.mark.parametrize("line", ["--epochs 100", "--batch-size 1", "--batch-size full --epochs 300"])
def test_regression_from_csv_as_well_as_the_closed_form(line):
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 5)) @ random.normal(size=(5, 5)) * [1, 10, 100, 0.1, 1] + [0, 5, 1e4, 0, 3]
    t = X @ random.normal(size=5) / X.std() + 20 + 0.2 * random.normal(size=400)
    table = "\n".join(",".join(map(repr, map(float, row))) for row in np.column_stack([X, t]))
    Path("data.csv").write_text(f"a,b,c,d,e,price\n{table}\n")
    last, history = trained(f"data.csv {line}")
    assert history["config"]["model"] == "linear"
    parts = datasets.split(X, t)
    ones = np.ones
    solution = np.linalg.lstsq(np.column_stack([parts.X, ones(len(parts.X))]), parts.t, rcond=None)[0]
    errors = parts.t_test - np.column_stack([parts.X_test, ones(len(parts.X_test))]) @ solution
    closed = 1 - (errors**2).sum() / ((parts.t_test - parts.t_test.mean()) ** 2).sum()
    assert abs(last["test_metric"] - closed) <= 0.01


@pytest.mark.parametrize("batch_size", ["1", "8", "full"])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e4])
def test_default_lr_is_stable_at_any_scale(batch_size, scale):
    """Equal columns: all the curvature lies in one direction, the worst case."""
    column = np.random.default_rng(1).normal(size=200)
    np.savez("a.npz", X=scale * np.tile(column[:, None], 30), y=3 * column)
    _, history = trained(f"a.npz --no-standardize --epochs 20 --batch-size {batch_size}")
    losses = [record["loss"] for record in history["epochs"]]
    assert losses[-1] < losses[0] <= 10 * (9 * column**2).mean()
