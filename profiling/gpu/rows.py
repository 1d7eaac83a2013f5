"""Measure cases on the GPU: python profiling/gpu/rows.py DTYPE PEER,PEER|none CASE …, a JSON line each.

A process of its own, so that a case that hangs can be cut and one that breaks the CUDA context takes no other along.
"""

import sys
from functools import cache
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])  # the folder of gpu/
import cases  # noqa: E402
import harness  # noqa: E402
import run  # noqa: E402

from gpu.process import serve  # noqa: E402

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
