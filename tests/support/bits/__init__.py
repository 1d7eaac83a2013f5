"""Kernels over a table of cases: this process's answers, as arrays, to hold against another device's."""

import itertools

import numpy as np

import gdgpu
from gdgpu import devices
from gdgpu.kernels.backend.buffers import Buffer, address_of
from gdgpu.kernels.backend.scalars import fma, maximum, minimum, sign, sqrt
from gdgpu.kernels.backend.threads import whole
from gdgpu.kernels.catalogue import flags_of
from gdgpu.kernels.launch import Job, Reduction
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.reduction import plan, reduce_update
from gdgpu.kernels.rules import table
from gdgpu.kernels.rules.rule import Rule
from support.bits import clipping, layers, optimizers, statistics
from support.bits.arrays import device, padded, reversed_rows, special, target, to_device, unaligned
from support.covering import some
from support.references import DTYPES, bits, samples, sums_of


def every_scalar(w, g, state, low, high):
    state = sqrt(maximum(state, -state) + g * g) / (1 + 0.1 * sign(w))
    return fma(low, minimum(w, high), maximum(g, low) - 0.3 * state), state


# Those with norms take two phases: optimizers.py has them.
RULES = {name: rule for name, rule in table.RULES.items() if not rule.norm}
RULES["every_scalar"] = Rule(every_scalar, state=("state",))


def hyper_rows(rule, tensors, sums):
    """A row a tensor: numbers from (0, 1), the k-th of them 0 in row k + 1 (weight_decay = 0 is a branch)."""
    rows = np.random.default_rng(9).uniform(0.05, 0.95, (tensors, max(1, len(rule.scalars))))
    for k in range(min(tensors - 1, len(rule.scalars))):
        rows[k + 1, k] = 0
    return rows.astype(sums)


def run_update(rule, flags, w_dtype, g_dtype, sizes, steps=2):
    """`steps` updates of tensors of these sizes, the second of them unaligned."""
    sums = sums_of(w_dtype).name
    dtypes = (w_dtype, g_dtype, *[sums] * len(rule.state))
    kernel = update.kernel(device(), rule, flags, dtypes)
    tensors = [[special(n, d, 7 * k + j) for j, d in enumerate(dtypes)] for k, n in enumerate(sizes)]
    tensors[1] = [unaligned(array) for array in tensors[1]]
    tensors = [list(map(to_device, arrays)) for arrays in tensors]
    cut, hyper = update.plan(device(), sizes), to_device(hyper_rows(rule, len(sizes), sums))
    rows = [(t[0].size, address_of(h), *map(address_of, t)) for t, h in zip(tensors, hyper, strict=True)]
    table, items = (Buffer(target().xp, array) for array in (np.array(rows, np.int64), cut.items))
    run = update.launcher(device(), kernel, table, items, cut.chunk, nbytes=1 << 30)
    for _ in range(steps):
        run()
    return [array for w, _, *state in tensors for array in (w, *state)]


