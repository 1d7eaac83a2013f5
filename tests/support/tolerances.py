"""How far results may be from those of other formulas: float32 and float64 against float64."""

import numpy as np

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def close(actual, expected, dtype):
    """Asserts that no difference is beyond the dtype's tolerance, relative to the largest value."""
    expected = np.asarray(expected, np.float64)
    assert np.abs(actual - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


def far(ours, theirs):
    """The largest difference relative to the largest value."""
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)
