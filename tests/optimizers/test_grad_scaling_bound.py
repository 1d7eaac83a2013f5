"""A bound step owns what it needs, and optimizers share nothing."""

import gc
import threading

import numpy as np
import pytest

from support.arrays import arrays
from support.covering import usual
from support.optimizers import make, snapshot

SHAPES = ((300,), (7, 9), (), (0,), (1100,))
LIVES = {
    "LAMB": ("LAMB", {}, {"clip_norm": 1.0, "grad_scale": 2.0, "found_inf": False}),
    "LARS": ("LARS", {}, {}),
    "clipped": ("Momentum", {}, {"clip_norm": 1.0}),
    "8 bits": ("Adam", {"state_dtype": "uint8", "rounding": "stochastic"}, {"clip_value": 0.5}),
    "arrays": ("Adam", {"ema": 0.5}, {"grad_scale": "array", "found_inf": "array", "clip_norm": 0.5}),
}


def life(label, common, asked):
    """An optimizer, its gradients and its keywords, made anew."""
    memory = {"grad_scale": np.full(1, 2.0, np.float32), "found_inf": np.zeros(1, np.float32)}
    asked = {name: memory[name] if value == "array" else value for name, value in asked.items()}
    return make(label, arrays(SHAPES, ["float32"] * 5, 1), **common), arrays(SHAPES, ["float32"] * 5, 2), asked


@pytest.mark.parametrize("case", usual(LIVES, [case for case in LIVES if case != "LARS"]))
def test_what_a_bound_step_needs_outlives_everything_else(case):
    expected, grads, asked = life(*LIVES[case])
    for _ in range(3):
        expected.step(grads, **asked)
    optimizer, grads, asked = life(*LIVES[case])
    run = optimizer.bind(grads, **asked)
    optimizer.bind(grads, clip_norm=0.25)()  # of another one, whose memory goes before the first runs
    expected_again, *_ = life(*LIVES[case])
    expected_again.step(grads, clip_norm=0.25)
    for _ in range(3):
        expected_again.step(grads, **asked)
    del optimizer, grads, asked
    gc.collect()
    junk = [np.full(n, 0xA5, np.uint8) for n in (4, 8, 16, 32, 48, 64, 96, 128, 256, 1024, 1300) for _ in range(50)]
    for _ in range(3):
        run()
    assert snapshot(run._owner()) == snapshot(expected_again) != snapshot(expected)
    assert all((array == 0xA5).all() for array in junk)


@pytest.mark.parametrize("case", usual(LIVES, [case for case in LIVES if case != "LARS"]))
def test_two_threads_with_an_optimizer_each(case, use_threads):
    use_threads(2)

    def work(results, k, barrier=None):
        optimizer, grads, asked = life(*LIVES[case])
        if barrier:
            barrier.wait()
        for _ in range(20):
            optimizer.step([np.asarray(g * (k + 1)) for g in grads], **asked)
        results[k] = snapshot(optimizer)

    alone, together, barrier = {}, {}, threading.Barrier(2)
    for k in range(2):
        work(alone, k)
    threads = [threading.Thread(target=work, args=(together, k, barrier)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
