"""The schedules against torch's, step by step, and what they are made of at their ends."""

import math

import numpy as np
import pytest

import gdgpu
from gdgpu import schedules
from support.copies import pickled

STEPS = 120
TORCH = {
    "constant": (schedules.constant(0.3), lambda s, o: s.ConstantLR(o, factor=1.0)),
    "step": (schedules.step(0.3, 25, 0.5), lambda s, o: s.StepLR(o, 25, 0.5)),
    "step by the default": (schedules.step(0.3, 40), lambda s, o: s.StepLR(o, 40)),
    "exponential": (schedules.exponential(0.3, 0.97), lambda s, o: s.ExponentialLR(o, 0.97)),
    "growing steps": (schedules.step(0.3, 25, 2.5), lambda s, o: s.StepLR(o, 25, 2.5)),
    "growing": (schedules.exponential(0.3, 1.07), lambda s, o: s.ExponentialLR(o, 1.07)),
    "cosine": (schedules.cosine(0.3, STEPS, final=0.01), lambda s, o: s.CosineAnnealingLR(o, STEPS, eta_min=0.01)),
    "one cycle": (schedules.one_cycle(0.3, STEPS), lambda s, o: s.OneCycleLR(o, 0.3, STEPS)),
    "one cycle that only rises": (
        schedules.one_cycle(0.3, STEPS, rise=1.0),
        lambda s, o: s.OneCycleLR(o, 0.3, STEPS, pct_start=1.0),
    ),
    "one cycle that only falls": (
        schedules.one_cycle(0.3, STEPS, rise=0),
        lambda s, o: s.OneCycleLR(o, 0.3, STEPS, pct_start=0.0),
    ),
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


# schedule, its last step, the rate there
ENDS = {
    "constant": (schedules.constant(0.3), 0, 0.3),
    "cosine": (schedules.cosine(0.3, 20, final=0.02), 20, 0.02),
    "cosine of one step": (schedules.cosine(0.3, 1), 1, 0.0),
    "cosine of two": (schedules.cosine(0.3, 2, warmup=1), 2, 0.0),
    "nothing but warm-up": (schedules.cosine(0.3, 20, warmup=19), 20, 0.0),
    "one cycle": (schedules.one_cycle(0.3, 20, start=2, final=5), 19, 0.03),
    "one cycle of two steps": (schedules.one_cycle(0.3, 2), 1, 0.3 / 25 / 1e4),
    "one cycle that only rises": (schedules.one_cycle(0.3, 20, rise=1.0), 19, 0.3),
    "two steps that only rise": (schedules.one_cycle(0.3, 2, rise=1), 1, 0.3),
    "almost only rises": (schedules.one_cycle(0.3, 20, rise=math.nextafter(1, 0)), 20, 0.3 / 25 / 1e4),
    "one cycle that only falls": (schedules.one_cycle(0.3, 20, rise=0.0), 19, 0.3 / 25 / 1e4),
    "one step up": (schedules.one_cycle(0.3, 10, rise=0.1), 9, 0.3 / 25 / 1e4),
}


@pytest.mark.parametrize("name", ENDS)
def test_after_their_last_step_they_stay(name):
    at, steps, last = ENDS[name]
    for t in (steps, steps + 1, 1000, 2**63, 10**400):
        assert at(t) == pytest.approx(last, rel=1e-12, abs=1e-17)
    assert all(math.isfinite(at(t)) and at(t) >= 0 for t in range(steps + 3))


LIMITS = {
    "growing": (schedules.exponential(0.5, 2.0), math.inf),
    "growing steps": (schedules.step(0.5, 3, 2.0), math.inf),
    "barely growing": (schedules.exponential(0.5, math.nextafter(1, 2)), math.inf),
    "of zero": (schedules.exponential(0.0, 2.0), 0.0),
    "falling": (schedules.exponential(0.5, 0.5), 0.0),
    "constant": (schedules.exponential(0.5, 1.0), 0.5),
    "to zero at once": (schedules.step(0.5, 1, 0.0), 0.0),
    "inverse": (schedules.inverse_sqrt(0.5, 3), 0.0),
}


@pytest.mark.parametrize("name", LIMITS)
def test_rates_far_away(name):
    at, limit = LIMITS[name]
    assert at(10**400) == at(10**4000) == limit and not math.isnan(at(1024)) and not math.isnan(at(10**18))


def test_a_rate_that_no_float_holds_is_refused_before_anything_is_touched():
    w = np.ones(2)
    optimizer = gdgpu.Momentum(w, schedules.exponential(1.0, 1e200))
    optimizer.step(np.zeros(2))
    optimizer.step(np.zeros(2))
    before = repr((optimizer.steps, w))
    with pytest.raises(ValueError, match=r"\Alr: expected a finite number >= 0, got inf\Z"):
        optimizer.step(np.ones(2))
    assert repr((optimizer.steps, w)) == before


@pytest.mark.parametrize("kind", (np.int8, np.uint8, np.int64, np.uint64, np.array))
@pytest.mark.parametrize("name", TORCH)
def test_numpys_integers_are_integers(name, kind):
    at, _ = TORCH[name]
    assert [at(kind(t)) for t in range(STEPS)] == [at(t) for t in range(STEPS)]
    assert schedules.inverse_sqrt(0.1, 200)(kind(127)) == schedules.inverse_sqrt(0.1, 200)(127)


@pytest.mark.parametrize("name", TORCH)
def test_they_can_be_pickled_and_say_what_they_are(name):
    schedule = TORCH[name][0]
    copied = pickled(schedule)
    assert [copied(t) for t in range(STEPS + 5)] == [schedule(t) for t in range(STEPS + 5)]
    assert repr(schedule) == repr(copied) and eval(repr(schedule), vars(schedules)) == schedule
    optimizer = gdgpu.SGD(np.ones(2), lr=schedule)
    assert pickled(optimizer).current() == optimizer.current()


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
    (schedules.exponential, (0.1, -0.5), "factor"),
    (schedules.exponential, (0.1, math.inf), "factor"),
    (schedules.cosine, (0.1, 10**400), "steps"),
    (schedules.one_cycle, (0.1, 10**400), "steps"),
    (schedules.inverse_sqrt, (0.1, 10**400), "warmup"),
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
