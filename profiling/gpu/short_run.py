"""Every kernel family once at small sizes, for compute-sanitizer: a tool that makes kernels many times slower.

python profiling/gpu/short_run.py [--list]
"""

import os
import sys
from pathlib import Path, PurePosixPath

# Besides the first case of every family: all lanes, several levels of the tree, what misalignment and padding reach.
PATTERNS = (
    "update/momentum/*/*",
    "update/adam/*/*",
    "update/many chunks",
    "fused/momentum",
    "fused/adam",
    "fused/float32/1025x3/*",
    "fused/float32/padded/*",
    "reduce/float32/33x127/*",
    "reduce/*/1025x9/*",
    "reduce/float32/1025x127/*",
    "reduce/float32/33000x3/plain",
    "reduce/float32/unaligned/*",
    "reduce/*/padded/plain",
    "accumulate/float32/*",
    "kept/Adam/state in 8 bits at random",
    "grad_scaling/Adam/all",
    "norms/more chunks than a node has",
    "optimizer/bound Adam",
)


def chosen(names):
    """The first case of every family, and those that a pattern names; * stands for one part of a name."""
    first = {name.split("/")[0]: name for name in reversed(names)}.values()
    return [name for name in names if name in first or any(map(PurePosixPath(name).match, PATTERNS))]


def main():
    sys.path[0] = str(Path(__file__).parents[1])  # the folder of gpu/
    from gpu import ROOT

    sys.path.insert(0, str(ROOT / "tests"))
    from support import bits

    names = chosen(list(bits.CASES))
    if sys.argv[1:] == ["--list"]:
        print(*names, sep="\n")
        return
    import cupy

    cupy.cuda.set_allocator(None)  # an allocation each: in a pool's block, a stray access hits a neighbour unseen
    for name in names:
        print(name, flush=True)  # where a run that is cut had come to
        bits.answers(name)
    cupy.cuda.Device().synchronize()
    print(f"{len(names)} cases")


if __name__ == "__main__":
    os.environ["GDGPU_DEVICE"] = "cuda"
    main()
