"""Broken and missing parts of what compiles for a GPU: one line names the part, what was found and what is needed."""

import sys
from importlib import metadata

import pytest

from gdgpu import devices
from gdgpu.cli import info
from gdgpu.kernels.backend import geometry, toolchain
from gdgpu.machine_code import tools
from support.processes import forked

pytest.importorskip("numba_cuda", reason="needs numba-cuda: install gdgpu[test]")
pytestmark = pytest.mark.skipif(geometry.SIMULATED, reason="the simulator compiles nothing")

HIDDEN = """
import cuda.pathfinder
usual = cuda.pathfinder.load_nvidia_dynamic_lib
def load(name):
    if name == {!r}:
        raise cuda.pathfinder.DynamicLibNotFoundError(f"no lib{{name}}\\nlooked here and there")
    return usual(name)
cuda.pathfinder.load_nvidia_dynamic_lib = load
"""
VERSION = """
import sys
from importlib import metadata
usual = metadata.version
metadata.version = lambda name: {1!r} if name == {0!r} else usual(name)
"""
NO_PACKAGE = """
import sys
from importlib import metadata
usual = metadata.version
def version(name):
    if name == {0!r}:
        raise metadata.PackageNotFoundError(name)
    return usual(name)
metadata.version = version
"""
# As nvJitLink 13.0.88 answers to what NVVM 13.5 makes.
OUTDATED = """
from cuda.bindings import nvjitlink
def complete(linker):
    raise nvjitlink.nvJitLinkError(nvjitlink.Result.ERROR_OUTDATED_LIBRARY)
nvjitlink.complete, nvjitlink.version = complete, lambda: (1, 2)
"""
NOTHING_LINKED = OUTDATED.replace("OUTDATED_LIBRARY", "INTERNAL")
NOTHING_COMPILED = """
from cuda.bindings import nvvm
def compile_program(*arguments):
    raise nvvm.nvvmError(nvvm.Result.ERROR_COMPILATION)
nvvm.compile_program = compile_program
"""
NO_LIBDEVICE = """
from numba.cuda import cuda_paths
cuda_paths._get_libdevice_path = lambda: cuda_paths._env_path_tuple("", None)
"""
pytest.importorskip("cupy", reason="needs CuPy: install gdgpu[test]")
MAJOR = metadata.version("cuda-bindings").partition(".")[0]
NVVM = metadata.version("nvidia-cuda-nvcc-cu12" if MAJOR == "12" else "nvidia-nvvm").rpartition(".")[0]
INSTALL = f"pip install -U gdgpu[cuda{MAJOR}]"
OF_CUDA = f"needed: that of CUDA {MAJOR}, {INSTALL}"
OLD = f"is too old; needed: numba-cuda 0.30.4 or newer, {INSTALL}"
BROKEN = {  # what breaks it, how the line begins, and how it ends
    "no numba-cuda": (NO_PACKAGE.format("numba-cuda"), "numba-cuda is not installed; ", f"0.30.4 or newer, {INSTALL}"),
    "numba-cuda too old": (VERSION.format("numba-cuda", "0.30.3"), "numba-cuda 0.30.3 is too old; ", OLD),
    "a name of NumPy": (
        "import numpy\ndel numpy.dstack\n",  # as the next NumPy may drop it
        f"numba-cuda {metadata.version('numba-cuda')} cannot be imported beside numba {metadata.version('numba')} and "
        f"NumPy {metadata.version('numpy')} (AttributeError: ",
        f"; needed: {INSTALL}",
    ),
    "no libnvvm": (
        HIDDEN.format("nvvm"),
        "NVVM (libnvvm) was not found (DynamicLibNotFoundError: no libnvvm); ",
        OF_CUDA,
    ),
    "no libnvrtc": (HIDDEN.format("nvrtc"), "NVRTC (libnvrtc) was not found (", OF_CUDA),
    "no nvJitLink": (HIDDEN.format("nvJitLink"), "nvJitLink (libnvJitLink) was not found (", OF_CUDA),
    "no libdevice": (NO_LIBDEVICE, f"libdevice.10.bc was not found beside NVVM {NVVM}; ", f"needed: {INSTALL}"),
    "NVVM newer than nvJitLink": (
        OUTDATED,
        f"nvJitLink 1.2 is older than NVVM {NVVM} (nvJitLinkError: ERROR_OUTDATED_LIBRARY",
        f"needed: nvJitLink {NVVM} or newer, pip install -U nvidia-nvjitlink{'-cu12' if MAJOR == '12' else ''}",
    ),
    "nvJitLink links nothing": (
        NOTHING_LINKED,
        f"nvJitLink 1.2 links nothing that NVVM {NVVM} makes (nvJitLinkError: ERROR_INTERNAL",
        f"needed: both of one CUDA toolkit, {INSTALL}",
    ),
    "NVVM compiles nothing": (NOTHING_COMPILED, f"NVVM {NVVM} compiles nothing (nvvmError: ERROR_COMPILATION", OF_CUDA),
}
ASKED = """
import os
import cupy
cupy.cuda.runtime.getDeviceCount = lambda: 1  # as if there were a GPU
from gdgpu import devices; from gdgpu.cli import info
rows = dict(info.rows())
print(devices.why_no_kernels())
print(devices.why_no_cuda())
print(rows["CUDA kernels"])
print(rows["GPU"].removeprefix("not used: "))
try:
    from gdgpu.kernels.catalogue import ROWS
    ROWS[0].kernel.link()
except RuntimeError as error:
    print(error)
except AttributeError:
    pass  # of the import of numba.cuda: there is no kernel to ask
os.environ["GDGPU_FINGERPRINT"] = "carried"
print(devices.why_no_kernels())
"""
LATER = "import numpy\nvars(numpy).pop('row_stack', None)\n"  # as NumPy 2.5 is
LENT = f"""{LATER}
from gdgpu import devices
from gdgpu.kernels.backend import cuda
print(hasattr(numpy, "row_stack"), devices.why_no_kernels())
"""


