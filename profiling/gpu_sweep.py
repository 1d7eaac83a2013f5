"""Variants of the CUDA kernels, side by side: python profiling/gpu_sweep.py [--seconds N] [--out FILE.jsonl]"""

import sys

from gpu.sweep import main

if __name__ == "__main__":
    sys.exit(main())
