"""Machine code of CPU kernels between processes: numba's own cache, of files that are checked before use."""

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numba
from numba import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from . import disk

# Numba's settings that change machine code, besides the processor's, which magic_tuple has.
SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "EXTEND_VARIABLE_LIFETIMES",
    "DISABLE_INTEL_SVML",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
)


class NumbaCache(NullCache):
    """The cache that numba asks for one function's machine code: a file for each compiler, setting and processor.

    code: a path without its suffix, whose name stands for the text of the function and of what it calls.
    """

    def __init__(self, code: Path, function: Callable) -> None:
        self.code, self.name = code, function.__name__

    def load_overload(self, signature, target_context):
        """What is kept for the signature, or None."""
        target_context.refresh()
        stored = disk.read(self._path(signature, target_context.codegen()))
        if stored is None:
            return None
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(stored))
        except Exception:  # a library changed under the same version: compiled anew, as where nothing is kept
            return None

    def save_overload(self, signature, compiled):
        """Keep what was compiled, unless addresses of this process are in it."""
        if not compiled.library.has_dynamic_globals:
            disk.write(self._path(signature, compiled.codegen), dumps(compiled._reduce()))

    def _path(self, signature, codegen):
        made_by = sys.version, numba.__version__, *(repr(getattr(config, name, None)) for name in SETTINGS)
        made_for = hashlib.sha256(repr((signature, codegen.magic_tuple(), made_by)).encode()).hexdigest()[:16]
        return self.code.with_name(f"{self.code.name}.{self.name}.{made_for}.nbc")
