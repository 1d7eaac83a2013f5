"""State in few bits, by its documentation and in NumPy alone: the maps of 8-bit codes, their scales, and rounding."""

import numpy as np

from support.references import dtype_of

BLOCK = 256  # elements that share a scale
LEAST_SCALE = np.float64(2.0**-126)


def _units(codes):
    """What a code stands for, in units of its scale."""
    return np.array([c if c < 32 else (16 + c % 16) * 2 ** (c // 16 - 1) for c in range(codes)], np.float64)


POSITIVE = {"signed8": _units(128), "positive8": _units(128), "unsigned8": _units(256)}
VALUES = POSITIVE | {"signed8": np.concatenate([POSITIVE["signed8"], -POSITIVE["signed8"]])}


def scale_of(top, kind):
    """The least power of two, in float64, in whose units no value up to `top` is beyond the largest code."""
    if not np.isfinite(top):
        return np.nan
    scale = LEAST_SCALE
    while top > scale * POSITIVE[kind][-1]:
        scale *= 2
    return scale


def nearest_codes(units, kind):
    """The code nearest to each of these values, by looking at all of them; of two equally near, the even one."""
    distance = np.abs(np.abs(units)[:, None] - POSITIVE[kind])
    is_nearest = distance == distance.min(axis=1, keepdims=True)
    codes = np.where(is_nearest, np.arange(len(POSITIVE[kind])) % 2, 2).argmin(axis=1)
    if kind == "signed8":
        return codes + 128 * np.signbit(units)
    return np.where((units != 0) & (codes == 0), 1, codes)


def _round_block(block, kind):
    scale = scale_of(np.abs(block).max(), kind)
    if np.isnan(scale):
        return np.full(block.shape, np.nan, np.float32)
    return (VALUES[kind][nearest_codes(block / scale, kind)] * scale).astype(np.float32)


def rounded(values, kind):
    """float32 values as a state of this kind holds them: bfloat16, or codes."""
    if kind not in VALUES:
        return values.astype(dtype_of(kind)).astype(np.float32)
    flat = values.astype(np.float64).reshape(-1)
    blocks = [_round_block(flat[k : k + BLOCK], kind) for k in range(0, len(flat), BLOCK)]
    return np.concatenate([np.empty(0, np.float32), *blocks]).reshape(values.shape)


def grid_of(kind, scale=1.0):
    """All values of a kind, rising, as float64: of a 16-bit float, or of codes in units of this scale."""
    if kind in VALUES:
        return np.unique(VALUES[kind]) * scale
    with np.errstate(invalid="ignore"):  # signalling NaNs
        every = np.arange(1 << 16, dtype=np.uint16).view(dtype_of(kind)).astype(np.float64)
    return np.unique(every[~np.isnan(every)])


def neighbours(x, grid):
    """The values of a rising grid on both sides of each x; twice x where it is one of them."""
    return grid[np.searchsorted(grid, x, "right") - 1], grid[np.searchsorted(grid, x, "left")]
