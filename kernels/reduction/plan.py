"""How a reduction is shared out: column tiles, and row segments at nodes of the tree. The bits do not depend on it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..backend import threads
from ..backend.geometry import CUDA_SHARED
from .tree import RADIX, SEGMENT, levels

CPU_TILE = 1 << 14  # columns of one level that a thread keeps in its cache
CPU_NARROWEST = 1 << 10  # narrower tiles lose more to short runs of memory than they win in balance
CUDA_BLOCKS = 1 << 11  # wanted: 16 for each of 132 multiprocessors, so that none waits long for the last


@dataclass(frozen=True)
class Split:
    """tile: columns of an item of work; segment: its rows. tiles: column tiles of each tensor.

    block: CUDA's threads, x over columns and y over level-0 nodes.
    """

    tile: int
    segment: int
    segments: int
    tiles: tuple[int, ...]
    block: tuple[int, int] = (1, 1)

    def items(self) -> np.ndarray:
        """int64 rows (tensor, segment, column tile); neighbours in memory are neighbours here."""
        items = [np.empty((0, 3), np.int64)]
        for tensor, count in enumerate(self.tiles):
            grid = np.empty((self.segments, count, 3), np.int64)
            grid[..., 0] = tensor
            grid[..., 1] = np.arange(self.segments)[:, None]
            grid[..., 2] = np.arange(count)
            items.append(grid.reshape(-1, 3))
        return np.concatenate(items)


def split_cpu(columns: tuple[int, ...], rows: int, whole: bool = False) -> Split:
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


@lru_cache
def split_cuda(columns: tuple[int, ...], rows: int, lanes: int, sum_bytes: int, block_threads: int) -> Split:
    """A block folds up to 1024 rows: its threads side by side over columns, y of them over level-0 nodes.

    Tiles are as wide as shared memory allows, and narrower where that gives every multiprocessor some blocks more.
    """
    nodes = min(RADIX, max(1, _ceil(rows, RADIX)))
    limit = min(block_threads, CUDA_SHARED // (sum_bytes * lanes * nodes))
    x = min(1 << limit.bit_length() - 1, _power_of_2(_ceil(max(columns, default=1), lanes)))
    least = max(1, block_threads // _power_of_2(nodes))
    segments = max(1, _ceil(rows, SEGMENT))
    while x > least and segments * sum(_ceil(p, x * lanes) for p in columns) < CUDA_BLOCKS:
        x //= 2
    y = min(block_threads // x, _power_of_2(nodes))
    return _split(columns, rows, x * lanes, SEGMENT, (x, y))


def _split(columns, rows, tile, segment, block=(1, 1)):
    tiles = tuple(_ceil(p, max(tile, 1)) for p in columns)
    return Split(tile, segment, max(1, _ceil(rows, segment)), tiles, block)


def _ceil(n, d):
    return -(-n // d)


def _power_of_2(n):
    """The least power of 2 that is >= n."""
    return 1 << (n - 1).bit_length()
