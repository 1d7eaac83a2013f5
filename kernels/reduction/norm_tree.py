"""Where the sums of squares of tensor_norms.py go: which places of one array a node adds up, level by level."""

from collections.abc import Sequence

import numpy as np

from .tree import RADIX

CHUNK, WIDTH = 1 << 10, 1 << 7
GROUP = CHUNK * RADIX  # elements of an item: a node of the lowest level


class Tree:
    """Where the sums of tensors of these sizes go, level by level: `items`, `nodes`, and the place of each of `roots`.

    joint: one root for all of them, the last one.
    """

    def __init__(self, sizes: Sequence[int], joint: bool) -> None:
        counts = [-(-n // GROUP) for n in sizes]
        items = [(t, k * GROUP) for t, count in enumerate(counts) for k in range(count)]
        self.items = np.array([(*item, place) for place, item in enumerate(items)], np.int64).reshape(-1, 3)
        self.places, nodes = len(items), []
        starts = np.cumsum([0, *counts])
        self.levels = [0]
        self.roots = self._fold([(int(a), int(n)) for a, n in zip(starts, counts, strict=False)], nodes)
        if joint:
            first = self.places
            nodes += [(root, 1, first + k) for k, root in enumerate(self.roots)]  # side by side
            self.places += len(self.roots)
            self.levels.append(len(nodes))
            self.roots = self._fold([(first, len(self.roots))], nodes)
        self.nodes = np.array(nodes, np.int64).reshape(-1, 3)

    def _fold(self, runs, nodes):
        """Fold each run (first place, count) to its root by nodes of up to RADIX, all runs level by level."""
        roots = [None] * len(runs)
        waiting = dict(enumerate(runs))
        while waiting:
            above = {}
            for k, (first, count) in waiting.items():
                place = self.places
                cuts = range(first, first + count, RADIX) if count else [first]
                nodes += [(at, min(RADIX, first + count - at), place + j) for j, at in enumerate(cuts)]
                self.places += len(cuts)
                if len(cuts) == 1:
                    roots[k] = place
                else:
                    above[k] = (place, len(cuts))
            self.levels.append(len(nodes))
            waiting = above
        return roots

    def job(self, sums: int, nodes: int, counter: int, arrivals: int) -> np.ndarray:
        """The row that kernels read; addresses of sums, nodes and the counter."""
        return np.array([sums, nodes, counter, arrivals, len(self.levels) - 1, *self.levels], np.int64)
