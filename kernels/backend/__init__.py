"""What kernels are made of and run on. Every intrinsic has a plain-Python twin; only `cuda` imports numba.cuda."""
