"""The libraries that compile for a GPU. One line names the one that is broken, the version found and the one needed.

No table says which versions go together: NVVM and nvJitLink make machine code of a few lines, as they do of a kernel.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path

from . import linking

# What compiles Python for CUDA; before this version, numba 0.66 and later break it.
COMPILER, COMPILER_MODULE, COMPILER_NEEDED = "numba-cuda", "numba_cuda", "0.30.4"
UNKNOWN = "of unknown version"
LIBRARIES = {"NVRTC": "nvrtc", "NVVM": "nvvm", "nvJitLink": "nvJitLink"}  # as cuda.pathfinder calls them
_TEXT = """
target triple = "nvptx64-nvidia-cuda"
target datalayout = "e-p:64:64:64-i1:8:8-i8:8:8-i16:16:16-i32:32:32-i64:64:64-i128:128:128-f32:32:32-f64:64:64-\
v16:16:16-v32:32:32-v64:64:64-v128:128:128-n16:32:64"
define void @probe() {{
  ret void
}}
!nvvm.annotations = !{{!0}}
!0 = !{{void ()* @probe, !"kernel", i32 1}}
!nvvmir.version = !{{!1}}
!1 = !{{i32 {}, i32 {}, i32 {}, i32 {}}}
"""


def why_no_code(libraries: Callable | None = None) -> str | None:
    """One line that says why NVVM and nvJitLink make no machine code, or None if they do.

    libraries: numba-cuda's search for them, which looks in more places, or None.
    """
    try:
        with linking.compiling:
            return _missing(libraries) or _failing()
    except Exception as error:  # what this module knows nothing of is a line as well
        return f"the CUDA compiler is broken ({one_line(error)}); needed: {install()}"


@contextlib.contextmanager
def named_faults(what: str, libraries: Callable | None = None) -> Iterator[None]:
    """An error that is the toolchain's fault, not that of `what` it compiles, becomes a RuntimeError of one line.

    libraries: see why_no_code.
    """
    try:
        yield
    except Exception as error:
        if broken := why_no_code(libraries):
            raise RuntimeError(broken) from error
        if type(error).__module__.startswith("cuda."):
            have = " and ".join(f"{part} {found or UNKNOWN}" for part, found in versions().items())
            needed = "; needed: those of a newer CUDA toolkit" if "_ARCH" in str(error) else ""
            raise RuntimeError(f"{what}: {have} cannot compile it ({one_line(error)}){needed}") from error
        raise


def versions() -> dict[str, str | None]:
    """{"NVVM": "13.5", "nvJitLink": "13.5"}: the libraries that compile; None for one that is not found."""
    return {"NVVM": _nvvm_version(), "nvJitLink": _nvjitlink_version()}


def import_compiler() -> None:
    """ImportError where what compiles for CUDA is not installed. Without it numba has a numba.cuda of its own."""
    import_module(COMPILER_MODULE)


def version(*packages: str) -> str | None:
    """The version of the first of these packages that is installed, or None."""
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def _missing(libraries):
    with contextlib.suppress(Exception):
        if libraries and not libraries()["libdevice"].info:
            return f"libdevice.10.bc was not found beside NVVM {_nvvm_version()}; needed: {install()}"
    for part, name in LIBRARIES.items():
        try:
            _path(name)
        except Exception as error:
            return f"{part} (lib{name}) was not found ({one_line(error)}); needed: that of CUDA {_major()}, {install()}"
    return None


def _failing():
    from cuda.bindings import nvjitlink, nvvm

    nvvm_found, nvjitlink_found = (found or UNKNOWN for found in versions().values())
    try:
        made = _intermediate(nvvm)
    except nvvm.nvvmError as error:
        return f"NVVM {nvvm_found} compiles nothing ({one_line(error)}); needed: that of CUDA {_major()}, {install()}"
    try:
        linking.link(made, (8, 0))
    except nvjitlink.nvJitLinkError as error:
        said = one_line(error)
        if "OUTDATED_LIBRARY" in said:
            needed = f"{nvvm_found} or newer" if nvvm_found[0].isdigit() else "one of NVVM's version or newer"
            older = f"nvJitLink {nvjitlink_found} is older than NVVM {nvvm_found}"
            return f"{older} ({said}); needed: nvJitLink {needed}, pip install -U nvidia-nvjitlink{_suffix()}"
        what = f"nvJitLink {nvjitlink_found} links nothing that NVVM {nvvm_found} makes"
        return f"{what} ({said}); needed: both of one CUDA toolkit, {install()}"
    return None


def _intermediate(nvvm):
    """What NVVM makes of a kernel that does nothing."""
    text = _TEXT.format(*nvvm.ir_version()).encode()
    program = nvvm.create_program()
    try:
        nvvm.add_module_to_program(program, text, len(text), "probe")
        nvvm.compile_program(program, 2, ["-arch=compute_80", "-gen-lto"])
        made = bytearray(nvvm.get_compiled_result_size(program))
        nvvm.get_compiled_result(program, made)
        return bytes(made)
    finally:
        nvvm.destroy_program(program)


def _path(name):
    return Path(import_module("cuda.pathfinder").load_nvidia_dynamic_lib(name).abs_path)


def _nvjitlink_version():
    with contextlib.suppress(Exception):
        return "{}.{}".format(*import_module("cuda.bindings.nvjitlink").version())
    return None


def _nvvm_version():
    """NVVM does not tell its own: its wheel's, or that of the toolkit whose folder it lies in."""
    try:
        path = _path("nvvm").resolve()
    except Exception:
        return None
    with contextlib.suppress(Exception):
        if "nvidia" in path.parts:  # of a wheel
            return _short(version("nvidia-nvvm" if "cu13" in path.parts else "nvidia-cuda-nvcc-cu12"))
        for folder in path.parents:
            if (said := folder / "version.json").is_file():
                return _short(json.loads(said.read_text())["cuda"]["version"])
            if re.match(r"cuda-\d", folder.name):
                return _short(folder.name.removeprefix("cuda-"))
    return UNKNOWN


def _short(version):
    return ".".join(version.split(".")[:2])


def _major():
    return (version("cuda-bindings") or "13").partition(".")[0]


def _suffix():
    """Of the wheels' names, which those of CUDA 13 and later have not."""
    return "-cu12" if _major() == "12" else ""


def install() -> str:
    """What brings all of them."""
    return f"pip install -U gdgpu[cuda{_major()}]"


def one_line(error: BaseException) -> str:
    """An error in one line: its type and the first line of what it says."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
