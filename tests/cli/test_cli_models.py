"""gdgpu train with models other than the default: the MLP's hidden layers, regressions on numbers."""

import json

import numpy as np
import pytest

from gdgpu import checkpoint
from gdgpu.cli import main
from support.covering import usual


def test_the_command_line_learns_digits_and_resumes_with_the_same_bits(capsys, tmp_path):
    def train(*options):
        main(["train", "--model", "mlp", "--device", "cpu", *map(str, options)])
        return capsys.readouterr().out

    whole, parts = (tmp_path / f"{name}.safetensors" for name in ("whole", "parts"))
    history = tmp_path / "history.json"
    shown = train("--epochs", 6, "--checkpoint", whole, "--history", history, "--plot", tmp_path / "plot.png")
    assert "mlp, hidden 128" in shown and (tmp_path / "plot.png").stat().st_size > 0
    last = json.loads(history.read_text())
    assert last["epochs"][-1]["test_metric"] > 0.94 and last["config"]["hidden"] == [128]
    train("--epochs", 3, "--checkpoint", parts, "--quiet")
    train("--epochs", 6, "--checkpoint", parts, "--resume", "--quiet")
    (expected, _), (found, _) = checkpoint.load(whole), checkpoint.load(parts)
    assert found.keys() == expected.keys() and "params/weight1" in found
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hidden", "8,0"), "--hidden: expected sizes >= 1"),
        (("--model", "softmax", "--hidden", "8"), "--hidden: expected --model mlp"),
    ],
)
def test_the_command_line_checks_hidden_layers(options, message, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--model", "mlp", *options])
    assert left.value.code == 2 and capsys.readouterr().err.startswith(f"gdgpu: {message}")


@pytest.mark.parametrize("model", usual(["huber", "poisson", "mlp"], ["poisson", "mlp"]))
def test_the_command_line_fits_numbers(model, tmp_path):
    rng, data, history = np.random.default_rng(0), tmp_path / "numbers.npz", tmp_path / "history.json"
    X = rng.normal(size=(400, 4))
    counts = rng.poisson(np.exp(X @ [0.5, -0.3, 0.2, 0] + 2))
    np.savez(data, X=X, y=counts + 0.5 * (model == "mlp"))  # whole numbers would be classes to it
    main(f"train {data} --model {model} --device cpu --quiet --history {history}".split())
    assert json.loads(history.read_text())["epochs"][-1]["test_metric"] > 0.6
