"""Save the answers of this process: GDGPU_DEVICE=cuda python tests/support/bits FILE.npz [NAME …].

On a GPU or, with NUMBA_ENABLE_CUDASIM=1, in the simulator. bfloat16 on a GPU needs CuPy 14, whose arrays know
ml_dtypes' type.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[2])
from gdgpu import devices  # noqa: E402
from support import bits  # noqa: E402


def steady_simulator():
    """Make numba's simulator fit for thousands of blocks: polling yields sooner, shared arrays are made once."""
    import threading

    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    lock = threading.Lock()

    def array(self, shape, dtype):
        line = sys._getframe(1).f_lineno
        with lock:  # two threads of a block that both found no array yet would get one each
            if line not in self._allocations:
                self._allocations[line] = np.empty(shape, dtype)
            return self._allocations[line]

    FakeCUDAShared.array = array
    sys.setswitchinterval(0.0005)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("name", nargs="*", help="of a case; none: all of them")
    arguments = parser.parse_args()
    if devices.simulated():
        steady_simulator()
    found = {}
    for name in arguments.name or bits.CASES:
        try:
            found |= {f"{name}:{k}": array for k, array in enumerate(bits.answers(name))}
        except Exception as error:  # its own test shows it
            found[f"{name}:error"] = np.array(repr(error))
    np.savez(arguments.file, device=bits.device(), **found)


if __name__ == "__main__":
    main()
