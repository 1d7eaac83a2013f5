"""State in few bits trains as well as float32: softmax regression on the digits, with the defaults of `gdgpu train`."""

from functools import cache

import numpy as np
import pytest

from gdgpu.cli.options import Options
from gdgpu.cli.train import Session

SEEDS = range(5)
# Not Adam's averages in bfloat16 to nearest: of steps by thousandths they take none.
RUNS = [
    ("momentum", "uint8", "nearest"),
    ("momentum", "uint8", "stochastic"),
    ("momentum", "bfloat16", "nearest"),
    ("momentum", "bfloat16", "stochastic"),
    ("adam", "uint8", "nearest"),
    ("adam", "uint8", "stochastic"),
    ("adam", "bfloat16", "stochastic"),
]


@cache
def final_test_loss(name, **common):
    """After 30 epochs, the mean over the seeds: of the split, the shuffles and the random bits."""
    found = []
    for seed in SEEDS:
        session = Session(Options(optimizer=name, seed=seed, epochs=30, device="cpu", quiet=True))
        kind, hyper = type(session.optimizer), session.optimizer.current()
        session.optimizer = kind(session.model.params, **hyper, seed=seed, **common)
        session.train()
        found.append(session.epochs[-1]["test_loss"])
    return np.mean(found)


@pytest.mark.parametrize(("name", "state_dtype", "rounding"), RUNS)
def test_the_test_loss_is_at_most_one_percent_above(name, state_dtype, rounding):
    loss = final_test_loss(name, state_dtype=state_dtype, rounding=rounding)
    assert loss < 1.01 * final_test_loss(name)