def run_fused(rule, flags, dtype, B, columns, weighted=False, move=lambda G: G):
    """One reduce-and-update of tensors with these numbers of columns."""
    sums = sums_of(dtype).name
    dtypes = (dtype, *[sums] * len(rule.state))
    tensors = [[to_device(special(P, d, j)) for j, d in enumerate(dtypes)] for P in columns]
    G = [to_device(move(samples((B, P), dtype))) for P in columns]
    weights = to_device(samples((B,), sums, 3)) if weighted else None
    hyper = to_device(hyper_rows(rule, len(columns), sums))

    def kernel(device, g_dtype, weighted):
        return reduce_update.kernel(device, rule, flags, dtypes, g_dtype, weighted)

    job = Job(
        g_dtype=dtype,
        rows=B,
        columns=tuple(columns),
        matrices=[(address_of(g), g.strides[0] // g.itemsize) for g in G],
        targets=[(address_of(h), *map(address_of, t)) for h, t in zip(hyper, tensors, strict=True)],
        scale=1 / max(B, 1),
        weights=address_of(weights) if weighted else 0,
    )
    launches = Reduction(device(), target().xp, kernel).prepare(job)
    for _ in range(2):  # counters must have reset themselves
        whole(launches)
    return [array for t in tensors for array in t]


def run_reduce(dtype, B, P, weighted=False, reduction="mean", move=lambda G: G):
    G, weights = to_device(move(samples((B, P), dtype))), samples((B,), "float64", 3) if weighted else None
    # again, since counters must have reset themselves; large ones would take the simulator too long
    return [gdgpu.reduce_samples(G, weights, reduction) for _ in range(2 if G.size < 30_000 else 1)]


def run_tiles(blocks, *reduction):
    """A reduction on CUDA in tiles as wide as for so few blocks, or as narrow as for so many."""
    usual, plan.CUDA_BLOCKS = plan.CUDA_BLOCKS, blocks
    plan.split_cuda.cache_clear()
    try:
        return run_reduce(*reduction)
    finally:
        plan.CUDA_BLOCKS = usual
        plan.split_cuda.cache_clear()


def run_accumulator(dtype, P, cuts, weighted=False):
    B = sum(cuts)
    G, weights = to_device(samples((B, P), dtype)), samples((B,), "float64", 3)
    accumulator, results = gdgpu.Accumulator(G[0]), []
    for n, stop in zip(cuts, np.cumsum(cuts), strict=True):
        accumulator.add(G[stop - n : stop], weights[stop - n : stop] if weighted else None)
        results += [accumulator.result(), accumulator.result("sum")]
    return results


def padded_by_vectors(G):
    wide = np.ones((G.shape[0], -(-G.shape[1] // 8) * 8 + 8), G.dtype)
    wide[:, : G.shape[1]] = G
    return wide[:, : G.shape[1]]


MOVES = {
    "unaligned": unaligned,
    "padded": padded,
    "padded by vectors": padded_by_vectors,
    "reversed": reversed_rows,
    "broadcast": lambda G: np.broadcast_to(G[:1], G.shape),
}
REDUCE = [
    *itertools.product(("float32",), (0, 1, 31, 32, 33), (0, 1, 3, 4, 127)),
    *itertools.product(("float16", "bfloat16", "float64"), (0, 1, 32, 33), (3, 20)),
    *itertools.product(("float32",), (1, 33), (4099,)),
    *itertools.product(DTYPES, (1024, 1025), (1, 9)),
    *itertools.product(("float32",), (1024, 1025), (3, 4)),
    ("float32", 1025, 127),
    *itertools.product(("float32",), (33_000,), (1, 3)),
]
TILED = [
    ("float32", 70, 300),
    ("float32", 2100, 9),
    ("bfloat16", 1100, 24),
    ("float64", 300, 33),
    ("float16", 100, 131),
]
MOMENTUM = (RULES["momentum"], (("nesterov", False), ("maximize", False)))


def _cases():
    for rule in RULES.values():
        for flags in flags_of(rule):
            label = "/".join([rule.name, *(name for name, on in flags if on)])
            for w in DTYPES:
                for g in dict.fromkeys((w, sums_of(w).name)):
                    yield f"update/{label}/{w}/{g}", run_update, (rule, flags, w, g, (75, 41, 0, 1, 16, 23))
            if not any(on for _, on in flags) or rule.name == "momentum":
                yield f"fused/{label}", run_fused, (rule, flags, "float32", 33, (21, 0, 4))
    yield "update/many chunks", run_update, (*MOMENTUM, "float32", "float32", (16_384 + 300, 5), 1)
    for dtype, B, P in REDUCE:
        for weighted in (False, True):
            name = f"{dtype}/{B}x{P}/{'weighted' if weighted else 'plain'}"
            yield f"reduce/{name}", run_reduce, (dtype, B, P, weighted, "sum" if P % 2 else "mean")
    for (move, moved), dtype, weighted in itertools.product(MOVES.items(), DTYPES, (False, True)):
        name = f"{dtype}/{move}/{'weighted' if weighted else 'plain'}"
        yield f"reduce/{name}", run_reduce, (dtype, 35, 40, weighted, "mean", moved)
        yield f"fused/{name}", run_fused, (*MOMENTUM, dtype, 35, (16, 9), weighted, moved)
    for dtype, (B, P), weighted in itertools.product(DTYPES, ((0, 5), (1, 40), (1025, 3)), (False, True)):
        name = f"{dtype}/{B}x{P}/{'weighted' if weighted else 'plain'}"
        yield f"fused/{name}", run_fused, (*MOMENTUM, dtype, B, (P, 2), weighted)
    for blocks, (dtype, B, P) in itertools.product((1, 1 << 20), TILED):
        yield f"reduce/{dtype}/{B}x{P}/{blocks} blocks", run_tiles, (blocks, dtype, B, P, P % 2 == 1)
    for dtype, weighted in itertools.product(DTYPES, (False, True)):
        name = f"accumulate/{dtype}/{'weighted' if weighted else 'plain'}"
        yield name, run_accumulator, (dtype, 5, (3, 29, 0, 1, 1000, 31), weighted)
    yield "accumulate/four levels", run_accumulator, ("float32", 1, (32_768, 232))
    yield from optimizers.cases()
    yield from layers.cases()
    yield from clipping.cases()
    yield from statistics.cases()


CASES = {name: (run, args, *options) for name, run, args, *options in _cases()}


def usual():
    """Names of cases among which each part of a name comes once: every family, and all that it is run over."""
    kinds = {}
    for name in CASES:
        parts = tuple(name.split("/"))
        kinds.setdefault((parts[0], len(parts)), []).append(parts)
    return ["/".join(parts) for cases in kinds.values() for parts in some(cases, together=1)]


def answers(name):
    """The arrays of a case, as bits in which all NaNs are one."""
    run, args, *options = CASES[name]
    with np.errstate(all="ignore"):
        return [bits(devices.on_host(array)) for array in run(*args, **dict(*options))]