SCRIPTS = {part: breaking + ASKED for part, (breaking, *_) in BROKEN.items()} | {
    "lent": LENT,
    "lent behind numba.cuda": "from numba import cuda\ncuda.jit(lambda at: None)\n" + LENT,
    "there": "import numpy\nnumpy.row_stack = numpy.vstack\n"
    "from gdgpu.kernels.backend import cuda\nprint(numpy.row_stack)",
    "import fails": f"import numpy\ndel numpy.dstack\n{LATER}try: from gdgpu.kernels.backend import cuda\n"
    "except AttributeError as error: print(hasattr(numpy, 'row_stack'), error)",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """{name: the lines that each of the scripts prints}, where CUDA kernels are compiled."""
    folder, usual = tmp_path_factory.mktemp("said"), {"NUMBA_ENABLE_CUDASIM": None, "GDGPU_FINGERPRINT": None}
    found = forked("import numpy, numba, cupy", SCRIPTS, folder, **usual)
    return {name: out.splitlines() for name, (status, out) in found.items() if status == 0}


@pytest.mark.parametrize("part", BROKEN)
def test_a_broken_part_is_one_line_wherever_it_is_asked(part, said):
    _, begins, ends = BROKEN[part]
    *lines, carried = said[part]
    assert set(lines) == {lines[0]} and lines[0].startswith(begins) and lines[0].endswith(ends), lines
    compiles = "numba-cuda" not in begins
    assert len(lines) == 4 + compiles  # a kernel's own compilation says it as well
    needs = not compiles and "too old" not in begins  # machine code that is carried along needs but the import
    assert carried == (lines[0] if needs else "None")


def test_versions_are_numbers_not_texts(monkeypatch):
    usual = metadata.version
    for found, why in (("0.9.1", "numba-cuda 0.9.1 is too old"), ("0.100", "None"), ("1.0rc1", "None")):
        monkeypatch.setattr(
            metadata, "version", lambda name, found=found: found if name == "numba-cuda" else usual(name)
        )
        assert str(devices.why_no_kernels()).startswith(why)


def test_an_architecture_that_nvjitlink_does_not_know():
    from gdgpu.kernels.catalogue import ROWS

    with pytest.raises(RuntimeError) as raised:
        ROWS[0].kernel.link((70, 0))
    line = str(raised.value)
    assert line.startswith("update_gradient_descent_float16 for sm_700: NVVM") and "ERROR_UNRECOGNIZED_ARCH" in line
    assert line.endswith("needed: those of a newer CUDA toolkit") and "\n" not in line


def test_a_rule_that_cannot_be_compiled_is_not_the_toolchains_fault():
    from gdgpu.kernels.backend import cuda

    with pytest.raises(cuda.cuda.core.errors.TypingError):
        cuda.jit("int64", "wrong")(lambda at: at.nothing).link()


def test_nothing_is_broken_here():
    linker = metadata.version("nvidia-nvjitlink-cu12" if MAJOR == "12" else "nvidia-nvjitlink").rpartition(".")[0]
    assert devices.why_no_kernels() is None and toolchain.versions() == {"NVVM": NVVM, "nvJitLink": linker}


@pytest.mark.parametrize("script", ("lent", "lent behind numba.cuda"))
def test_a_name_that_numpy_dropped_is_lent_for_the_import_alone(script, said):
    assert said[script] == ["False None"]


def test_a_name_that_numpy_has_stays(said):
    assert said["there"][0].startswith("<function vstack")


def test_a_lent_name_is_taken_back_from_an_import_that_fails(said):
    assert said["import fails"] == ["False module 'numpy' has no attribute 'dstack'"]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvdisasm is a shell script")
def test_an_nvdisasm_that_is_too_old_is_named_with_its_version(monkeypatch, tmp_path):
    old = tmp_path / "nvdisasm"
    old.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo Cuda compilation tools, release 11.8, V11.8.86 && exit\n'
        "echo 'nvdisasm fatal   : Unsupported cubin' >&2\nexit 1\n"
    )
    old.chmod(0o755)
    monkeypatch.setattr(tools, "tool", lambda name: str(old))
    with pytest.raises(RuntimeError) as raised:
        tools.disassemble(b"\x7fELF")
    linker = toolchain.versions()["nvJitLink"]
    assert str(raised.value) == (
        "nvdisasm 11.8.86 cannot read the machine code (nvdisasm fatal   : Unsupported cubin); "
        f"needed: nvdisasm {linker} or newer, pip install -U nvidia-cuda-nvdisasm"
    )
    assert dict(info.rows())["nvdisasm"] == "11.8.86"


def test_info_without_nvdisasm(monkeypatch):
    def missing(name):
        raise tools.MissingToolError(f"{name} is not installed: pip install it")

    monkeypatch.setattr(tools, "tool", missing)
    assert dict(info.rows())["nvdisasm"] == "none (nvdisasm is not installed: pip install it)"
