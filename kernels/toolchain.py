"""What a first compile for a GPU needs. One line names the part that is broken, the version found and the one needed.

Nothing but numba-cuda's own version is looked up: numba.cuda is imported, and NVVM and nvJitLink make machine code of a
few lines, as they do of a kernel.
"""

import contextlib
import json
import os
from importlib import import_module, metadata
from pathlib import Path

NUMBA_CUDA = "0.30.4"  # the first that numba 0.66 and later have not broken
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


def why_not(compiles=None):
    """One line that says why no kernel can be compiled or taken from the disk, or None if it can.

    compiles: whether what only compiles is asked for too. None: unless machine code that was compiled elsewhere is
    carried along (GDGPU_FINGERPRINT).
    """
    if compiles is None:
        compiles = not os.environ.get("GDGPU_FINGERPRINT")
    return _package() or (why_no_code() if compiles else None)


def why_no_code():
    """One line that says why NVVM and nvJitLink make no machine code, or None if they do."""
    try:
        from . import target

        with target.compiling:
            return _missing(target) or _failing(target)
    except Exception as error:  # what this module knows nothing of is a line as well
        return f"the CUDA compiler is broken ({_first(error)}); needed: {_install()}"


@contextlib.contextmanager
def named_faults(what):
    """An error that is the toolchain's fault, not that of `what` it compiles, becomes a RuntimeError of one line."""
    try:
        yield
    except Exception as error:
        if broken := why_no_code():
            raise RuntimeError(broken) from error
        if type(error).__module__.startswith("cuda."):
            have = " and ".join(f"{part} {found or 'of unknown version'}" for part, found in versions().items())
            needed = "; needed: those of a newer CUDA toolkit" if "_ARCH" in str(error) else ""
            raise RuntimeError(f"{what}: {have} cannot compile it ({_first(error)}){needed}") from error
        raise


def versions():
    """{"NVVM": "13.5", "nvJitLink": "13.5"}: the libraries that compile; None for one that is not found."""
    return {"NVVM": _nvvm_version(), "nvJitLink": _nvjitlink_version()}


def version(*packages):
    """The version of the first of these packages that is installed, or None."""
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return None


def _package():
    found = version("numba-cuda")
    if not found:
        return f"numba-cuda is not installed; needed: numba-cuda {NUMBA_CUDA} or newer, {_install()}"
    try:
        from packaging.version import Version

        if Version(found) < Version(NUMBA_CUDA):
            return f"numba-cuda {found} is too old; needed: numba-cuda {NUMBA_CUDA} or newer, {_install()}"
        import_module("numba_cuda")  # without it numba has a numba.cuda of its own
        from . import target  # noqa: F401
    except Exception as error:
        beside = f"numba {version('numba')} and NumPy {version('numpy')}"
        return f"numba-cuda {found} cannot be imported beside {beside} ({_first(error)}); needed: {_install()}"
    return None


def _missing(target):
    with contextlib.suppress(Exception):
        paths = target.libraries()  # numba-cuda's own search, which looks in more places
        if not paths["libdevice"].info:
            return f"libdevice.10.bc was not found beside NVVM {_nvvm_version()}; needed: {_install()}"
    for part, name in LIBRARIES.items():
        try:
            _path(name)
        except Exception as error:
            return f"{part} (lib{name}) was not found ({_first(error)}); needed: that of CUDA {_major()}, {_install()}"
    return None


def _failing(target):
    from cuda.bindings import nvjitlink, nvvm

    nvvm_found, nvjitlink_found = (found or "of unknown version" for found in versions().values())
    try:
        made = _intermediate(nvvm)
    except nvvm.nvvmError as error:
        return f"NVVM {nvvm_found} compiles nothing ({_first(error)}); needed: that of CUDA {_major()}, {_install()}"
    try:
        target.link(made, (8, 0))
    except nvjitlink.nvJitLinkError as error:
        said = _first(error)
        if "OUTDATED_LIBRARY" in said:
            needed = f"{nvvm_found} or newer" if nvvm_found[0].isdigit() else "one of NVVM's version or newer"
            older = f"nvJitLink {nvjitlink_found} is older than NVVM {nvvm_found}"
            return f"{older} ({said}); needed: nvJitLink {needed}, pip install -U nvidia-nvjitlink{_suffix()}"
        what = f"nvJitLink {nvjitlink_found} links nothing that NVVM {nvvm_found} makes"
        return f"{what} ({said}); needed: both of one CUDA toolkit, {_install()}"
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
    with contextlib.suppress(Exception):
        path = _path("nvvm").resolve()
        if "site-packages" in path.parts:
            return _short(version("nvidia-nvvm" if "cu13" in path.parts else "nvidia-cuda-nvcc-cu12"))
        for folder in path.parents:
            if (said := folder / "version.json").is_file():
                return _short(json.loads(said.read_text())["cuda"]["version"])
            if folder.name.startswith("cuda-"):
                return _short(folder.name.removeprefix("cuda-"))
    return None


def _short(version):
    return ".".join(version.split(".")[:2])


def _major():
    return (version("cuda-bindings") or "13").partition(".")[0]


def _suffix():
    """Of the wheels' names, which those of CUDA 13 and later have not."""
    return "-cu12" if _major() == "12" else ""


def _install():
    return f"pip install -U gdgpu[cuda{_major()}]"


def _first(error):
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
