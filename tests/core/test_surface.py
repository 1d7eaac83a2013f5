"""What editors, type checkers and installers see: names, signatures, types and packages."""

import ast
import importlib
import subprocess
import sys
import tomllib

import pytest

import gdgpu
from support import ROOT

SCRIPT = ROOT / "tests" / "support" / "typed_script.py"
STUBS = {"gdgpu": ROOT / "gdgpu" / "__init__.pyi", "gdgpu.optimizers": ROOT / "gdgpu" / "optimizers" / "__init__.pyi"}
OTHERS = ()
FILES = [
    path
    for path in sorted((ROOT / "gdgpu").rglob("*.py"))
    if path.relative_to(ROOT / "gdgpu").parts[0] not in OTHERS and path.name != "__main__.py"
]


def imported(stub):
    """name -> the module that a stub takes it from, both absolute; each is written `from .a import b as b`."""
    found, package = {}, next(name for name, path in STUBS.items() if path == stub)
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name and node.level == 1
                found[alias.name] = f"{package}.{node.module}" if node.module else package
    return found


def test_the_stub_has_exactly_the_public_names():
    stub = STUBS["gdgpu"]
    [names] = [
        ast.literal_eval(node.value)
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    assert len(set(names)) == len(names)
    assert set(imported(stub)) == set(names) == set(gdgpu.__all__)


@pytest.mark.parametrize("package", STUBS)
def test_the_names_of_a_stub_are_the_objects_of_the_package(package):
    module = importlib.import_module(package)
    for name, home in imported(STUBS[package]).items():
        there = importlib.import_module(home)
        expected = importlib.import_module(f"{package}.{name}") if home == package else getattr(there, name)
        assert getattr(module, name) is expected, name


def test_the_stub_of_the_optimizers_has_all_of_them():
    assert set(imported(STUBS["gdgpu.optimizers"])) == set(gdgpu.optimizers.HOMES)


def is_public(name):
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def bare(node, in_class=False):
    """Names of public functions and fields under a node whose types are not said."""
    for child in node.body:
        if isinstance(child, ast.ClassDef) and is_public(child.name):
            yield from (f"{child.name}.{name}" for name in bare(child, in_class=True))
        elif isinstance(child, ast.FunctionDef) and is_public(child.name):
            args = child.args
            named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            is_method = in_class and not any(getattr(d, "id", "") == "staticmethod" for d in child.decorator_list)
            untyped = [a.arg for a in named[is_method:] if a is not None and a.annotation is None]
            if untyped or child.returns is None:
                yield f"{child.name}({', '.join(untyped)})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_public_says_its_types(path):
    assert not list(bare(ast.parse(path.read_text())))


@pytest.mark.full
def test_a_script_with_all_that_is_public_runs(python, tmp_path):
    assert python(SCRIPT, tmp_path).splitlines()[-1] == "3 loss is nan"


@pytest.mark.full
def test_a_type_checker_finds_nothing_in_such_a_script(tmp_path):
    """In the folders that an installed package has: kernels lie inside."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install mypy")
    package = tmp_path / "gdgpu"
    package.mkdir()
    for path in (ROOT / "gdgpu").iterdir():
        if path.name not in ("kernels", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "kernels").symlink_to(ROOT / "kernels")
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}", "--config-file="]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def editor():
    """editor(text): an editor's view of a file of this text, at its end."""
    jedi = pytest.importorskip("jedi", reason="jedi is not installed: pip install jedi")
    project = jedi.Project(ROOT, load_unsafe_extensions=False)
    return lambda text: jedi.Script(text, path=ROOT / "script.py", project=project)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("gdgpu.Ad", ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax"]),
        ("gdgpu.models.Hu", ["HuberRegression"]),
        ("gdgpu.clip", ["clip_weights"]),
        ("gdgpu.schedules.cos", ["cosine"]),
        ("gdgpu.Accumulator([]).a", ["add"]),
        ("gdgpu.models.LinearRegression(2).per", ["per_sample_gradients"]),
    ],
)
def test_an_editor_completes_names(editor, typed, names):
    found = editor(f"import gdgpu\n{typed}").complete()
    assert sorted(c.name for c in found) == sorted(names)


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("gdgpu.Adam(", ["params", "lr", "betas"]),
        ("gdgpu.fit(", ["model", "X", "t", "optimizer"]),
        ("gdgpu.models.MLP(", ["sizes", "activation", "loss"]),
        ("gdgpu.reduce_samples(", ["G", "weights", "reduction", "out"]),
        ("gdgpu.Accumulator([]).add(", ["G", "weights", "max_norm"]),
        ("gdgpu.checkpoint.save_optimizer(", ["path", "optimizer", "metadata"]),
    ],
)
def test_an_editor_shows_signatures(editor, typed, first):
    [signature] = editor(f"import gdgpu\n{typed}").get_signatures()
    assert [parameter.name for parameter in signature.params][: len(first)] == first


def test_the_packages_are_the_folders():
    with open(ROOT / "pyproject.toml", "rb") as file:
        settings = tomllib.load(file)["tool"]["setuptools"]
    homes = {"gdgpu": "gdgpu", "gdgpu.kernels": "kernels"}
    folders = {
        ".".join((package, *path.parent.relative_to(ROOT / home).parts))
        for package, home in homes.items()
        for path in (ROOT / home).rglob("__init__.py")
        if package != "gdgpu" or path.relative_to(ROOT / home).parts[0] != "kernels"
    }
    assert settings["package-dir"] == homes
    assert sorted(settings["packages"]) == sorted(folders)
    typed = settings["package-data"]["*"]
    assert {"*.pyi", "py.typed"} == set(typed)
    assert all((ROOT / home / "py.typed").exists() for home in homes.values())
