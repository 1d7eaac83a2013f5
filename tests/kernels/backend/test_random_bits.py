"""The bits for rounding at random: as even as true ones, along every axis of their counter and between neighbours."""

import numpy as np
import pytest

from gdgpu.optimizers.precision import Precision
from support.codes import run

N = 1 << 16
KEY = Precision(seed=5).keys(1)[0]
FAR = 1 << 33  # beyond what 32 bits count


def random(key, elements):
    return run("random")(np.int64(key) if np.isscalar(key) else np.asarray(key, np.int64), elements).view(np.uint32)


def keyed(key, step, array):
    return run("keyed")(np.asarray(key, np.int64), np.asarray(step, np.int64), np.asarray(array, np.int64))


COUNT = np.arange(N)
AXES = {
    "elements": lambda: random(keyed(KEY, 3, 1), COUNT),
    "far elements": lambda: random(keyed(KEY, 3, 1), COUNT + FAR),
    "elements 2^32 apart": lambda: random(keyed(KEY, 3, 1), COUNT << 32),
    "every 256th element": lambda: random(keyed(KEY, 3, 1), COUNT << 8),
    "steps": lambda: random(keyed(KEY, COUNT, 1), 5),
    "far steps": lambda: random(keyed(KEY, COUNT + FAR, 1), 5),
    "arrays": lambda: random(keyed(KEY, 3, COUNT), 5),
    "tensors": lambda: random(keyed(Precision(seed=5).keys(N), 3, 1), 5),
    "seeds": lambda: random(keyed([Precision(seed=k).keys(1)[0] for k in range(N // 16)], 3, 1), 5),
}
# Streams of a whole tensor that must have nothing to do with one another.
KEYS = {
    "steps": ((KEY, 3, 1), (KEY, 4, 1)),
    "far steps": ((KEY, 3, 1), (KEY, 3 + (1 << 32), 1)),
    "arrays": ((KEY, 3, 1), (KEY, 3, 2)),
    "a step and an array": ((KEY, 3, 2), (KEY, 2, 3)),
    "tensors": ((Precision(seed=5).keys(2)[0], 3, 1), (Precision(seed=5).keys(2)[1], 3, 1)),
    "seeds": ((Precision(seed=5).keys(1)[0], 3, 1), (Precision(seed=6).keys(1)[0], 3, 1)),
    "keys that differ in a low bit": ((KEY, 3, 1), (KEY ^ 1, 3, 1)),
    "keys that differ in a high bit": ((KEY, 3, 1), (KEY ^ (1 << 40), 3, 1)),
}


def deviations(draws):
    """By how many standard deviations the counts of ones of each bit, and chi-squares of bytes, are off."""
    n = len(draws)
    ones = [np.count_nonzero(draws >> np.uint32(k) & np.uint32(1)) for k in range(32)]
    counts = [np.bincount(draws >> np.uint32(8 * k) & np.uint32(255), minlength=256) for k in range(4)]
    squares = np.array([((c - n / 256) ** 2).sum() / (n / 256) for c in counts])
    return np.concatenate([(np.array(ones) - n / 2) / np.sqrt(n / 4), (squares - 255) / np.sqrt(2 * 255)])


def assert_even(draws):
    assert np.abs(deviations(draws)).max() < 5  # of true bits, one set of draws in 10^5 fails


def correlation(a, b):
    return np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1] * np.sqrt(len(a))


def assert_unrelated(a, b):
    assert_even(a ^ b)
    assert_even(a - b)
    assert abs(correlation(a, b)) < 5
    assert abs(correlation(a & np.uint32(0xFFFF), b & np.uint32(0xFFFF))) < 5


def assert_random(draws):
    assert_even(draws)
    for apart in (1, 2, 256):
        assert_unrelated(draws[apart:], draws[:-apart])


@pytest.mark.parametrize("axis", AXES)
def test_along_an_axis(axis):
    assert_random(AXES[axis]())


@pytest.mark.parametrize("which", KEYS)
def test_between_streams(which):
    one, other = (random(keyed(*key), COUNT) for key in KEYS[which])
    assert_unrelated(one, other)
    for k in (1, 256):  # nor is one the other, moved
        assert_unrelated(one[k:], other[:-k])


def lowbias32(x):
    """Half of the hash: what is left where the key has no say."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> np.uint32(shift)) * np.uint32(factor)
    return x ^ x >> np.uint32(16)


WEAKER = {
    "the counter": COUNT.astype(np.uint32),
    "a product": COUNT.astype(np.uint32) * np.uint32(0x9E3779B9),
    "a congruence": COUNT.astype(np.uint32) ** 2 * np.uint32(1664525) + np.uint32(1013904223),
    "one round": (COUNT.astype(np.uint32) ^ COUNT.astype(np.uint32) >> np.uint32(16)) * np.uint32(0x7FEB352D),
    "a bit that is one in 20 times too often": lowbias32(COUNT.astype(np.uint32)) | (COUNT % 20 == 0) << np.uint32(7),
}


@pytest.mark.parametrize("which", WEAKER)
def test_weaker_bits_do_not_pass(which):
    with pytest.raises(AssertionError):
        assert_random(WEAKER[which].astype(np.uint32))


def test_streams_that_are_related_do_not_pass():
    """Keys that are only added to the counter, or only to the result, move a stream or shift its values."""
    one = lowbias32(COUNT.astype(np.uint32))
    for other in (lowbias32(COUNT.astype(np.uint32) + np.uint32(1)), one + np.uint32(1), one ^ np.uint32(1 << 20)):
        with pytest.raises(AssertionError):
            for k in (0, 1):
                assert_unrelated(one[k:], other[: N - k])


def test_every_step_tensor_and_array_has_its_own_key():
    keys = np.array(Precision(seed=0).keys(20))
    found = keyed(keys[:, None, None], np.arange(500)[:, None], np.arange(8))
    assert len(np.unique(found)) == found.size
    assert len(np.unique(Precision(seed=0).keys(10_000) + Precision(seed=1).keys(10_000))) == 20_000


def test_keys_of_a_tensor_do_not_depend_on_how_many_follow():
    assert Precision(seed=3).keys(2) == Precision(seed=3).keys(50)[:2]
