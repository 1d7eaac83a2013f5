"""Timing that holds on noisy machines: every contender in one process, in turn, medians and spread."""

import statistics
import time


def interleave(calls, rounds=7, seconds=0.2):
    """Seconds of each call's samples, taken in turn: {name: [seconds]}.

    In each of `rounds` turns a contender runs for `seconds`, and only the second half of its calls counts: threads
    of the contender before go on spinning for tens of milliseconds (OpenMP's), and caches are not its own yet.
    """
    samples = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken = []
            end = time.perf_counter() + seconds
            while len(taken) < 4 or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
            samples[name] += taken[len(taken) // 2 :]
    return samples


def medians(samples):
    """{name: median seconds}."""
    return {name: statistics.median(values) for name, values in samples.items()}
