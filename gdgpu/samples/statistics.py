"""What the samples of a batch say besides their mean: variance, noise scale, and means that outliers do not move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from ..core.arrays import kernel_device, on_device_of
from ..core.batches import sample_views, samples
from ..core.checks import number
from ..core.nvtx import ranged
from ..core.pytree import leaves, like
from ..kernels.backend.buffers import address_of
from ..kernels.backend.memory import accumulator
from ..kernels.samples import moments, order_statistics
from ..kernels.samples.noise_scale import Noise
from .reduce import reduce_samples

if TYPE_CHECKING:
    from ..core.arrays import View
    from ..typing import Array, Arrays


@overload
def sample_statistics(G: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array], Array]: ...
@overload
def sample_statistics(G: list[Array] | tuple[Array, ...]) -> tuple[list[Array], list[Array], Array]: ...
@overload
def sample_statistics(G: Array) -> tuple[Any, Any, Array]: ...
@ranged
def sample_statistics(G: Arrays) -> tuple[Any, Any, Array]:
    """(mean, variance, noise scale) of per-sample gradients, from one read of them.

    G: (B, *shape), or a list or a dict of such arrays that share B. mean and variance have the shapes of one sample
    in the structure of G and the accumulator's dtype; mean has the bits of reduce_samples(G), variance is unbiased:
    sum_n (g_n - mean)^2 / (B - 1), which is NaN for B < 2.

    The noise scale, an array () on the device, is tr / |g|^2 (McCandlish et al. 2018, arXiv:1812.06162): a batch of
    about so many samples is large enough. tr is the sum of all variances, and |g|^2 = |mean|^2 - tr / B estimates the
    square of the true gradient without bias; algebraically they are

        tr = (mean_n |g_n|^2 - |mean|^2) B / (B - 1)        |g|^2 = (B |mean|^2 - mean_n |g_n|^2) / (B - 1)

    The scale is negative or infinite where noise drowns the gradient, and NaN for B < 2. Over several steps average tr
    and |g|^2, then divide: the mean of their ratios is biased.
    Raises ValueError or TypeError naming the array, before anything is touched.
    """
    views, rows = sample_views(G)
    device, xp = kernel_device(views)
    dtypes = {accumulator(v.dtype) for v in views} or {"float32"}
    if len(dtypes) > 1:
        raise TypeError(f"G: expected dtypes that are computed in one precision, got {', '.join(_dtypes(views))}")
    [sums] = dtypes
    with on_device_of(views):
        means, variances = ([xp.empty(v.shape[1:], sums) for v in views] for _ in range(2))
        scale = xp.empty((), sums)
        at = [[*map(address_of, arrays)] for arrays in (means, variances)]
        noise = Noise(device, xp, sums, rows, [array.size for array in means], *at, address_of(scale))
        for v, mean, variance in zip(views, *at, strict=True):
            _, columns, stride = samples(v)
            moments.moments(device, xp, v.dtype, rows, columns, v.address, stride, mean, variance)
        noise.launch()
    return like(G, means), like(G, variances), scale


@overload
def median_samples(G: Mapping[str, Array]) -> dict[str, Array]: ...
@overload
def median_samples(G: list[Array] | tuple[Array, ...]) -> list[Array]: ...
@overload
def median_samples(G: Array) -> Any: ...
@ranged
def median_samples(G: Arrays) -> Any:
    """The median of each coordinate over the samples; the mean of the middle two for an even number of them.

    G: (B, *shape), B >= 1, or a list or a dict of such arrays that share B. Returns arrays of `shape` in the
    accumulator's dtype. A coordinate with a NaN has the median NaN; a zero median is +0.
    Raises ValueError or TypeError naming the array.
    """
    return _ranked(G, "median", lambda rows: ((rows - 1) // 2, rows // 2))


@overload
def trimmed_mean_samples(G: Mapping[str, Array], fraction: float) -> dict[str, Array]: ...
@overload
def trimmed_mean_samples(G: list[Array] | tuple[Array, ...], fraction: float) -> list[Array]: ...
@overload
def trimmed_mean_samples(G: Array, fraction: float) -> Any: ...
@ranged
def trimmed_mean_samples(G: Arrays, fraction: float) -> Any:
    """The mean of each coordinate over the samples without its floor(fraction * B) smallest and as many largest values.

    G: (B, *shape), B >= 1, or a list or a dict of such arrays that share B. 0 <= fraction < 0.5. Returns arrays of
    `shape` in the accumulator's dtype. Those between the smallest and the largest that stay are added up in the tree
    of reduce_samples, where a missing row is skipped, then those two, each times how often it stays. Where nothing is
    cut, that is reduce_samples(G). A coordinate with a NaN has the mean NaN.
    Raises ValueError or TypeError naming the argument.
    """
    fraction = number("fraction", fraction, high=0.5, high_is_open=True)

    def ranks(rows: int) -> tuple[int, int]:
        cut = math.floor(fraction * rows)
        return cut, rows - 1 - cut

    return _ranked(G, "trimmed_mean", ranks)


def _ranked(G: Arrays, family: str, ranks: Callable[[int], tuple[int, int]]) -> Any:
    """What `family` makes of the values from one rank to another, which ranks(rows) gives."""
    views, rows = sample_views(G)
    if views and rows == 0:
        raise ValueError("G: expected at least one sample, got none")
    device, xp = kernel_device(views)
    low, high = ranks(rows)
    with on_device_of(views):
        results = [xp.empty(v.shape[1:], accumulator(v.dtype)) for v in views]
        for (_, array), v, out in zip(leaves(G, "G"), views, results, strict=True):
            _, columns, stride = samples(v)
            if family == "trimmed_mean" and low == 0:
                reduce_samples(array, out=out)
            else:
                order_statistics.between(
                    device, family, v.dtype, rows, columns, v.address, stride, low, high, address_of(out)
                )
    return like(G, results)


def _dtypes(views: Iterable[View]) -> list[str]:
    return sorted({v.dtype for v in views})
