"""The tree of tree.py on the CPU: its functions `fold` and `root`, in a module for each dtype, which kernels import."""

from functools import cache

from ..backend import memory
from ..codegen.module import accessors, fill, module, stem
from .tree import CPU_ROWS, constants, sum_text

FOLD = """
@$decorator
def fold(nodes, pitch, G, stride, column, width, weights, row, first, last):
    # Rows first … last-1 of G, which are rows row, row + 1, … of the tree. nodes: sums, the levels `pitch` apart.
    while first < last:
        if row > 0 and row & (RADIX - 1) == 0:
            # Row `row` begins a new node: what is below it is complete and goes into its parent.
            below = nodes
            full = row
            while full & (RADIX - 1) == 0:
                above = below + pitch * SIZE
                for j in range(width):
                    store_sum(above, j, load_sum(above, j) + load_sum(below, j))
                    store_sum(below, j, zero)
                below = above
                full >>= SHIFT
        count = min(last - first, RADIX - (row & (RADIX - 1)))
        stop = first + count
        row += count
        $add_rows
"""

ROOT = """
@shared(__name__, CODE)
def root(sums, nodes, pitch, width, depth):
    # sums: a copy of level 0. It becomes the root, as the last node of every level goes into the one above.
    while depth > 1:
        nodes += pitch * SIZE
        for j in range(width):
            store_sum(sums, j, load_sum(nodes, j) + load_sum(sums, j))
        depth -= 1
"""


DEPTH = """
depth = 1
full = RADIX
while $rows > full:
    depth += 1
    full *= RADIX
"""


def depth_text(rows: str) -> str:
    """The lines that find how many levels the tree of so many rows has: `depth`."""
    return fill(DEPTH.strip(), rows=rows).rstrip()


def fold_text(decorator: str, add_rows: str) -> str:
    """The function `fold`; add_rows: the lines that add rows first … stop-1 to the sums of level 0."""
    return fill(FOLD, decorator=decorator, add_rows=add_rows)


@cache
def _functions(dtype, weighted):
    sums, lines = memory.accumulator(dtype), ["step = stride * G_SIZE"]
    for rows in CPU_ROWS:
        lines += [f"while stop - first >= {rows}:", "    g0 = G + (first * stride + column) * G_SIZE"]
        lines += [f"    g{k} = g{k - 1} + step" for k in range(1, rows)]
        if weighted:
            lines += [f"    c{k} = load_sum(weights, first + {k})" for k in range(rows)]
        total = "load_sum(nodes, j)"
        for k in range(rows):
            total = sum_text(f"load_{dtype}(g{k}, j)", f"c{k}" if weighted else None, total)
        lines += ["    for j in range(width):", f"        store_sum(nodes, j, {total})", f"    first += {rows}"]
    text = fold_text("shared(__name__, CODE)", "\n".join(lines)) + ROOT
    named = constants(sums) | {"G_SIZE": memory.itemsize(dtype)} | accessors({dtype}, sums)
    return module(stem("tree", "weighted" if weighted else "", dtype), "cpu", text, {}, named)


def imports(dtype: str, weighted: bool = False, names: tuple[str, ...] = ("fold", "root")) -> list[tuple]:
    """What a kernel imports to add up G of this dtype."""
    return [(_functions(dtype, weighted), names)]
