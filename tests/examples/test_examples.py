"""The scripts to start from show what they say, at a small size. The pictures, the weighted samples and the private
training are in test_pictures.py, test_documents.py and test_private_training.py."""

import re
import runpy
from types import SimpleNamespace

import numpy as np
import pytest

import gdgpu
from support import ROOT

EXAMPLES = ROOT / "examples"
PICTURES = {"ball", "batches", "drawing", "ravine"}
SCRIPTS = sorted({path.stem for path in EXAMPLES.glob("*.py")} - PICTURES)


def load(name):
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


@pytest.fixture
def torch():
    """torch with one thread: more of them wait for each other where tests run side by side."""
    torch = pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(usual)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_use_public_names(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert len(lines) < 60
    code = "\n".join(lines).rpartition('"""\n\nimport')[2]
    assert "import gdgpu" in lines and "from gdgpu" not in code
    assert set(re.findall(r"gdgpu\.(\w+)", code)) <= set(dir(gdgpu)) - {"import_module"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_are_in_the_readme(path):
    told = path.name if path.stem == "drawing" else f"python examples/{path.name}"
    assert told in (EXAMPLES / "README.md").read_text()


def test_clipping_each_sample_beats_the_mean():
    mean, clipped, more = load("clipping").main(samples=2000, features=10).values()
    assert more < clipped < mean / 2 and more < 0.2


def test_gradients_by_hand_train():
    assert load("cupy_training").main(epochs=4) > 0.93


def test_the_noise_scale_predicts_the_trade():
    scale, steps = load("noise_scale").main(ratios=(8, 1, 1 / 4), rates=(3.2, 6.4))
    many, same, few = steps.values()
    assert [*steps] == [round(ratio * scale) for ratio in (8, 1, 1 / 4)]
    least = many / (1 + 1 / 8)
    assert 1.3 < same / least < 3  # twice the fewest steps
    assert 5 / 1.6 < few / least < 5 * 1.6
    samples = [size * count for size, count in steps.items()]
    assert samples[2] < samples[1] < samples[0] / 2


def test_the_noise_scale_is_that_of_all_samples():
    example, rng = load("noise_scale"), np.random.default_rng(0)
    X = rng.standard_normal((500, 8))
    t = (X @ rng.standard_normal((8, 10))).argmax(axis=1)
    _, model = example.descend(X, t, target=0, batch_size=64, lr=0.1, max_steps=3)
    G = np.hstack([g.reshape(500, -1).astype(float) for g in model.per_sample_gradients(X, t).values()])
    exact = G.var(axis=0).sum() / (G.mean(axis=0) ** 2).sum()
    for batch_size, count in ((64, 400), (4, 6400)):
        assert example.noise_scale(model, X, t, batch_size, count) == pytest.approx(exact, rel=0.1)


def test_a_rule_of_ones_own_overshoots_less():
    example = load("user_rule")
    momentum, cautious = example.main().values()
    assert cautious < momentum / 2
    w = np.zeros(2)
    run = example.cautious(w, lr=1.0, momentum=0.5)
    run.step(np.array([1.0, 1.0]))
    run.step(np.array([-0.25, 0.25]))  # velocities -0.25, which this gradient calls uphill, and -0.75
    assert w == pytest.approx([-1, -1.75])


def test_torch_modules_learn(torch):
    mean, clipped = load("torch_dlpack").main(epochs=3).values()
    assert mean > 0.9 and clipped > 0.8


def test_torch_parameters_are_updated_where_they_are(torch):
    example, rng = load("torch_dlpack"), np.random.default_rng(0)
    X = torch.as_tensor(rng.standard_normal((256, 64), "float32"))
    t = torch.as_tensor(rng.integers(10, size=256))
    net, reference = example.network("cpu"), example.network("cpu")
    at = [p.data_ptr() for p in net.parameters()]
    example.train(net, X, t, epochs=2)
    assert [p.data_ptr() for p in net.parameters()] == at and all(p.requires_grad for p in net.parameters())

    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(2):
        for (rows,) in gdgpu.minibatches(np.arange(256), batch_size=64, epoch=epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(reference(X[rows]), t[rows]).backward()
            optimizer.step()
    for p, wanted in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, wanted, rtol=1e-4, atol=1e-6)


def test_torch_gradients_of_samples_are_clipped(torch):
    example = load("torch_dlpack")
    X, t = torch.full((64, 64), 100.0), torch.zeros(64, dtype=torch.int64)
    net, start = example.network("cpu"), example.network("cpu")
    example.train(net, X, t, epochs=1, max_norm=0.5)  # one step, of samples that are all the same
    moves = [(p - q).detach().norm() for p, q in zip(net.parameters(), start.parameters(), strict=True)]
    assert float(torch.stack(moves).norm()) == pytest.approx(0.05 * 0.5, rel=1e-3)


def test_a_profiling_session_prints_its_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["profiling_session.py", "200000"])
    runpy.run_path(str(EXAMPLES / "profiling_session.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert all(header in table for header in ("case", "MB", "ms", "GB/s", "of a copy"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [["momentum step", "4"], ["reduce_samples", "0.85"]]
    for _, size, taken, speed, share in rows:
        assert float(speed) * float(taken) == pytest.approx(float(size), rel=0.02)
        assert float(share.removesuffix("%")) > 0


def test_a_profiling_session_copies_as_many_bytes():
    example = load("profiling_session")
    call = example.copy(2001)
    call()
    arrays = [cell.cell_contents for cell in call.__closure__]
    target, source = arrays if len(arrays) == 2 else map(np.concatenate, *arrays)
    assert target.nbytes + source.nbytes == 2000 and (target == source).all()
