"""Memory of a GPU: what is allocated, a thousand tensors, more than 2^31 elements, arrays of other devices."""

import numpy as np
import pytest

import gdgpu
from support.gpu import OPTIMIZERS, bound, cupy, every_binding, every_optimizer, needs_gpu, on_cpu
from support.references import assert_same_bits, dtype_of, samples

pytestmark = needs_gpu
GIB = 1 << 30
BFLOAT16 = dtype_of("bfloat16")


class Allocations(cupy.cuda.MemoryHook):
    """Counts what is asked of CuPy's memory pool, and of the device."""

    name = "Allocations"

    def __init__(self):
        self.count = 0

    def alloc_preprocess(self, **request):
        self.count += 1

    malloc_preprocess = alloc_preprocess


@every_optimizer
@every_binding
def test_bound_step_allocates_nothing(make, kind, stream):
    run = bound(make, kind, (0, 1, 33, 4096))
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes(), pool.total_bytes(), pool.n_free_blocks()
    with Allocations() as allocations:
        for _ in range(10):
            run()
        assert allocations.count == 0
        cupy.empty(1)
        assert allocations.count > 0  # the hook does see allocations
    assert (pool.used_bytes(), pool.total_bytes(), pool.n_free_blocks()) == before


def test_thousand_tensors_get_the_bits_of_the_cpu():
    rng = np.random.default_rng(0)
    start = [samples((n,), "float32", k) for k, n in enumerate(rng.integers(0, 3000, 1000))]
    gradients = [samples(w.shape, "float32", 5000 + k) for k, w in enumerate(start)]
    ours, host = [cupy.asarray(w) for w in start], [w.copy() for w in start]
    run = gdgpu.Momentum(ours, lr=0.1).bind([cupy.asarray(g) for g in gradients])
    optimizer = gdgpu.Momentum(host, lr=0.1)
    for _ in range(2):
        run()
        optimizer.step(gradients)
    for actual, expected in zip(ours, host, strict=True):
        assert_same_bits(actual.get(), expected)


def test_more_than_2_31_elements_in_an_update():
    n, make = (1 << 31) + 4099, OPTIMIZERS["momentum"]
    w, g = large_zeros(n), large_zeros(n)
    pieces = [slice(at, at + 1000) for at in (0, (1 << 31) - 500, n - 1000)]
    starts, gradients = ([samples((1000,), "bfloat16", seed + k) for k in range(len(pieces))] for seed in (0, 10))
    for piece, start, gradient in zip(pieces, starts, gradients, strict=True):
        w[piece], g[piece] = (cupy.asarray(values.view(np.uint16)) for values in (start, gradient))
    make(w.view(BFLOAT16)).step(g.view(BFLOAT16))
    for piece, start, gradient in zip(pieces, starts, gradients, strict=True):
        assert_same_bits(w[piece].get().view(BFLOAT16), on_cpu(make, start, [gradient]))


@pytest.mark.parametrize("rows, columns", [(2, (1 << 30) + 2051), ((1 << 25) + 33, 65)], ids=("wide", "tall"))
def test_more_than_2_31_elements_in_a_reduction(rows, columns):
    G = large_zeros((rows, columns))
    pieces = [slice(0, min(1000, columns)), slice(max(0, columns - 1000), columns)]
    for piece in pieces:
        for end in (G[:50, piece], G[-50:, piece]):
            end[...] = cupy.asarray(samples(end.shape, "bfloat16").view(np.uint16))
    result = gdgpu.reduce_samples(G.view(BFLOAT16), reduction="sum")
    for piece in pieces:
        # Of 2^25 + 33 rows, all but these are zeros. Without them the others keep their places in the tree: it is
        # that of 1024 + 33 rows, with levels in between whose nodes have one child that is not 0.
        left = np.concatenate([G[:512, piece].get(), G[max(512, rows - 545) :, piece].get()]).view(BFLOAT16)
        assert_same_bits(result[piece].get(), gdgpu.reduce_samples(left, reduction="sum"))


def large_zeros(shape):
    """The bits of bfloat16 zeros, where there is room for all that a test of them needs."""
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 30 * GIB:
        pytest.skip(f"needs 30 GiB of free memory on the GPU, got {free / GIB:.1f}")
    return cupy.zeros(shape, np.uint16)


@every_optimizer
def test_second_gpu(make):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    start, gradient = samples((5000,), "float32"), samples((5000,), "float32", 1)
    with cupy.cuda.Device(1):
        w, g = cupy.asarray(start), cupy.asarray(gradient)
    make(w).step(g)  # device 0 is current
    assert w.device.id == 1
    assert_same_bits(w.get(), on_cpu(make, start, [gradient]))
    G = samples((1100, 60), "float32")
    with cupy.cuda.Device(1):
        there = cupy.asarray(G)
    assert_same_bits(gdgpu.reduce_samples(there).get(), gdgpu.reduce_samples(G))


def test_arrays_on_different_devices_are_refused():
    with pytest.raises(ValueError, match="is on cpu"):
        gdgpu.Momentum(cupy.zeros(3, "float32"), lr=0.1).step(np.zeros(3, "float32"))
