"""The private example does what its accounting assumes: Poisson samples, clipped and summed, noise, a fixed divisor.

Seeds are fixed: a test gives the same answer every time. Each criterion is also shown what is wrong, and rejects it.
"""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import gdgpu
from support.epsilons import gaussian_epsilon, least_epsilon, renyi_epsilon
from support.scores import holds, normal_scores, pair_scores, poisson_scores

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
EXAMPLE = ROOT / "examples" / "private_training.py"
RATE, MAX_NORM, NOISE, SEED = 0.1, 3.0, 0.7, 2**127 + 1
STEPS, SAMPLES = 4000, 100


@pytest.fixture(scope="module")
def private():
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


@pytest.fixture
def epsilon(private):
    pytest.importorskip("dp_accounting", reason='dp-accounting is not installed: pip install -e ".[private]"')
    return private.epsilon


class Ones:
    """Stands in for a model: the gradient of each sample is 1 everywhere; `batches` are the samples it was given."""

    device = SimpleNamespace(xp=np)

    def __init__(self, **shapes):
        self.shapes, self.batches = shapes, []

    def gradient(self, X, t, max_norm, reduction):
        assert reduction == "sum" and (t == X).all()
        self.batches.append(X)
        return 0.0, {name: np.full(shape, len(X), "float32") for name, shape in self.shapes.items()}


def gradients(private, model, steps, samples=SAMPLES, rate=RATE, max_norm=MAX_NORM, noise=NOISE, seed=SEED):
    """Those of so many steps, (steps, all parameters)."""
    rows = np.arange(samples)
    arguments = model, rows, rows, rate, max_norm, noise
    grads = [private.private_gradient(*arguments, private.randoms(seed, step)) for step in range(steps)]
    return np.array([np.concatenate([array.ravel() for array in grad.values()]) for grad in grads])


def drawn_by(private):
    """(steps, samples): which samples the example gives to each step."""
    model = Ones(w=(1,))
    gradients(private, model, STEPS)
    drawn = np.zeros((STEPS, SAMPLES), int)
    for step, rows in enumerate(model.batches):
        np.add.at(drawn[step], rows, 1)
    return drawn


def noise_of(private, **settings):
    """What the example adds to the sum: its steps of empty batches, times the expected batch size."""
    model, rate = Ones(weight=(64, 10), bias=(10,)), 1e-9
    noise = gradients(private, model, 40, rate=rate, **settings) * (rate * SAMPLES)
    assert len(model.batches) == 40 and not any(map(len, model.batches))
    return noise


def independently(rate, samples=SAMPLES, steps=STEPS):
    return np.random.default_rng(0).random((steps, samples)) < rate


