"""Measure cases on the GPU, a JSON object a line: python profiling/gpu_rows.py DTYPE CASE …

A process of its own, so that a case that hangs can be cut and one that breaks the CUDA context takes no other along:
after an error it says which case it was and leaves.
"""

import json
import sys

import harness
import run
from gpu_report import PEERS

COPY_BYTES = 1 << 32  # read and written together


def main(dtype, *names):
    say({"copy_gbs": harness.copy_gbs("cuda", COPY_BYTES)})
    for name in names:
        try:
            (row,) = run.measure([name], "cuda", PEERS, dtype=dtype)
        except Exception as error:
            row = {"case": name, "dtype": dtype, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        say(row)
        if row.get("error"):
            return 1
    return 0


def say(found):
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
