"""Loss and gradient of a model that is linear in its inputs, in one read of them.

z_n = scale * x_n W + b, residual r_n of the loss, then dW = sum_n scale * x_n r_n^T and db = sum_n r_n, while the rows
are still on chip. A sample's norm is |r_n| sqrt(scale^2 |x_n|^2 + 1); with max_norm its residual is multiplied by the
factor that clips it.

An item of work is a segment of rows, of the same size for any number of threads; its sums go to a row of `weights` and
one of `biases`, to be added up by reduce.py or reduce_update.py. `job` is the address of a row of int64, that of
linear_job.py.
"""

from collections.abc import Iterator
from functools import cache, partial

from ..backend import memory, simd
from ..backend.limits import Limits
from ..codegen.module import Compiled, lanes_of, stem
from . import linear_cpu, linear_cuda, linear_job, losses
from .linear_job import CLIP, JOB

TILE = 5  # outputs at most, whose sums are in registers
SEGMENTS = {"cpu": 64, "cuda": 1024}  # at most so many
LIMITS = Limits(threads=256, in_flight=20 << 10)
LEAST = 32  # rows of one, for each output: its sums are few bytes beside its rows


def tile_of(outputs: int, device: str = "cpu", x_dtype: str = "float32") -> int:
    """Outputs that are summed up in one pass over the rows."""
    limit = TILE
    if device == "cuda":  # a thread has weights of so many elements, too, in its registers
        limit = {4: 5, 2: 3, 8: 2, 16: 1}[lanes_of({x_dtype})]
    return -(-outputs // -(-outputs // limit))


def segment(device: str, rows: int, outputs: int) -> int:
    """Rows of an item of work, whatever the number of threads."""
    least = max(LEAST * outputs, -(-rows // SEGMENTS[device]))
    return -(-least // LEAST) * LEAST


def work_size(device: str, outputs: int, n_features: int) -> int:
    """Sums of a segment on CUDA: those of the weights, an output a row, then outputs and squares of ROWS rows."""
    rows = linear_job.ROWS
    return outputs * (n_features + rows) + rows if device == "cuda" else 0


def padded(outputs: int) -> int:
    """Rows of the weights."""
    return -(-outputs // tile_of(outputs)) * tile_of(outputs)


def scratch_bytes(outputs: int, n_features: int, sums: str) -> int:
    """Bytes that a thread works in."""
    rows, pitch, together = padded(outputs) + 1, n_features + simd.lanes(sums), linear_job.ROWS
    return (rows * (pitch + 1 + together) + together) * memory.itemsize(sums) + 8 * together + 64


@cache
def kernel(device: str, loss: str, x_dtype: str, tile: int, clipped: bool = False) -> Compiled:
    """The kernel of a loss for X of x_dtype; sums, weights and targets have the accumulator's dtype.

    clipped: it makes the norms of samples, stores them if asked to, and clips to max_norm.
    """
    sums = memory.accumulator("float32" if x_dtype == "uint8" else x_dtype)
    name = stem("one_pass", loss, str(tile), "clipped" if clipped else "", x_dtype)
    parts = {
        "residuals": losses.text(loss),
        "job": "\n".join(f"{n} = load_int64(job, {k})" for k, n in enumerate(JOB)),
        "clip": CLIP if clipped else "",
    }
    build = linear_cpu.build if device == "cpu" else linear_cuda.build
    return build(name, parts, x_dtype, sums, tile, clipped)


def catalogue() -> Iterator[tuple]:
    """(name, limits, build of a dtype of X, dtypes) of some CUDA kernels.

    The losses themselves are in those of layers.py, every one.
    """

    def build(loss, x_dtype, clipped=False):
        tile = tile_of(10 if loss == "softmax" else 1, "cuda", x_dtype)
        return kernel("cuda", loss, x_dtype, tile, clipped)

    for loss, dtypes in {"squared": ("float32", "float64"), "logistic": ("float32",)}.items():
        yield f"one_pass_{loss}", LIMITS, partial(build, loss), dtypes
    dtypes = "float32", "float16", "uint8"
    yield "one_pass_softmax_clipped", LIMITS, partial(build, "softmax", clipped=True), dtypes
