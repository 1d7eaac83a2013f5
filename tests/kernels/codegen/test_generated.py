"""Kernels made from a rule's text: compiled anew when it is edited, else read from the disk; literals' precision."""

import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import gdgpu
from gdgpu import fma as multiply_add
from gdgpu.kernels.backend import disk, generated
from gdgpu.kernels.catalogue import flags_of
from gdgpu.kernels.codegen import source
from gdgpu.kernels.rules.rule import Rule
from gdgpu.kernels.rules.table import RULES
from support import ROOT
from support.covering import usual
from support.references import DTYPES, assert_same_bits, dtype_of, samples, sums_of
from support.update import apply

TENTH = 0.1
SINGLE = np.float32(0.1)
WHOLE = 2**70
CENTERED = True


def one_minus_a_literal(w, g):
    return w * (1 - 0.1)


def a_sum_of_literals(w, g):
    return w + (0.1 + 0.2) * g


def a_ratio_of_integers(w, g):
    return w * (1 / 3)


def a_number_of_its_module(w, g):
    return w * TENTH


def a_number_of_another_module(w, g):
    return w * math.pi


def numbers_of_other_kinds(w, g):
    """A float32, and an integer that no int64 holds."""
    return w * SINGLE + g / WHOLE


def a_switch_of_its_module(w, g):
    return w * (0.1 if CENTERED and w > 0 else 0.7)


def not_a_number(w, g):
    return w + math.nan * g if w > 0.3 else w * -math.inf


def assigned_in_steps(w, g):
    a, b = w, g
    a, b = b, a
    a += 0.1
    if not 0 < b < 0.7:
        a *= 0.3
    elif b == 0 or a != b:
        pass
    return a


def multiplied_and_added(w, g):
    return multiply_add(0.1, w, 0.7)


def the_packages_fma(w, g):
    """Docstrings are left out."""
    return gdgpu.fma(0.1, w, -0.7)


def a_branch(w: float, g: float) -> float:
    return w if w > 0.1 else -0.1


# rule: the same in NumPy, constants of kind F
LITERALS = {
    one_minus_a_literal: lambda w, g, F: w * (F(1) - F(0.1)),
    a_sum_of_literals: lambda w, g, F: w + (F(0.1) + F(0.2)) * g,
    a_ratio_of_integers: lambda w, g, F: w * (F(1) / F(3)),
    a_number_of_its_module: lambda w, g, F: w * F(0.1),
    a_number_of_another_module: lambda w, g, F: w * F(math.pi),
    numbers_of_other_kinds: lambda w, g, F: w * F(SINGLE) + g / F(2.0**70),
    a_switch_of_its_module: lambda w, g, F: w * np.where(w > 0, F(0.1), F(0.7)),
    not_a_number: lambda w, g, F: np.where(w > F(0.3), F("nan"), w * F("-inf")),
    assigned_in_steps: lambda w, g, F: (g + F(0.1)) * np.where((w > 0) & (w < F(0.7)), F(1), F(0.3)),
    multiplied_and_added: lambda w, g, F: np.array([gdgpu.fma(F(0.1), x, F(0.7)) for x in w], F),
    the_packages_fma: lambda w, g, F: np.array([gdgpu.fma(F(0.1), x, F(-0.7)) for x in w], F),
    a_branch: lambda w, g, F: np.where(w > F(0.1), w, F(-0.1)),
}


TYPED = [(function, dtype) for function in LITERALS for dtype in DTYPES]
# float32, and the other dtypes in turn
SOME_TYPED = [
    (function, dtype) for k, function in enumerate(LITERALS) for dtype in {"float32", DTYPES[k % len(DTYPES)]}
]


