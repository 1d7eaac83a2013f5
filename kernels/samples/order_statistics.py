"""Order statistics of the samples of G[B, P], coordinate by coordinate: medians and trimmed means.

The value of a rank is found bit by bit from the top: the largest float that enough values reach. Values are compared
as floats, so the two zeros are one, and a NaN reaches nothing, not even -inf. Counts do not depend on an order, so
devices share out the rows as they like. What lies between the lowest and the highest value that stay is added up in
the tree of tree.py, where a row outside is skipped, and then those two, each times how often it stays.
"""

from functools import cache

import numpy as np

from ..backend import memory, threads
from ..backend.geometry import BLOCK, CUDA_THREADS, SIMULATED
from ..backend.limits import Limits
from ..codegen.module import Compiled, accessors, fill, module, stem
from ..reduction import cpu_tree, tree
from ..reduction.tree import RADIX, SEGMENT, levels
from . import order_statistics_cpu as on_cpu
from . import order_statistics_cuda as on_cuda

CPU_CACHE = 1 << 19  # bytes of a tile, which stays in the second cache while its bits are found
CPU_COLUMNS = 1 << 6, 1 << 10  # of a tile, at least and at most
CUDA_RESIDENT = 35 << 10  # bytes in which a block holds its columns; if they do not fit, they are read for every bit
CUDA_COLUMNS = 32, 16, 8  # of a block; 8 are still a sector of memory
# A number at a time, most of them from shared memory or from the second cache.
LIMITS = Limits(threads=1024, streams=False)
BITS = {"float16": 19, "bfloat16": 16, "float32": 32, "float64": 64}  # from the top, that differ; wider ones are +0

# Keys are whole numbers in the order of the floats; below that of -inf they all stand for it.
KEYS = """
@device
def float_of(key):
    bits = max(key, LOWEST)
    if bits < 0:
        bits = bits ^ LARGEST
    return $as_float

@device
def after(v):
    # The next larger float; v is not -0.
    bits = $as_int
    return float_of((bits if bits >= 0 else bits ^ LARGEST) + 1)
""".strip()

# above: how many values are > the lowest that stays; top: how many are >= the highest.
MEAN = """
v = lowest
if lowest < highest:
    total = fma(sum_type(high + 1 - rows + top), highest, total)
    v = fma(sum_type(rows - above - low), lowest, total) * scale
""".strip()

FAMILIES = {"median": (on_cpu.MEDIAN, on_cuda.MEDIAN), "trimmed_mean": (on_cpu.TRIMMED, on_cuda.TRIMMED)}


@cache
def kernel(device: str, family: str, g_dtype: str, on_chip: bool = True) -> Compiled:
    """The kernel of one of FAMILIES. on_chip: on CUDA, the rows of a block fit its shared memory."""
    sums = memory.accumulator(g_dtype)
    size = memory.itemsize(sums)
    integer = np.dtype(f"int{8 * size}")
    largest = int(np.iinfo(integer).max)
    constants = {
        "RADIX": RADIX,
        "SIZE": size,
        "BITS": BITS[g_dtype],
        "TOP": 8 * size - 1,
        "LARGEST": largest,
        "SMALLEST": -largest - 1,
        "LOWEST": int(np.dtype(sums).type(-np.inf).view(integer)) ^ largest,
        "int_type": f"np.{integer}",
        "sum_type": f"np.{sums}",
        "zero": f"np.{sums}(0)",
        "infinity": f"np.{sums}(np.inf)",
        "nan": f"np.{sums}(np.nan)",
    }
    constants |= accessors({g_dtype}, sums) | {"load_G": f"load_{g_dtype}"}
    name = stem(family, "" if on_chip else "again", g_dtype)
    as_float, as_int = "int_type(bits).view(sum_type)", "np.int64(sum_type(v).view(int_type))"
    if device == "cpu":
        parts = {
            "sums": sums,
            "keys": _fill(KEYS, as_float=as_float, as_int=as_int),
            "count_rows": on_cpu.count_rows(),
            "finish": _fill(FAMILIES[family][0], mean=MEAN, depth=cpu_tree.depth_text("rows")),
        }
        return module(name, device, on_cpu.SKELETON, parts, constants, cpu_tree.imports(sums)).between
    if not SIMULATED:  # there are no methods of numbers in device code
        back, forth = ("int_as_float", "float_as_int") if size == 4 else ("longlong_as_double", "double_as_longlong")
        as_float, as_int = f"cuda.libdevice.{back}(int_type(bits))", f"np.int64(cuda.libdevice.{forth}(v))"
    constants |= {
        "SEGMENT": SEGMENT,
        "SHIFT": tree.SHIFT,
        "THREADS": CUDA_THREADS,
        "VALUES": CUDA_RESIDENT // size,
        "NODES": RADIX * CUDA_COLUMNS[0],
        "LEVELS": on_cuda.DEPTH * CUDA_COLUMNS[0],
        "DEPTH": on_cuda.DEPTH,
        "G_SIZE": memory.itemsize(g_dtype),
    }
    value = "source[n * X + x]" if on_chip else "load_G(source, n * stride)"
    parts = {
        "sums": sums,
        "keys": _fill(KEYS, as_float=as_float, as_int=as_int),
        "source": on_cuda.ON_CHIP if on_chip else "source = G_at + column * G_SIZE",
        "value": value,
        "finish": _fill(FAMILIES[family][1], mean=MEAN, value=value),
    }
    return module(name, device, on_cuda.SKELETON, parts, constants).between


def _fill(text, **parts):
    return fill(text, **parts).rstrip()


def between(
    device: str, family: str, g_dtype: str, rows: int, columns: int, G: int, stride: int, low: int, high: int, out: int
) -> None:
    """out <- the mean of the values of the ranks low … high of each column of G; of 0 <= low <= high < rows."""
    sums = np.dtype(memory.accumulator(g_dtype))
    ends = (low, high, sums.type(1 / (high - low + 1)), out)
    if device == "cpu":
        narrowest, widest = CPU_COLUMNS
        tile = min(max(CPU_CACHE // (rows * sums.itemsize), narrowest), widest) // narrowest * narrowest
        scratch_bytes = tile * (4 * 8 + (3 + rows + levels(rows)) * sums.itemsize)
        nbytes = rows * columns * memory.itemsize(g_dtype)
        compiled = kernel(device, family, g_dtype)
        threads.run(compiled, (G, stride, rows, columns, tile, *ends), -(-columns // tile), nbytes, scratch_bytes)
        return
    X = next((X for X in CUDA_COLUMNS if X * rows * sums.itemsize <= CUDA_RESIDENT), 0)
    compiled, X = kernel(device, family, g_dtype, on_chip=bool(X)), X or CUDA_COLUMNS[0]
    X = min(X, BLOCK)
    compiled.launch(-(-columns // X), (X, BLOCK // X), G, stride, rows, columns, *ends)
