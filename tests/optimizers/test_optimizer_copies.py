"""copy.deepcopy and pickle of optimizers: they go on to the bits of the original, on arrays of their own."""

import numpy as np
import pytest

import gdgpu
from support.copies import COPIES, pickled
from support.optimizers import OPTIMIZERS, make, schedule, snapshot
from support.user_rules import heavy_ball

STORED = {
    "plain": {},
    "8 bits": {"state_dtype": "uint8", "rounding": "stochastic", "seed": 3},
    "master, ema": {"master": True, "ema": 0.9},
}
ROWS = [(label, "plain") for label in OPTIMIZERS] + [
    ("Adam", "8 bits"),
    ("Momentum", "8 bits"),
    ("Adam", "master, ema"),
]


def made(label, stored, dtype):
    params = {"w": np.ones((3, 100), dtype), "b": np.full(5, 2, dtype)}
    return make(label, params, lr=0.1, **STORED[stored])


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(("label", "stored"), ROWS)
def test_a_copy_goes_on_like_the_original(label, stored, how):
    dtype = np.float16 if "master" in stored else np.float32
    optimizer, rng = made(label, stored, dtype), np.random.default_rng(0)

    def step(one, seed):
        rng = np.random.default_rng(seed)
        one.step({name: rng.standard_normal(array.shape).astype(dtype) for name, array in one.params.items()})

    for seed in range(3):
        step(optimizer, seed)
    optimizer.weight_decay = 0.01
    other = COPIES[how](optimizer)
    assert snapshot(other) == snapshot(optimizer) and repr(other) == repr(optimizer)
    before = snapshot(optimizer)
    step(other, 7)
    assert snapshot(optimizer) == before != snapshot(other)  # arrays of its own
    step(optimizer, 7)
    assert snapshot(other) == snapshot(optimizer)
    rng.shuffle(other.params["w"])
    assert optimizer.params["w"] is not other.params["w"]


@pytest.mark.parametrize("how", COPIES)
def test_what_is_copied_with_its_parameters_shares_them(how):
    params = {"w": np.ones(4, np.float32)}
    optimizer = gdgpu.Adam(params, lr=0.1)
    both = COPIES[how]({"params": params, "optimizer": optimizer})
    both["optimizer"].step({"w": np.ones(4, np.float32)})
    assert both["optimizer"].params is both["params"] and (both["params"]["w"] < 1).all() and (params["w"] == 1).all()


@pytest.mark.parametrize("how", COPIES)
def test_groups_functions_and_users_rules(how):
    groups = [{"params": np.ones(3)}, {"params": [np.ones(2)], "lr": 0.5}]
    optimizer = heavy_ball(groups, lr=schedule)
    optimizer.momentum, optimizer.groups[0].momentum = 0.25, 0.5
    optimizer.step([np.ones(3), [np.ones(2)]])
    other = COPIES[how](optimizer)
    assert other.lr is schedule and [g.lr for g in other.groups] == [schedule, 0.5]
    assert [g.momentum for g in other.groups] == [0.5, 0.25] and other.steps == 1
    for one in (optimizer, other):
        one.momentum = 0.75  # of the group that follows
        one.step([np.ones(3), [np.ones(2)]])
    assert snapshot(other) == snapshot(optimizer)


@pytest.mark.parametrize("how", COPIES)
def test_steps_that_are_counted_in_memory(how):
    optimizer = gdgpu.Adam(np.ones(3, np.float32), lr=0.1)
    optimizer.step(np.ones(3, np.float32), found_inf=False)
    optimizer.step(np.ones(3, np.float32), found_inf=True)
    other = COPIES[how](optimizer)
    assert other.steps == 1
    for one in (optimizer, other):
        one.step(np.ones(3, np.float32), found_inf=False)
    assert other.steps == 2 and snapshot(other) == snapshot(optimizer)


def test_a_copy_while_another_thread_steps_is_of_one_moment():
    import threading

    w = np.zeros(64, np.float64)
    optimizer, stop = gdgpu.SGD(w, lr=1.0, momentum=0.5), threading.Event()

    def work():
        while not stop.is_set():
            optimizer.step(np.ones(64))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(50):
            other = pickled(optimizer)
            buffer = other.state_dict()["state"]["momentum_buffer"][0]
            assert buffer == pytest.approx(2 * (1 - 0.5**other.steps)) or other.steps == 0
    finally:
        stop.set()
        thread.join()
