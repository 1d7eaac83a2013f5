"""From NVVM's intermediate code to machine code, by nvJitLink. Needs no GPU."""

import threading
from collections.abc import Iterable

CONTRACTION = "-fma=0"  # what is no explicit fma is none: a rule's `a * b + c` has the same bits everywhere
compiling = threading.RLock()  # NVVM, which nvJitLink calls too, crashes when two threads are in it


def link(intermediate: bytes, capability: tuple[int, int], options: Iterable[str] = ()) -> tuple[bytes, str]:
    """(machine code, what ptxas says of it) of NVVM's intermediate code. Hold `compiling`."""
    from cuda.bindings import nvjitlink

    contraction = "-fma=0" if "--fmad=false" in options else CONTRACTION
    chosen = [f"-arch=sm_{capability[0]}{capability[1]}", "-lto", contraction]
    chosen += [f"-Xptxas={option}" for option in ("-v", *options)]
    linker = nvjitlink.create(len(chosen), chosen)
    try:
        nvjitlink.add_data(linker, nvjitlink.InputType.LTOIR, intermediate, len(intermediate), "gdgpu")
        nvjitlink.complete(linker)
        code = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, code)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
        return bytes(code), log.decode().rstrip("\0")
    finally:
        nvjitlink.destroy(linker)