@pytest.mark.parametrize(("function", "dtype"), usual(TYPED, SOME_TYPED), ids=lambda x: getattr(x, "__name__", x))
def test_literals_have_the_arrays_precision(function, dtype):
    w, g = samples((500,), dtype, 1), samples((500,), dtype, 2)
    w[0] = sums_of(dtype).type(0.1)  # where a comparison in float64 would differ
    sums = sums_of(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = LITERALS[function](w.astype(sums), g.astype(sums), sums.type).astype(dtype_of(dtype))
    apply(Rule(function), w, g)
    assert_same_bits(w, expected)


EXACT = (a_branch, numbers_of_other_kinds, not_a_number)  # rounded only once, or not at all


@pytest.mark.parametrize("function", [f for f in LITERALS if f not in EXACT], ids=lambda f: f.__name__)
def test_float64_literals_would_be_noticed(function):
    w, g = samples((500,), "float32", 1), samples((500,), "float32", 2)
    wide = LITERALS[function](w.astype(np.float64), g.astype(np.float64), np.float64).astype(np.float32)
    assert (wide != LITERALS[function](w, g, np.float32)).any()


def unknown_name(w, g):
    return np.tanh(w)


def calls_a_builtin(w, g):
    return abs(w) + LITERALS


def two_flags(w, g, up, double):
    if up:
        g = -g
    return w - (2 * g if double else g)


@pytest.mark.parametrize("function", [unknown_name, calls_a_builtin, lambda w, g: w, len, 3])
def test_what_is_no_rule(function):
    with pytest.raises(TypeError, match=r"\Arule: [^\n]*\Z"):
        source.rule_text(function, {})


@pytest.mark.parametrize("up", (False, True))
@pytest.mark.parametrize("double", (False, True))
def test_flags_are_constants(up, double):
    w, g = np.zeros(3), np.array([1.0, 2.0, 3.0])
    flags = (("up", up), ("double", double))
    apply(Rule(two_flags, flags=("up", "double")), w, g, flags)
    np.testing.assert_array_equal(w, g * (2 if double else 1) * (1 if up else -1))
    text = source.rule_text(two_flags, dict(flags))
    assert "def rule(w, g):" in text and ("g = -g" in text) == up and ("constant(2.0)" in text) == double


def many_flags(w, g, up, down):
    if up and not down:
        u = g
    elif down or g > 0:
        u = -g if not up and down else 3 * g
    else:
        return w
    return u


@pytest.mark.parametrize("up", (False, True))
@pytest.mark.parametrize("down", (False, True))
def test_what_flags_decide_is_decided(up, down):
    scope = {"constant": float}
    exec(source.rule_text(many_flags, {"up": up, "down": down}), scope)
    for g in (-2.0, 2.0):
        assert scope["rule"](1.0, g) == many_flags(1.0, g, up, down)
    text = source.rule_text(many_flags, {"up": up, "down": down})
    assert "True" not in text and "False" not in text and ("if" in text) == (not up and not down)


def rule_returns(w, g, v):
    return (w,)


def test_the_number_of_returned_values():
    assert "return w" in source.rule_text(rule_returns, {}, returns=("w",))
    expected = rf"\Arule: rule_returns, {re.escape(__file__)}:\d+: returns 1 value, expected 2: w, v\Z"
    with pytest.raises(TypeError, match=expected):
        source.rule_text(rule_returns, {}, returns=("w", "v"))


def test_every_rule_of_the_table_returns_what_it_says():
    for rule in RULES.values():
        for flags in flags_of(rule):
            fixed = dict(flags) | rule.fixed
            late = [name for name in rule.state if name not in rule.early]
            source.rule_text(rule.function, fixed, rule.absent, returns=("w", *late))
            if rule.norm:
                source.rule_text(rule.norm, fixed, rule.absent, returns=("u", *rule.early))
        if rule.step:
            source.rule_text(rule.step, {}, returns=(*rule.carried, *rule.given))


@pytest.mark.parametrize(
    "body, message",
    [("return x.foo", r"Unknown attribute 'foo' of type float32 \(return x\.foo\)"), ("return f'{x}'", ".*")],
)
def test_what_numba_cannot_compile_is_said_in_a_line(body, message):
    text = f'@jit(False, "float32(float32)")\ndef f(x):\n    {body}\n'
    with pytest.raises(TypeError, match=rf"\Abad_\w+: numba cannot compile it: {message}\Z"):
        generated.load("bad", text, {}, "gdgpu.kernels.backend.cpu")


def optional_state(w, g, first, second, is_given):
    if is_given:
        second = second + g
        g = second
    return w - g, first + g, second


@pytest.mark.parametrize("is_given", (False, True))
def test_states_may_be_absent(is_given):
    absent = () if is_given else ("second",)
    text = source.rule_text(optional_state, {"is_given": is_given}, absent)
    scope = {}
    exec(text, scope)
    assert scope["rule"](*(1.0, 2.0, 3.0, 4.0)[: 4 - len(absent)]) == ((-5.0, 9.0, 6.0) if is_given else (-1.0, 5.0))


SCRIPT = f"""
import sys
sys.path[:0] = [{str(ROOT / "tests")!r}, sys.argv[1]]
import numpy as np
from gdgpu.kernels.rules.rule import Rule
from support.update import apply
import users_rule
w = np.arange(4, dtype=np.float32)
kernel = apply(Rule(users_rule.step), w, np.ones(4, np.float32))
print(w.tolist(), sum(kernel.stats.cache_hits.values()))
"""


def write_rule(folder, formula):
    (folder / "users_rule.py").write_text(f"def step(w, g):\n    return {formula}\n")


def compiled(folder):
    """The files below a cache, with what changes when one is written again."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_an_edited_rule_is_compiled_anew(tmp_path, python):
    cache = tmp_path / "cache"
    environment = {"GDGPU_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    write_rule(tmp_path, "w - 2 * g")
    assert python(SCRIPT, tmp_path, **environment) == "[-2.0, -1.0, 0.0, 1.0] 0\n"
    first = compiled(cache)
    assert {path.suffix for path in first} == {".py", ".nbc"}
    assert python(SCRIPT, tmp_path, **environment) == "[-2.0, -1.0, 0.0, 1.0] 1\n"
    assert compiled(cache) == first
    write_rule(tmp_path, "w - 3 * g")  # as long as before, perhaps in the same second
    assert python(SCRIPT, tmp_path, **environment) == "[-3.0, -2.0, -1.0, 0.0] 0\n"
    assert compiled(cache).items() > first.items()
    write_rule(tmp_path, "w - 2 * g")
    assert python(SCRIPT, tmp_path, **environment) == "[-2.0, -1.0, 0.0, 1.0] 1\n"


PLACES = "GDGPU_CACHE_DIR", "XDG_CACHE_HOME", "HOME"


@pytest.mark.parametrize("variable", PLACES)
def test_a_place_that_cannot_be_written_is_none(tmp_path, monkeypatch, variable):
    (tmp_path / "file").write_text("in the way")
    for other in PLACES[:2]:
        monkeypatch.delenv(other, raising=False)
    for name in (variable, "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "cache"))
    if variable == "GDGPU_CACHE_DIR" or sys.platform != "win32":
        assert disk.directory() is None
    monkeypatch.setenv(variable, str(tmp_path))
    assert disk.directory().is_relative_to(tmp_path)


@pytest.mark.parametrize("variable", usual(PLACES, PLACES[:1]))
def test_without_a_place_to_write(tmp_path, python, variable):
    (tmp_path / "file").write_text("in the way")
    write_rule(tmp_path, "w + g")
    environment = {"GDGPU_CACHE_DIR": None, "XDG_CACHE_HOME": None} | {variable: str(tmp_path / "file" / "cache")}
    for _ in range(2):
        assert python(SCRIPT, tmp_path, **environment) == "[1.0, 2.0, 3.0, 4.0] 0\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_in_a_read_only_cache(tmp_path, python):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    write_rule(tmp_path, "w + g")
    assert python(SCRIPT, tmp_path, GDGPU_CACHE_DIR=str(cache)) == "[1.0, 2.0, 3.0, 4.0] 0\n"
    assert compiled(cache) == {}


def test_two_processes_at_once(tmp_path, python):
    cache = tmp_path / "cache"
    write_rule(tmp_path, "w * (1 - 0.5) - g")
    environment = os.environ | {"GDGPU_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT, tmp_path]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and shown.startswith("[-1.0, -0.5, 0.0, 0.5] ")
    left = compiled(cache)
    assert {path.suffix for path in left} == {".py", ".nbc"}
    assert python(SCRIPT, tmp_path, GDGPU_CACHE_DIR=str(cache)) == "[-1.0, -0.5, 0.0, 0.5] 1\n"
    assert compiled(cache) == left


@pytest.fixture
def fingerprint(monkeypatch):
    """fingerprint(word, numba, edited): what names kernels where these are set, installed, added to a source."""

    def make(word=None, numba="1.0", edited=""):
        with monkeypatch.context() as changed:
            changed.setattr(generated, "version", lambda package: numba)
            read = generated.Path.read_text
            changed.setattr(generated.Path, "read_text", lambda path: read(path) + edited * (path.stem == "memory"))
            changed.delenv("GDGPU_FINGERPRINT", raising=False)
            if word is not None:
                changed.setenv("GDGPU_FINGERPRINT", word)
            generated._fingerprint.cache_clear()
            try:
                return generated._fingerprint()
            finally:
                generated._fingerprint.cache_clear()

    return make


def test_a_word_stands_for_the_versions_but_never_for_the_sources(fingerprint):
    assert fingerprint(numba="1.0") != fingerprint(numba="2.0")
    assert fingerprint("carried", numba="1.0") == fingerprint("carried", numba="2.0")
    assert fingerprint("carried") != fingerprint("other") and fingerprint("carried") != fingerprint()
    assert fingerprint("carried") != fingerprint("carried", edited="# edited")
    assert fingerprint("") == fingerprint()
