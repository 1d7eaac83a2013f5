"""What the documents promise: examples run by themselves and print what stands beside them, commands are taken, links
and paths lead somewhere, and every public name is told of."""

import io
import linecache
import re
import runpy
import tomllib
from contextlib import redirect_stdout
from importlib import import_module
from textwrap import dedent
from typing import NamedTuple

import numpy as np
import pytest

import gdgpu
from gdgpu.kernels.backend import threads
from support import ROOT

PATTERNS = ("*.md", "docs/**/*.md", "examples/*.md", "profiling/**/*.md")
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text() for p in PATTERNS for path in sorted(ROOT.glob(p))}
FENCE = re.compile(r"^(?: *<!-- ([^\n]*) -->\n)?^( *)```(\w*)\n(.*?)^\2```\n?", re.S | re.M)
ROOMS = "kernels|gdgpu|tests|profiling|examples|docs|\\.ci"


class Block(NamedTuple):
    """A fenced block: where it stands, what the comment before it says, its language and its text."""

    place: str
    needs: str | None
    language: str
    text: str


def blocks_of(name, text):
    for found in FENCE.finditer(text):
        needs, _, language, code = found.groups()
        yield Block(f"{name}:{text.count(chr(10), 0, found.start(4))}", needs, language, dedent(code))


BLOCKS = [block for name, text in DOCUMENTS.items() for block in blocks_of(name, text)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
PROSE = {name: FENCE.sub("", text) for name, text in DOCUMENTS.items()}
SHELL = "\n".join(block.text for block in BLOCKS if block.language == "sh").replace("\\\n", " ")
COMMANDS = [command.strip() for line in SHELL.splitlines() for command in re.split("&&|  #", line)]
INLINE = [code for text in PROSE.values() for code in re.findall("`([^`\n]+)`", text)]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """What an example may leave behind: files, a number of threads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threads, "_num_threads", threads.num_threads())


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_examples_run_by_themselves(block, alone):
    if block.needs == "needs torch":
        pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    if block.needs == "needs a GPU" and (reason := gdgpu.devices.why_no_cuda()):
        pytest.skip(f"the example needs a GPU: {reason}")
    assert block.needs in (None, "new", "needs torch", "needs a GPU")
    lines = block.text.splitlines(keepends=True)
    linecache.cache[block.place] = len(block.text), None, lines, block.place  # where inspect finds the source of a rule
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    assert out.getvalue().splitlines() == re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.M)


def test_there_are_examples_on_every_page():
    pages = {block.place.partition(":")[0] for block in PYTHON}
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md", "docs/optimizers.md", "docs/samples.md"} <= pages
    assert {"docs/models.md", "docs/bits.md"} <= pages
    assert all(len(block.text.splitlines()) <= 24 for block in PYTHON)


def test_the_readme_is_short_and_says_first_what_was_not_measured():
    lines = DOCUMENTS["README.md"].splitlines()
    assert len(lines) <= 130
    assert any("On a GPU nothing is measured yet" in line for line in lines[:40])


def anchors(text):
    """What the headings can be linked by, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings(name):
    broken = []
    for target in re.findall(r"\]\(((?!https?:)[^)]+)\)", PROSE[name]):
        path, _, anchor = target.partition("#")
        found = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not found.exists() or (anchor and anchor not in anchors(found.read_text())):
            broken.append(target)
    assert not broken


def test_paths_that_are_named_are_there():
    named = {code for code in INLINE if re.fullmatch(rf"(?:{ROOMS})/[\w./-]*", code)}
    run = {found for command in COMMANDS for found in re.findall(r"(?:profiling|examples)/[\w/]+\.py", command)}
    run |= {found for code in INLINE for found in re.findall(r"python ((?:profiling|examples)/[\w/]+\.py)", code)}
    assert len(named) > 5 and len(run) > 10
    assert not sorted(path for path in named | run if not (ROOT / path).exists())


def test_every_public_name_is_in_the_docs():
    docs = "".join(text for name, text in DOCUMENTS.items() if name.startswith("docs/"))
    assert not [name for name in gdgpu.__all__ if not re.search(rf"gdgpu\.{name}\b", docs)]


def test_commands_are_taken_as_they_stand():
    with open(ROOT / "pyproject.toml", "rb") as file:
        home, _, _ = tomllib.load(file)["project"]["scripts"]["gdgpu"].partition(":")
    cli = import_module(home).cli
    lines = [command.split()[1:] for command in COMMANDS if command.startswith("gdgpu ")]
    assert len(lines) > 5
    for name, *arguments in lines:
        cli.commands[name].make_context(name, arguments)


def test_weighted_samples_ignores_the_outliers():
    worst = runpy.run_path(ROOT / "examples" / "weighted_samples.py")["main"]()
    assert worst < 0.05


def test_every_public_name_has_a_docstring_and_loads():
    for name in gdgpu.__all__:
        assert getattr(gdgpu, name).__doc__, name


def test_version_is_the_one_in_pyproject():
    assert f'version = "{gdgpu.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"Unreleased ({gdgpu.__version__})" in DOCUMENTS["CHANGELOG.md"]


PROFILING = DOCUMENTS["profiling/README.md"]


@pytest.fixture
def kernels():
    """Names of kernels, as profilers show them."""
    pytest.importorskip("numba_cuda", reason="needs numba-cuda: install gdgpu[test]")
    from gdgpu.kernels.catalogue import ROWS

    return {row.kernel.name for row in ROWS if row.name in ("momentum", "reduce", "reduce_update_momentum")} | {
        row.kernel.name for row in ROWS if row.name == "advance_adam"
    }


def test_profiling_recipes_name_kernels_and_cases_as_they_are(kernels, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "profiling")
    import cases
    import run

    named = re.findall(r"`((?:update|reduce|fused|advance)_\w+_float32)`", PROFILING)
    patterns = re.findall(r"regex:(\w+)", PROFILING)
    assert len(named) >= 3 and len(patterns) >= 2
    for name in (*named, *patterns):
        assert any(name in kernel for kernel in kernels), name
    commands = re.findall(r"python profiling/run\.py([^\n#]*)", SHELL)
    assert len(commands) > 5
    for command in commands:
        given = run._parser().parse_args(command.split())
        assert cases.select(given.case, given.sizes, given.device or "cpu")
    w = np.zeros(4, "float32")
    bound = type(gdgpu.SGD(w, lr=0.1).bind(w.copy()))
    assert f"gdgpu.{bound.__call__.__qualname__}" in PROFILING
