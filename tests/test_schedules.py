"""The schedules against torch's, step by step, and what they are made of at their ends."""

import math

import numpy as np
import pytest

import gdgpu
from gdgpu import schedules

STEPS = 120
TORCH = {
    "constant": (schedules.constant(0.3), lambda s, o: s.ConstantLR(o, factor=1.0)),
    "step": (schedules.step(0.3, 25, 0.5), lambda s, o: s.StepLR(o, 25, 0.5)),
    "step by the default": (schedules.step(0.3, 40), lambda s, o: s.StepLR(o, 40)),
    "exponential": (schedules.exponential(0.3, 0.97), lambda s, o: s.ExponentialLR(o, 0.97)),
    "cosine": (schedules.cosine(0.3, STEPS, final=0.01), lambda s, o: s.CosineAnnealingLR(o, STEPS, eta_min=0.01)),
    "one cycle": (schedules.one_cycle(0.3, STEPS), lambda s, o: s.OneCycleLR(o, 0.3, STEPS)),
    "one steep cycle": (
        schedules.one_cycle(0.3, STEPS, rise=0.1, start=10, final=100),
        lambda s, o: s.OneCycleLR(o, 0.3, STEPS, pct_start=0.1, div_factor=10, final_div_factor=100),
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch wants the optimizer to step first
@pytest.mark.parametrize("name", TORCH)
def test_as_torch(name):
    torch = pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    ours, make = TORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs, rates = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < STEPS:
            theirs.step()
    np.testing.assert_allclose([ours(t) for t in range(STEPS)], rates, rtol=1e-9)


def test_warm_up_is_a_straight_rise_and_then_the_rest_of_the_steps():
    warm, plain = schedules.cosine(0.4, 110, warmup=10), schedules.cosine(0.4, 100)
    np.testing.assert_allclose([warm(t) for t in range(10)], 0.4 * np.arange(1, 11) / 10, rtol=1e-14)
    np.testing.assert_allclose([warm(t) for t in range(10, 111)], [plain(t) for t in range(101)], rtol=1e-14)


def test_inverse_sqrt_is_highest_at_the_end_of_its_warm_up():
    at = schedules.inverse_sqrt(0.1, 16)
    assert max(range(1000), key=at) == 15 and at(15) == 0.1
    assert at(63) == pytest.approx(0.1 / 2) and at(7) == pytest.approx(0.1 / 2)


@pytest.mark.parametrize(
    ("at", "last"),
    [(schedules.cosine(0.3, 20, final=0.02), 0.02), (schedules.one_cycle(0.3, 20, start=2, final=5), 0.03)],
)
def test_after_their_last_step_they_stay(at, last):
    assert at(20) == at(1000) == pytest.approx(last)


def test_an_optimizer_takes_them():
    w = np.zeros(2)
    optimizer = gdgpu.SGD(w, schedules.step(1.0, 2, 0.5))
    for _ in range(4):
        optimizer.step(np.ones(2))
    assert (w == -(1 + 1 + 0.5 + 0.5)).all()


BAD = [
    (schedules.constant, (-1,), "lr"),
    (schedules.step, (0.1, 0), "every"),
    (schedules.step, (0.1, 2, math.nan), "factor"),
    (schedules.exponential, (0.1, 1.5), "factor"),
    (schedules.cosine, (0.1, 0), "steps"),
    (schedules.cosine, (0.1, 10, 10), "warmup"),
    (schedules.cosine, (0.1, 10, 0, -1), "final"),
    (schedules.one_cycle, (0.1, 1), "steps"),
    (schedules.one_cycle, (0.1, 10, 2), "rise"),
    (schedules.one_cycle, (0.1, 10, 0.3, 0.5), "start"),
    (schedules.inverse_sqrt, (0.1, 0), "warmup"),
    (schedules.inverse_sqrt, ("fast", 3), "lr"),
]


@pytest.mark.parametrize(("make", "arguments", "name"), BAD)
def test_bad_arguments_are_named(make, arguments, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name}: [^\n]*$"):
        make(*arguments)
