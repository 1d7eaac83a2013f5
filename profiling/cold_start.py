"""What a first call costs: python profiling/cold_start.py [--runs N].

Each call is the first of a fresh process, once with an empty cache of kernels and once with what that left behind.
Medians of CPU seconds of the call alone; importing numba, which the first call does, is in them, and so is shown.
"""

import os
import statistics
import subprocess
import sys
import tempfile

import click

CALLS = {
    "nothing but numba": "numba.njit('int64(int64)')(lambda x: x)",
    "step": "optimizer.step([w.copy()])",
    "reduce_samples": "gdgpu.reduce_samples(G)",
    "step_samples": "optimizer.step_samples([G])",
}
SCRIPT = """
import time
import numpy as np
import gdgpu
G, w = np.ones((64, 512), np.float32), np.ones(512, np.float32)
optimizer = gdgpu.Momentum([w], lr=0.1)
begin = time.process_time()
{before}{call}
print(time.process_time() - begin)
"""


def seconds(call: str, cache: str) -> float:
    """CPU seconds of a call of CALLS in a process of its own, with kernels in this folder."""
    script = SCRIPT.format(call=call, before="import numba\n" if "numba" in call else "")
    environment = os.environ | {"GDGPU_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@click.command()
@click.option("--runs", type=click.IntRange(1), default=5, help="Processes a figure.")
def main(runs: int) -> None:
    """Print a line a call: medians with an empty cache and with a full one."""
    click.echo(f"{'first call':20}{'empty cache':>14}{'full cache':>14}")
    for name, call in CALLS.items():
        found = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                found.append([seconds(call, cache) for _ in ("empty", "full")])
        cold, warm = map(statistics.median, zip(*found, strict=True))
        click.echo(f"{name:20}{cold:12.2f} s{warm:12.2f} s")


if __name__ == "__main__":
    main()
