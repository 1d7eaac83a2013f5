"""Names say what a thing is: some words that could mean anything are in no identifier, nor in the text of a kernel."""

import ast
import io
import re
import tokenize

import pytest

from support import ROOT

VAGUE = {"around", "held", "most", "extras", "own", "kept", "coded"}
FOLDERS = "kernels", "gdgpu", "tests", "profiling", "examples"
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # of snake_case and of CamelCase
ANY_VAGUE = re.compile("|".join(VAGUE), re.IGNORECASE)


def identifiers(text):
    """The identifiers of a source; without the names of test functions, which are sentences."""
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and not (before == "def" and token.string.startswith("test_")):
            yield token.string
        before = token.string


def kernel_texts(text):
    """The strings of several lines in a source that are no docstrings, of f-strings what is not filled in."""
    nodes = list(ast.walk(ast.parse(text)))
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        pieces = node.values if isinstance(node, ast.JoinedStr) else [node] if node not in docstrings else []
        pieces = [piece.value for piece in pieces if isinstance(piece, ast.Constant) and isinstance(piece.value, str)]
        if any("\n" in piece for piece in pieces):
            yield re.sub("#.*", "", " ".join(pieces))


def is_vague(name):
    return not VAGUE.isdisjoint(word.lower() for word in WORD.findall(name))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_has_a_vague_word(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text, place = path.read_text(), path.relative_to(ROOT)
        if not ANY_VAGUE.search(text) or place.parts[:2] == ("gdgpu", "kernels"):  # a link, where somebody made one
            continue
        names = set(identifiers(text))
        if folder == "kernels":
            names.update(*(re.findall(r"[A-Za-z_]\w*", kernel) for kernel in kernel_texts(text)))
        found += [f"{place}: {name}" for name in sorted(names) if is_vague(name)]
    assert not found, "\n".join(found)
