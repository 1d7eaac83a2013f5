"""A stream of a GPU, and what keeps it busy."""

import numpy as np
import pytest

# Occupies the stream for so many nanoseconds.
SPIN = """
extern "C" __global__ void spin(long long duration) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do { asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); } while (now - start < duration);
}
"""


@pytest.fixture
def stream():
    """A stream that does not wait for the default one, current in the test."""
    import cupy

    with cupy.cuda.Stream(non_blocking=True) as stream:
        yield stream
        stream.synchronize()


@pytest.fixture
def busy():
    """busy(seconds): keep CuPy's current stream busy; returns at once."""
    import cupy

    kernel = cupy.RawKernel(SPIN, "spin")
    kernel.compile()
    return lambda seconds: kernel((1,), (1,), (np.int64(seconds * 1e9),))
