"""The tree that every sum over samples follows.

Level-0 node k is the left fold, from +0, of rows 32k … 32k+31; a node of the next level is the left fold of
32 nodes below it; up to one node, the root. A missing row is skipped, and a node with one child is that child.
With weights a leaf is acc = fma(c_n, G[n, j], acc).
"""

from ..backend import memory

RADIX = 32
SHIFT = RADIX.bit_length() - 1
SEGMENT = RADIX * RADIX  # rows that a CUDA block, or a CPU item where rows are split, folds by itself
CPU_ROWS = 8, 1  # that are added in one pass over the sums; with more, kernels take longer to compile and are no faster
CUDA_LOADS = 4, 16  # of vectors, or else of elements, that a CUDA thread has outstanding; more cost it registers


def levels(rows: int) -> int:
    """How many levels the tree of this many rows has; at least one."""
    count = 1
    while rows > RADIX:
        rows, count = -(-rows // RADIX), count + 1
    return count


def constants(sums: str) -> dict:
    """Those of a module whose kernels go over the tree's levels, of sums of this dtype."""
    return {"RADIX": RADIX, "SHIFT": SHIFT, "SIZE": memory.itemsize(sums), "zero": f"np.{sums}(0)"}


def sum_text(value: str, weight: str | None, before: str) -> str:
    """Text that adds a value, or its product with a weight if there is one, to the sum before."""
    return f"{before} + {value}" if weight is None else f"fma({weight}, {value}, {before})"


def cuda_text(dtype: str, lanes: int, vector: bool, weight: str | None = None) -> str:
    """The text that adds rows n … stop-1 of G, the first of which begins at index `at`, to the sums s0, s1, ….

    vector: the lanes lie side by side; else lane k is o_k elements away. weight: the text of row {n}'s weight.
    """
    lines = []
    for unroll in (CUDA_LOADS[0] if vector else CUDA_LOADS[1] // max(lanes, 4), 1):
        adds = []
        lines.append(f"while n + {unroll} <= stop:")
        for u in range(unroll):
            lines.append(f"    at{u} = " + (f"at{u - 1} + stride" if u else "at"))
            if vector:
                lines.append(f"    g{u} = load_{dtype}_lanes(G_at, at{u})")
            else:
                lines += [f"    g{u}_{k} = load_{dtype}(G_at, at{u} + o{k})" for k in range(lanes)]
            values = [f"g{u}[{k}]" if vector else f"g{u}_{k}" for k in range(lanes)]
            if weight:
                adds.append(f"    c = {weight.format(n=f'n + {u}')}")
            adds += [f"    s{k} = {sum_text(value, weight and 'c', f's{k}')}" for k, value in enumerate(values)]
        lines += [*adds, f"    at = at{unroll - 1} + stride", f"    n += {unroll}"]
    return "\n".join(lines)