def shuffled():
    drawn = np.zeros((STEPS, SAMPLES), int)
    for epoch in range(STEPS // 10):
        for k, (rows,) in enumerate(gdgpu.minibatches(np.arange(SAMPLES), batch_size=10, epoch=epoch)):
            drawn[10 * epoch + k, rows] = 1
    return drawn


WRONG_SAMPLING = {
    "2/3 of the rate": lambda: independently(RATE * 2 / 3),
    "3/2 of the rate": lambda: independently(RATE * 3 / 2),
    "rates that differ": lambda: independently(RATE * np.linspace(0.8, 1.2, SAMPLES)),
    "neighbours together": lambda: independently(RATE, samples=SAMPLES // 2).repeat(2, axis=1),
    "each batch twice": lambda: independently(RATE, steps=STEPS // 2).repeat(2, axis=0),
    "batches of 10": lambda: np.random.default_rng(0).random((STEPS, SAMPLES)).argsort(axis=1) < RATE * SAMPLES,
    "shuffled batches": shuffled,
    "with replacement": lambda: np.random.default_rng(0).multinomial(10, [1 / SAMPLES] * SAMPLES, STEPS),
}


def test_sampling_is_poisson(private):
    scores = poisson_scores(drawn_by(private), RATE)
    assert holds(scores), scores


@pytest.mark.parametrize("sampling", WRONG_SAMPLING)
def test_the_criterion_rejects_other_sampling(sampling):
    assert not holds(poisson_scores(WRONG_SAMPLING[sampling](), RATE))


def test_noise_is_gaussian_and_another_in_each_step(private):
    noise = noise_of(private)
    assert len(np.unique(noise)) > 0.99 * noise.size
    scores = normal_scores(noise, NOISE * MAX_NORM) | pair_scores(noise / (NOISE * MAX_NORM))
    assert holds(scores), scores


@pytest.mark.parametrize("factor", [2 / 3, 0.95, 1.05, 3 / 2])
@pytest.mark.parametrize("setting", [{"noise": NOISE}, {"max_norm": MAX_NORM}], ids=["noise", "max_norm"])
def test_the_criterion_rejects_noise_of_another_deviation(private, setting, factor):
    scores = normal_scores(
        noise_of(private, **{name: factor * value for name, value in setting.items()}), NOISE * MAX_NORM
    )
    assert abs(scores["variance"]) > 5 and not holds(scores)


@pytest.mark.parametrize("draw", ["laplace", "uniform", "logistic"])
def test_the_criterion_rejects_noise_of_another_shape(draw):
    values = getattr(np.random.default_rng(0), draw)(size=26_000)
    assert not holds(normal_scores((values - values.mean()) / values.std(), 1))


def test_the_criterion_rejects_noise_that_comes_again():
    rows = np.random.default_rng(0).standard_normal((40, 650))
    assert holds(pair_scores(rows))
    rows[7] = rows[3]
    assert not holds(pair_scores(rows))


def test_the_seed_gives_all_steps_again_and_each_bit_of_it_counts(private):
    noise = noise_of(private)
    np.testing.assert_array_equal(noise, noise_of(private))
    for other in (SEED - 1, SEED - 2**127):
        both = np.concatenate([noise, noise_of(private, seed=other)]) / (NOISE * MAX_NORM)
        assert holds(pair_scores(both))


def test_random_numbers_come_from_a_counter_so_a_step_needs_none_before_it(private):
    late = private.randoms(SEED, 5)
    assert isinstance(late.bit_generator, np.random.Philox)
    counters = [private.randoms(SEED, step).bit_generator.state["state"]["counter"] for step in (5, 6)]
    assert [*counters[1] - counters[0]] == [0, 0, 0, 1]  # 2^192 blocks of four numbers
    model = Ones(weight=(64, 10))
    grad = private.private_gradient(model, *[np.arange(SAMPLES)] * 2, RATE, MAX_NORM, NOISE, late)["weight"]
    np.testing.assert_array_equal(grad.ravel(), gradients(private, model, 6)[5])


def test_the_divisor_is_the_expected_batch_size(private):
    model = Ones(w=(1,))
    grads = gradients(private, model, 200, samples=20, noise=0)[:, 0]
    sizes = np.array([len(batch) for batch in model.batches])
    assert sizes.min() == 0 and sizes.max() > 4  # 2 are expected
    np.testing.assert_allclose(grads, sizes / 2, rtol=1e-6)


def test_an_empty_batch_is_a_step_of_noise(private):
    model = gdgpu.models.SoftmaxRegression(64, 10, device="cpu")
    X, t, rate, lr = np.ones((50, 64)), np.zeros(50, int), 1e-9, 1e-9
    optimizer = gdgpu.SGD(model.params, lr)
    optimizer.step(private.private_gradient(model, X, t, rate, MAX_NORM, NOISE, private.randoms(SEED, 0)))
    moved = np.concatenate([array.ravel() for array in model.params.values()])
    scores = normal_scores(moved, NOISE * MAX_NORM * lr / (rate * 50))
    assert optimizer.steps == 1 and holds(scores), scores


@pytest.mark.parametrize("max_norm", [0.1, 3.0])
def test_a_sample_moves_the_sum_by_max_norm_at_most(private, max_norm):
    rng = np.random.default_rng(0)
    X, t = rng.standard_normal((40, 64)) / 8, rng.integers(10, size=40)
    X[0] *= 1e6
    X[1] *= 1e-3
    model = gdgpu.models.SoftmaxRegression(64, 10, device="cpu", dtype="float64")
    model.params["weight"][:] = rng.standard_normal((64, 10))

    def total(rows):
        grads = private.private_gradient(model, X[rows], t[rows], 1.0, max_norm, 0.0, private.randoms(SEED, 0))
        return np.concatenate([array.ravel() for array in grads.values()]) * len(rows)

    everyone = np.arange(40)
    moves = np.array([np.linalg.norm(total(everyone) - total(np.delete(everyone, n))) for n in everyone])
    assert moves == pytest.approx(np.minimum(model.sample_norms(X, t), max_norm), rel=1e-9)
    assert moves.max() == pytest.approx(max_norm) and (max_norm < 1 or moves.min() < max_norm / 2)


def test_it_learns(private, capsys):
    assert np.mean([private.main(steps=150, seed=seed)[0] for seed in range(3)]) > 0.85
    assert "at delta 0.0001, 1438 training samples" in capsys.readouterr().out


def test_without_a_seed_it_is_the_system_s(private, monkeypatch):
    seeds = []
    monkeypatch.setitem(
        private.main.__globals__, "randoms", lambda seed, step: seeds.append(seed) or np.random.default_rng()
    )
    for _ in range(2):
        private.main(steps=1)
    private.main(steps=1, seed=SEED)
    assert seeds[0] != seeds[1] and seeds[2] == SEED and min(seeds).bit_length() > 100


def test_without_the_library_epsilon_is_unknown(private, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert private.main(steps=1)[1] is None
    assert "epsilon unknown" in capsys.readouterr().out


@pytest.mark.parametrize("noise, steps", [(1.0, 1), (4.0, 3), (40.0, 300)])
def test_epsilon_of_all_samples_is_that_of_one_gaussian(epsilon, noise, steps):
    exact = gaussian_epsilon(noise / steps**0.5, 1e-5)
    assert epsilon(1.0, noise, steps, 1e-5) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("settings", [(0.2, 6.0, 300, 1e-4), (0.01, 1.0, 500, 1e-5)])
def test_epsilon_is_between_bounds(epsilon, settings):
    least, spent = least_epsilon(*settings), epsilon(*settings)
    assert least <= spent <= least * 1.01
    assert spent <= renyi_epsilon(*settings) <= spent * 1.5


def test_the_epsilon_printed_is_that_of_the_training(private, epsilon, capsys):
    _, spent = private.main(rate=0.1, noise=4.0, steps=3, delta=1e-3)
    assert spent == epsilon(0.1, 4.0, 3, 1e-3)
    assert f"epsilon {spent:.2f} at delta 0.001" in capsys.readouterr().out
