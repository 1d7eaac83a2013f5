"""The pictures of the notes: the numbers that they draw show what their captions say, and the files are whole."""

import runpy
from importlib import import_module

import numpy as np
import pytest

from support import ROOT

pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install -e ".[plot]"')
image = pytest.importorskip("PIL.Image", reason="comes with matplotlib")

EXAMPLES = ROOT / "examples"
NAMES = ("ball", "ravine", "batches")


@pytest.fixture
def picture(monkeypatch, tmp_path):
    """picture(name, **size): what main() of the example returns, and its module; both files are looked at."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("GDGPU_DEVICE", "cpu")
    monkeypatch.setattr(import_module("drawing").save, "__defaults__", (1,))  # fewer of the equal frames at the end

    def run(name, **size):
        module = runpy.run_path(EXAMPLES / f"{name}.py")
        drawn = module["main"](tmp_path, **size)
        check_files(tmp_path, name)
        return drawn, module

    return run


def check_files(folder, name):
    """The PNG is 1280 pixels wide; the GIF is 800, and moves."""
    with image.open(folder / f"{name}.png") as still, image.open(folder / f"{name}.gif") as moving:
        assert (still.format, still.width, moving.format, moving.width) == ("PNG", 1280, "GIF", 800)
        assert moving.n_frames > 1  # equal frames are one


def heavy_ball(gradient, w, lr, momentum, steps):
    """m = momentum m - lr g; w = w + m, in NumPy."""
    w, points = np.array(w, float), [np.array(w, float)]
    m = np.zeros_like(w)
    for _ in range(steps):
        m = momentum * m - lr * gradient(w)
        w = w + m
        points.append(w)
    return np.array(points)


def test_the_ball_with_momentum_rolls_on_to_the_lower_minimum(picture):
    (sgd, momentum), module = map_values(picture("ball", every=25))
    lower, hill, local = np.sort(np.roots([4, 0, -4, 0.3]).real)
    assert sgd[-1] == pytest.approx(local, abs=1e-3) and sgd.min() > hill
    assert momentum[-1] == pytest.approx(lower, abs=0.05)
    assert module["surface"](lower) < module["surface"](local) < module["surface"](hill)
    slope = np.polynomial.Polynomial([0.3, -4, 0, 4])
    for path, gamma in ((sgd, 0), (momentum, 0.9)):
        np.testing.assert_allclose(path, heavy_ball(slope, [1.7], 0.01, gamma, 100)[:, 0], rtol=1e-9)


def test_momentum_damps_the_oscillation_in_the_ravine(picture):
    (sgd, momentum), module = map_values(picture("ravine", every=15))
    k = np.arange(len(sgd))[:, None]
    np.testing.assert_allclose(sgd, [-10, 1] * (1 - 1.95 / 40 * np.array([1, 40])) ** k, rtol=1e-9)
    curvature = np.array([1, 40])
    np.testing.assert_allclose(momentum, heavy_ball(lambda w: curvature * w, [-10, 1], 1.95 / 40, 0.6, 60), atol=1e-12)
    assert (np.sign(sgd[1:, 1]) == -np.sign(sgd[:-1, 1])).all()  # from wall to wall, at each step
    assert abs(momentum[10:, 1]).max() < abs(sgd[10:, 1]).max() / 3
    assert (module["height"](momentum)[2:] < module["height"](sgd)[2:]).all()  # the first steps are equal


def test_small_batches_need_fewer_epochs_and_see_more_noise(picture):
    n = 192
    runs, module = picture("batches", samples=n, features=n, frames=3)
    (every, every_steps), (some, some_steps), (one, one_steps) = runs.values()
    assert [len(steps) for steps in (every_steps, some_steps, one_steps)] == [20, 5 * n // 64, 5 * n]
    for looked, _ in runs.values():
        assert looked[0] == pytest.approx([0, 0, looked[0, 2]]) and looked[-1, 2] < looked[0, 2] / 5
        assert (np.diff(looked[:, 1]) > 0).all()

    def after(epochs, looked):
        return np.interp(epochs, looked[:, 0], looked[:, 2])

    assert after(1, one) < after(1, every) and after(1, some) < after(1, every)
    noise = [module["noise"](*run) for run in runs.values()]
    assert noise[0] == pytest.approx(0, abs=1e-6) and 0.05 < noise[1] < noise[2]

    X, t = (array.astype(float) for array in module["problem"](n, n))
    w, b, lr = np.zeros(n), 0.0, 0.5 / 5
    for loss in every[:, 2]:
        error = X @ w + b - t
        assert loss == pytest.approx((error**2).mean(), rel=1e-4)
        w, b = w - lr * 2 * X.T @ error / n, b - lr * 2 * error.mean()


def test_pictures_are_written_where_they_are_told_or_to_a_new_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(import_module("drawing").save, "__defaults__", (1,))
    main, tracked = runpy.run_path(EXAMPLES / "ball.py")["main"], {p: p.stat() for p in EXAMPLES.rglob("*.*g*")}
    main(every=50)
    main(tmp_path / "own", every=50)
    [new] = tmp_path.glob("gdgpu-*")
    out = capsys.readouterr().out
    for folder in (new, tmp_path / "own"):
        check_files(folder, "ball")
        assert f"pictures: {folder / 'ball'}.png, {folder / 'ball'}.gif" in out
    assert {p: p.stat().st_mtime for p in EXAMPLES.rglob("*.*g*")} == {p: s.st_mtime for p, s in tracked.items()}


@pytest.mark.parametrize("name", NAMES)
def test_pictures_in_the_repository(name):
    folder = EXAMPLES / "pictures"
    check_files(folder, name)
    assert (folder / f"{name}.png").stat().st_size < 200e3 and (folder / f"{name}.gif").stat().st_size < 1.5e6
    text = (EXAMPLES / "README.md").read_text()
    for needed in (f"pictures/{name}.gif", f"pictures/{name}.png", f"python examples/{name}.py"):
        assert needed in text


def map_values(result):
    """The paths of both descents, and the module."""
    paths, module = result
    return paths.values(), module
