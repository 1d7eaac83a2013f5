"""The launches that take norms before an update: of all gradients together, or of each tensor for its rule."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.backend import threads
from ..kernels.backend.buffers import Buffer, Counters, address_of
from ..kernels.backend.geometry import BLOCK
from ..kernels.backend.memory import itemsize
from ..kernels.reduction.norm_tree import WIDTH, Tree


class Norms:
    """Sums of squares of tensors of these sizes, and where they go. joint: one norm of all; else each of w and u."""

    def __init__(self, device: str, xp: Any, sums: str, sizes: list[int], joint: bool) -> None:
        self.device, self.xp, self.sums = device, xp, sums
        self.tree = Tree(sizes, joint)
        self.sums_of_squares = xp.zeros(self.tree.places * (1 if joint else 2), sums)
        self.factor = xp.ones(1, sums)
        self.nodes, self.counters = Buffer(xp, self.tree.nodes), Counters(xp)
        at = address_of(self.sums_of_squares), self.nodes.address, self.counters.get(1)
        self.job = Buffer(xp, self.tree.job(*at, len(self.tree.items)))

    def address(self, tensor: int) -> int:
        """Where the two sums of a tensor are found."""
        return address_of(self.sums_of_squares) + self.tree.roots[tensor] * 2 * itemsize(self.sums)

    def launches(
        self, module: Any, table: Buffer, tensors: Sequence[int], context: int, nbytes: int, last: bool
    ) -> list[Any]:
        """The launches for these of the tensors, rows of `table` in this order. last: no other launch follows."""
        items = self.tree.items[np.isin(self.tree.items[:, 0], tensors)].copy()
        items[:, 0] = np.searchsorted(tensors, items[:, 0])
        items = Buffer(self.xp, items)
        args = (table.address, items.address, self.job.address, context)
        if self.device == "cuda":
            return [module.norms.prepare(len(items), BLOCK, *args, counters=self.counters, keeps=(self, items))]
        scratch_bytes = 2 * WIDTH * itemsize(self.sums)
        launches = [threads.Launch(module.norms, args, len(items), nbytes, scratch_bytes, (self, items))]
        return [*launches, threads.Launch(module.finish, (self.job.address, context), 1, 0)] if last else launches
