"""Memory that a call takes, by tracemalloc."""

import tracemalloc


def peak_of(call):
    """Bytes that a call holds at its peak beyond what was there; NumPy tells tracemalloc what it allocates."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
