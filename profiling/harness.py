"""Timing that holds on noisy machines: every contender in one process, in turn, medians and spread."""

import statistics
import time


def interleave(calls, rounds=11, warmups=2, pause=0.05):
    """Seconds of each call, `rounds` samples each, taken in turn: {name: [seconds]}.

    A pause and two untimed calls precede each sample, so that the threads of the contender before (OpenMP's go on
    spinning for a while) and what it left in the caches are not charged to this one.
    """
    samples = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(pause)
            for _ in range(warmups):
                call()
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return samples


def medians(samples):
    """{name: median seconds}."""
    return {name: statistics.median(values) for name, values in samples.items()}
