"""How a reduction is shared out: column tiles, and row segments at nodes of the tree. The bits do not depend on it."""

from dataclasses import dataclass

import numpy as np

from . import threads
from .tree import RADIX, SEGMENT, levels

CPU_TILE = 1 << 14  # columns of one level that a thread keeps in its cache
CPU_NARROWEST = 1 << 10  # narrower tiles lose more to short runs of memory than they win in balance


@dataclass(frozen=True)
class Split:
    """items: int64 rows (tensor, segment, column tile). tile: columns of an item; segment: its rows.

    block: CUDA's (x, y) threads, each of which folds one level-0 node. tiles: column tiles of each tensor.
    """

    items: np.ndarray
    tile: int
    segment: int
    segments: int
    tiles: tuple
    block: tuple = (1, 1)


def split_cpu(columns, rows, whole=False):
    """Wide tiles, as many as the threads can share evenly; segments of rows where columns alone do not suffice.

    whole: never split rows.
    """
    wanted = 4 * threads.num_threads()
    widest = max(columns, default=0)
    segments = 1
    if not whole and sum(_ceil(p, CPU_TILE) for p in columns) < wanted:
        segments = max(1, _ceil(rows, SEGMENT))
    tiles = max(_ceil(widest, CPU_TILE), min(_ceil(wanted, segments), _ceil(widest, CPU_NARROWEST)), 1)
    if tiles > 1:
        tiles = _ceil(tiles, threads.num_threads()) * threads.num_threads()
    tile = _ceil(_ceil(widest, tiles), 16) * 16
    segment = SEGMENT if segments > 1 else RADIX ** levels(rows)
    while _ceil(rows, segment) > 16 * wanted:  # enough pieces: no need to make them small
        segment *= RADIX
    return _split(columns, rows, tile, segment)


def split_cuda(columns, rows, lanes, block_threads):
    """A block folds up to 1024 rows: a thread a level-0 node, the other threads side by side over columns."""
    nodes = min(RADIX, max(1, _ceil(rows, RADIX)))
    y = 1 << (nodes - 1).bit_length()
    x = max(1, block_threads // y)
    return _split(columns, rows, x * lanes, SEGMENT, (x, y))


def _split(columns, rows, tile, segment, block=(1, 1)):
    segments = max(1, _ceil(rows, segment))
    tiles = tuple(_ceil(p, max(tile, 1)) for p in columns)
    items = []
    for tensor, count in enumerate(tiles):
        grid = np.empty((segments, count, 3), np.int64)
        grid[..., 0] = tensor
        grid[..., 1] = np.arange(segments)[:, None]
        grid[..., 2] = np.arange(count)
        items.append(grid.reshape(-1, 3))
    items = np.concatenate(items) if items else np.empty((0, 3), np.int64)
    return Split(items, tile, segment, segments, tiles, block)


def _ceil(n, d):
    return -(-n // d)
