"""The command line: gdgpu train, compare and info."""

from .main import cli, main

__all__ = ["cli", "main"]
