"""The house: a room imports only rooms below it, no circle anywhere, and one module imports numba.cuda."""

import ast
from graphlib import TopologicalSorter

import pytest

from support import ROOT

# From the ground up. What is not named lies above all of them.
KERNELS = "backend", "codegen", "rules", "reduction", "optimizers", "samples", "models", "launch", "catalogue"
GDGPU = (
    "typing",
    "kernels",
    "devices",
    "core",
    "machine_code",
    "samples",
    "optimizers",
    "datasets",
    "models",
    "schedules",
    "checkpoint",
    "training",
    "__init__",  # the public names
    "cli",
)
FLOORS = {"kernels": KERNELS, "gdgpu": GDGPU}


def parts_of(path):
    """("gdgpu", "kernels", "backend", "cuda"), of kernels/backend/cuda.py."""
    parts = (*["gdgpu"] * (path.parts[0] == "kernels"), *path.with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


FILES = {
    parts_of(path.relative_to(ROOT)): path
    for half in FLOORS
    for path in (ROOT / half).rglob("*.py")
    if not (half == "gdgpu" and path.relative_to(ROOT).parts[1] == "kernels")  # a link, where somebody made one
}


def imports(module):
    """The modules of the house that a module imports anywhere, as parts; and the names of all others."""
    path, inside, outside = FILES[module], set(), set()
    package = module if path.name == "__init__.py" else module[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            base = (*base, *(node.module.split(".") if node.module else ()))
            if base[0] != "gdgpu":
                outside |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                continue
            inside |= {(*base, alias.name) if (*base, alias.name) in FILES else base for alias in node.names}
    inside |= {tuple(name.split(".")) for name in outside if name.split(".")[0] == "gdgpu"}
    return inside - {module}, outside


def half_and_room(module):
    half = "kernels" if module[:2] == ("gdgpu", "kernels") else "gdgpu"
    below = module[2:] if half == "kernels" else module[1:]
    return half, (below or ("__init__",))[0]


def test_every_module_lies_in_a_room_that_is_named():
    rooms = {half_and_room(module) for module in FILES} - {("kernels", "__init__")}
    named = {(half, room) for half, floors in FLOORS.items() for room in floors} - {("gdgpu", "kernels")}
    assert rooms == named


@pytest.mark.parametrize("module", FILES, ids=".".join)
def test_a_room_imports_only_rooms_below(module):
    half, room = half_and_room(module)
    if room == "__init__":
        return  # names for others, which are imported when they are asked for
    floors = FLOORS[half]
    for imported in imports(module)[0]:
        other_half, other = half_and_room(imported)
        if (other_half, other) == (half, room):
            continue
        assert (half, other_half) != ("kernels", "gdgpu"), f"{'.'.join(module)} imports {'.'.join(imported)}"
        below = other if other_half == half else "kernels"
        assert floors.index(below) < floors.index(room), f"{'.'.join(module)} imports {'.'.join(imported)}"


def test_there_is_no_circle():
    """Imports in functions count too, but for those of the public names, and of what a package hands out."""
    graph = {module: {m for m in imports(module)[0] if m != ("gdgpu",)} for module in FILES if module != ("gdgpu",)}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_one_module_imports_numba_cuda():
    found = {
        module for module in FILES for name in imports(module)[1] if (name or "").split(".")[:2] == ["numba", "cuda"]
    }
    assert found == {("gdgpu", "kernels", "backend", "cuda")}


@pytest.mark.parametrize(("half", "floors"), FLOORS.items())
def test_tests_and_profiling_have_rooms_of_the_same_names(half, floors):
    """And the packages are what pyproject.toml lists."""
    tests = ROOT / "tests" / ("kernels" if half == "kernels" else "")
    folders = {path.name for path in tests.iterdir() if path.is_dir() and not path.name.startswith("__")}
    without_floor = {"kernels", "support", "bits", "examples", "gpu", "profiling"} if half == "gdgpu" else set()
    assert folders - without_floor <= set(floors)
