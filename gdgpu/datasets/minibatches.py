"""Which samples a step sees: batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..core.arrays import genuine
from ..core.checks import count, flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..typing import Array, BatchSize


def minibatches(
    *arrays: Array, batch_size: BatchSize, shuffle: bool = True, seed: int = 0, epoch: int = 0, drop_last: bool = False
) -> Iterator[tuple[Array, ...]]:
    """One epoch of batches: each sample exactly once, in an order of its own for each epoch.

        order = numpy.random.Generator(numpy.random.PCG64([seed, epoch])).permutation(n)
        batch k = (a[order[k * batch_size : (k + 1) * batch_size]] for a in arrays)

    `arrays` have the same length n along their first axis: NumPy (memory-mapped too), CuPy, or
    anything indexed alike. Data frames and series are taken by position, as NumPy arrays of their values.
    `batch_size` is an int >= 1 or "full", all samples at once; the last batch is shorter where it does
    not divide n, or left out with `drop_last`. Yields one tuple of arrays a batch, nothing for n = 0.
    The order is drawn on the host, hence the same on every device; CuPy arrays are gathered on their
    own device. Without `shuffle` batches are views, in order.

    Everything is checked at the call, not at the first batch. Raises ValueError for no arrays,
    lengths that differ and numbers out of range, TypeError for what is no array or no int.
    Source: PCG64 is M. E. O'Neill, "PCG: a family of simple fast space-efficient statistically good
    algorithms for random number generation", 2014, seeded through numpy.random.SeedSequence.
    """
    arrays = [_by_position(genuine(array, f"arrays[{i}]")) for i, array in enumerate(arrays)]
    n = _common_length(arrays)
    starts = batch_starts(n, batch_size, flag("drop_last", drop_last))
    seed, epoch = count("seed", seed), count("epoch", epoch)
    return _batches(arrays, n, starts, [seed, epoch] if flag("shuffle", shuffle) else None)


def batch_starts(n: int, batch_size: BatchSize, drop_last: bool = False) -> range:
    """Where the batches of n samples begin: a range whose step is the batch size.

    Raises ValueError or TypeError unless batch_size is an int >= 1 or "full".
    """
    if isinstance(batch_size, str) and batch_size == "full":
        return range(0, n, max(n, 1))
    size = count("batch_size", batch_size, least=1, otherwise=' or "full"')
    return range(0, n - n % size if drop_last else n, size)


def _by_position(array: Array) -> Array:
    """What is indexed by labels, as those of pandas are, as a NumPy array."""
    return np.asarray(array) if hasattr(array, "iloc") or hasattr(array, "to_numpy") else array


def _common_length(arrays: Sequence[Array]) -> int:
    if not arrays:
        raise ValueError("arrays: expected at least one array, got none")
    for i, array in enumerate(arrays):
        if not (getattr(array, "shape", ()) and hasattr(array, "__getitem__")):
            raise TypeError(f"arrays[{i}]: expected an array of one or more axes, got {_describe(array)}")
    lengths = [array.shape[0] for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"arrays: expected arrays of one length, got lengths {', '.join(map(str, lengths))}")
    return lengths[0]


def _describe(value: object) -> str:
    return "an array of no axes" if hasattr(value, "shape") else type(value).__name__


def _batches(arrays: Sequence[Array], n: int, starts: range, entropy: list[int] | None) -> Iterator[tuple[Array, ...]]:
    if entropy is None:
        for start in starts:
            yield tuple(array[start : start + starts.step] for array in arrays)
        return
    order = np.random.Generator(np.random.PCG64(entropy)).permutation(n)
    orders = [_beside(array, order) for array in arrays]
    for start in starts:
        rows = slice(start, start + starts.step)
        yield tuple(array[local[rows]] for array, local in zip(arrays, orders, strict=True))


def _beside(array: Array, order: NDArray[np.int64]) -> Array:
    """`order` where `array` lives, copied there once an epoch: CuPy arrays take CuPy indices only."""
    if type(array).__module__.partition(".")[0] != "cupy":
        return order
    import cupy

    with array.device:
        return cupy.asarray(order)
