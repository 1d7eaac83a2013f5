"""Importing gdgpu is cheap, needs no GPU package, and gives every public name."""

import json

import pytest

HEAVY = ("numba", "numba_cuda", "llvmlite", "cupy", "matplotlib", "rich", "click", "safetensors", "torch", "sklearn")
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
for name in [m for m in sys.modules if m.split(".")[0] in {missing!r}]:
    del sys.modules[name]
"""


def loaded(python, statement):
    shown = python(
        f"import sys, json\n{statement}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    )
    return set(json.loads(shown))


@pytest.mark.parametrize(
    "statement", ["import gdgpu", "import gdgpu; dir(gdgpu), gdgpu.__all__, gdgpu.__version__", "import gdgpu.kernels"]
)
def test_import_loads_nothing_heavy(statement, python):
    before = loaded(python, "pass")  # what the environment itself loads at start
    light = loaded(python, "import numpy, logging, concurrent.futures.thread, __future__")
    assert loaded(python, statement) - before <= light | {"gdgpu"}
    assert not (loaded(python, statement) - before) & set(HEAVY)


def test_computing_on_the_cpu_loads_no_gpu_package(python):
    """NumPy arrays need neither a driver nor CuPy, whose import takes a second."""
    before = loaded(python, "pass")
    used = loaded(python, "import numpy, gdgpu\ngdgpu.reduce_samples(numpy.ones((3, 2)))")
    assert not (used - before) & {"cupy", "numba_cuda", "cuda", "matplotlib", "rich", "click", "torch"}


def test_where_there_is_no_gpu_nobody_waits_for_the_compiler(python):
    """The import of numba.cuda and a first compile take half a second."""
    script = "import sys\nfrom gdgpu import devices\nprint(devices.resolve('auto').name, 'numba.cuda' in sys.modules)"
    shown = python(script, CUDA_VISIBLE_DEVICES="", GDGPU_DEVICE=None, NUMBA_ENABLE_CUDASIM=None)
    assert shown.split() == ["cpu", "False"]


@pytest.mark.parametrize("missing", [("cupy",), ("numba_cuda",), ("cupy", "numba_cuda", "cuda", "nvidia")])
def test_without_gpu_packages(missing, python):
    script = WITHOUT.format(missing=missing) + (
        "import numpy as np, gdgpu\n"
        "w = np.ones(3)\n"
        "optimizer = gdgpu.Momentum(w, 0.5, momentum=0.5)\n"
        "optimizer.step(np.ones(3))\n"
        "optimizer.step_samples(np.zeros((4, 3)))\n"
        "print(w.tolist(), gdgpu.devices.resolve('auto').name, gdgpu.devices.resolve('cpu').name)\n"
        "try: gdgpu.devices.resolve('cuda')\n"
        "except ValueError as error: print(error)\n"
    )
    values, why = python(script, GDGPU_DEVICE=None, NUMBA_ENABLE_CUDASIM=None).splitlines()
    assert values == "[0.25, 0.25, 0.25] cpu cpu"
    assert why.startswith("device: 'cuda' was asked for, but ") and any(name in why for name in ("cupy", "numba-cuda"))


def test_every_public_name_is_there():
    import gdgpu

    for name in gdgpu.__all__:
        assert getattr(gdgpu, name) is not None and name in dir(gdgpu)
    with pytest.raises(AttributeError, match="'gdgpu' has no attribute 'nothing'"):
        gdgpu.nothing  # noqa: B018


def test_the_kernels_are_no_package_of_their_own(python):
    script = (
        "import sys\nsys.path.insert(0, sys.argv[1])\ntry: import kernels\nexcept ImportError as error: print(error)"
    )
    import gdgpu.kernels

    folder = gdgpu.kernels.__path__[0]
    assert "gdgpu.kernels" in python(script, f"{folder}/..")
