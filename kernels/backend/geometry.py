"""How large blocks are, on a GPU and in the simulator."""

import os

CUDA_THREADS = 256  # in a block, at most
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
BLOCK = 32 if SIMULATED else CUDA_THREADS  # the simulator runs each as a thread of the system
CUDA_SHARED = 1 << 14  # bytes in which a block keeps the children of a node, a row each
