"""Measure cases on the GPU: python profiling/gpu_rows.py DTYPE PEER,PEER|none CASE …, a JSON line each.

A process of its own, so that a case that hangs can be cut and one that breaks the CUDA context takes no other along.
"""

import sys
from functools import cache

import cases
import harness
import run
from gpu_process import serve

COPY_BYTES = 1 << 32  # read and written together


@cache
def copy_gbs() -> float:
    """The roof, once a process."""
    return harness.copy_gbs("cuda", COPY_BYTES)


def measured(name: str, dtype: str, peers: tuple[str, ...]) -> dict:
    """A row of run.measure, and the roof."""
    roof = copy_gbs()
    (row,) = run.measure([name], "cuda", peers, dtype=dtype)
    return row | {"copy_gbs": roof}


def main(dtype: str, peers: str, *names: str) -> int:
    peers = cases.parse_peers(peers, "cuda")
    return serve(names, lambda name: measured(name, dtype, peers))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
