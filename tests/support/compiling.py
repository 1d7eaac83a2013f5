"""Tests that compile CUDA kernels and look at their machine code, which needs no GPU."""

import pytest

from gdgpu import machine_code


def why_not():
    """Why nothing can be compiled here, or None."""
    try:
        machine_code.require_tools()
    except machine_code.MissingToolError as error:
        return str(error)


WHY_NOT = why_not()
compiles = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
