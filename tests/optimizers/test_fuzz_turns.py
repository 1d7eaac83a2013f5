"""Steps of every kind from eight threads, at random: no gradient is lost."""

import os
import random
import threading

import numpy as np
import pytest

import gdgpu
from support.threads import together

SEED = int(os.environ.get("GDGPU_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))


class Owner:
    """An optimizer whose weights, after steps of whole numbers, say the sum of all gradients; steps of every kind."""

    def __init__(self, size):
        self.w, self.size = np.zeros(size, np.float32), size
        self.optimizer = gdgpu.SGD(self.w, lr=1.0)
        self.fixed = np.full(size, 3, np.float32)
        self.run, self.run_samples = self.optimizer.bind(self.fixed), self.optimizer.bind_samples(self.fixed[None])
        self.sums = gdgpu.Accumulator(self.w)

    def act(self, rng):
        """Something at random; (the sum of the gradients that it took, the steps, the samples that it added)."""
        kind, value = rng.randrange(8), rng.randrange(1, 9)
        g = np.full(self.size, value, np.float32)
        if kind < 2:
            self.optimizer.step(g)
        elif kind == 2:
            self.optimizer.step_samples(np.stack([g, g]))
        elif kind == 3:
            self.run()
            return 3, 1, 0
        elif kind == 4:
            self.run_samples()
            return 3, 1, 0
        elif kind == 5:
            self.sums.add(np.stack([g] * value), max_norm=1e6 if value % 2 else None)
            return 0, 0, value
        elif kind == 6:
            saved = self.optimizer.state_dict()
            assert saved["steps"] >= 0 and self.optimizer.steps >= saved["steps"]
            return 0, 0, 0
        else:
            self.optimizer.lr = 1.0
            self.optimizer.bind(g)()
        return value, 1, 0


def fuzz(seed, steps, size):
    """Eight threads over optimizers that they share, and some of their own."""
    shared, lock = [Owner(size) for _ in range(3)], threading.Lock()
    totals = {owner: [0, 0, 0] for owner in shared}

    def work(k):
        rng, private = random.Random(f"{seed} {k}"), Owner(size)
        totals[private] = [0, 0, 0]
        for _ in range(steps // 8):
            owner = rng.choice([*shared, private])
            taken = owner.act(rng)
            with lock:
                totals[owner] = [a + b for a, b in zip(totals[owner], taken, strict=True)]

    together(*(lambda k=k: work(k) for k in range(8)))
    for owner, (gradients, count, samples) in totals.items():
        found = owner.optimizer.steps, owner.sums.count, *owner.w[[0, -1]]
        assert found == (count, samples, -gradients, -gradients), f"seed {seed}"
        assert (owner.w == owner.w[0]).all(), f"seed {seed}"


@pytest.mark.parametrize("count", (1, 2))
def test_no_gradient_is_lost(count, use_threads):
    use_threads(count)
    fuzz(SEED, 1200, 100)


@pytest.mark.full
@pytest.mark.parametrize("size", (100, 100_000))
@pytest.mark.parametrize("count", (1, 2))
def test_no_gradient_is_lost_in_many_steps(count, size, use_threads):
    use_threads(count)
    fuzz(SEED, 100_000 // (4 if size > 100 else 1), size)
