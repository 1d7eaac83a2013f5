"""Kernels for both devices: arrays in, arrays out. Nothing here knows of optimizers, files or users."""

if __name__ != "gdgpu.kernels":
    raise ImportError("import gdgpu.kernels; a top-level 'kernels' would shadow other packages of that name")

from .backend import forking  # noqa: F401
