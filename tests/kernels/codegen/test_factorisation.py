"""A kernel's text is a skeleton and a rule, and neither depends on which the other is.

This is held for the whole product, by texts alone, at milliseconds each. So other tests compile a cover of it: every
rule and every skeleton, and each pair of what they are made for.
"""

import ast
import itertools
import re
from functools import cache
from types import SimpleNamespace

import pytest

from gdgpu.kernels.backend import generated
from gdgpu.kernels.backend.memory import accumulator
from gdgpu.kernels.catalogue import DTYPES, flags_of
from gdgpu.kernels.codegen.element import OPTIONS
from gdgpu.kernels.models import linear, losses
from gdgpu.kernels.optimizers import update
from gdgpu.kernels.reduction import reduce_update, tensor_norms
from gdgpu.kernels.rules.rule import with_copies
from gdgpu.kernels.rules.table import RULES
from support import covering, skeletons

# The functions of a rule and of its first phase, and that of a loss.
FUNCTIONS = re.compile(r"@device\ndef (?:rule|norm|residuals)\(.*?(?=\n\n|\Z)", re.DOTALL)
DEVICES = "cpu", "cuda"
STORED = None, "bfloat16", "uint8"  # the dtype of state; None: that of the sums
COPIES = (), ("master",), ("ema",), ("master", "ema")
W_AND_G = [(w, g) for w, g in itertools.product(DTYPES, DTYPES) if accumulator(w) == accumulator(g)]


class Text(SimpleNamespace):
    """A generated module that is not compiled: whatever is taken from it is itself."""

    def __getattr__(self, name):
        return self


@pytest.fixture
def text_of(monkeypatch):
    """text_of(builder, *arguments): the text that it would have compiled, which is Python."""
    monkeypatch.setattr(generated, "_import", lambda key, text: Text(__name__=key, text=text))

    def make(builder, *arguments):
        monkeypatch.setattr(generated, "_modules", {})
        text = builder.__wrapped__(*arguments).text
        ast.parse(text)
        return re.sub(r"NAME = .*\n|_[0-9a-f]{16} import", "", text)

    return make


def skeleton(text, rule):
    """The text without the rule's functions, in which its states are called by number, and its scalars are one."""
    text = FUNCTIONS.sub("", text)
    for k, name in enumerate(rule.state):
        text = text.replace(f"s{k}_{name}", f"s{k}")
    read = "\n".join(f"    h_{name} = load_sum(hyper_at, {k})" for k, name in enumerate(rule.scalars))
    for indent in ("", "    "):
        text = text.replace(read.replace("    ", indent + "    "), "")
    for function in filter(None, (rule.norm, rule.function)):
        scalars = [f"h_{name}" for name in rule.parameters(function) if name in rule.scalars]
        text = text.replace(", ".join(scalars), "scalars")
    count = len(rule.scalars)
    return re.sub(r"(h_ema_\w+ = load_sum\(hyper_at, )(\d+)", lambda line: f"{line[1]}{int(line[2]) - count}", text)


@cache
def updates():
    """(dtypes of w and g, copies, dtype of state, options): all dtypes, and all pairs; with --full all threes."""
    values = W_AND_G, COPIES, STORED, *[(False, True)] * len(OPTIONS)
    chosen = covering.some(list(itertools.product(*values)), together=3 if covering.FULL else 2)
    mixed = [(*case[:3], tuple(itertools.compress(OPTIONS, case[3:]))) for case in chosen]
    return [(dtypes, (), None, ()) for dtypes in W_AND_G] + mixed


def dtypes_of(rule, dtypes, copies, stored):
    """The dtypes of (w, g, *states)."""
    sums = accumulator(dtypes[0])
    codes = [rule.code(name) for name in rule.state]
    return (*dtypes, *[sums] * len(copies), *(codes if stored == "uint8" else [stored or sums] * len(rule.state)))


def built(rule, flags):
    """(what it is for, builder, arguments) of every kernel of a rule with these flags."""
    for case in updates():
        dtypes, copies, stored, options = case
        if rule.early and stored == "uint8":  # has no kernel
            continue
        ours, stores = with_copies(rule, copies), dtypes_of(rule, dtypes, copies, stored)
        for device in DEVICES:
            yield (device, case), update.kernel, (device, ours, flags, stores, options)
            if rule.norm:
                yield (device, case, "norms"), tensor_norms.kernels, (device, ours, flags, stores, options)
    for device, (w, g), weighted in itertools.product(DEVICES, W_AND_G, (False, True)) if not rule.norm else ():
        stores = dtypes_of(rule, (w, g), (), None)
        yield (device, w, g, weighted), reduce_update.kernel, (device, rule, flags, (w, *stores[2:]), g, weighted)


def groups():
    """The rules that have one skeleton, by their names."""
    found = {}
    for rule in RULES.values():
        found.setdefault(skeletons.skeleton(rule), []).append(rule)
    return {"+".join(rule.name for rule in group): group for group in found.values()}


@pytest.mark.parametrize("group", groups().values(), ids=groups())
def test_a_kernel_is_a_skeleton_and_a_rule_that_do_not_depend_on_each_other(group, text_of):
    functions, skeletons = {}, {}
    for rule in group:
        for flags in flags_of(rule):
            for case, builder, arguments in built(rule, flags):
                text = text_of(builder, *arguments)
                formats = tuple(map(rule.code, rule.state)) if "uint8" in case[1] else ()
                functions.setdefault((rule.name, flags, builder), set()).add(tuple(FUNCTIONS.findall(text)))
                skeletons.setdefault((*case, formats), set()).add(skeleton(text, rule))
    assert [key for key, texts in functions.items() if len(texts) > 1] == []
    assert [key for key, texts in skeletons.items() if len(texts) > 1] == []
    for function, phase in ((group[0].function, update.kernel), (group[0].norm, tensor_norms.kernels)):
        found = [texts for (_, _, builder), texts in functions.items() if builder is phase]
        assert bool(found) == bool(function) and all(len(text) == 1 for texts in found for text in texts)


@pytest.mark.parametrize("device", DEVICES)
def test_the_two_dtypes_of_16_bits_have_the_same_skeletons(device, text_of):
    """Of the same size, they are loaded and stored by functions of their names, and rounded at random by others."""
    for rule, flags in ((rule, flags_of(rule)[0]) for rule in RULES.values()):
        for copies, options in itertools.product(COPIES, ((), OPTIONS)):
            stores = [dtypes_of(rule, (dtype, dtype), copies, None) for dtype in ("bfloat16", "float16")]
            bfloat16, float16 = (
                text_of(update.kernel, device, with_copies(rule, copies), flags, each, options) for each in stores
            )
            assert bfloat16.replace("bfloat16", "float16") == float16


@pytest.mark.parametrize("device", DEVICES)
def test_a_models_kernel_is_a_skeleton_and_a_loss(device, text_of):
    functions, skeletons = {}, {}
    for x_dtype, outputs, clipped in itertools.product((*DTYPES, "uint8"), (1, 2, 3, 10), (False, True)):
        tile = linear.tile_of(outputs, device, x_dtype)
        for loss in losses.NAMES:
            text = text_of(linear.kernel, device, loss, x_dtype, tile, clipped)
            functions.setdefault(loss, set()).add(tuple(FUNCTIONS.findall(text)))
            skeletons.setdefault((x_dtype, tile, clipped), set()).add(FUNCTIONS.sub("", text))
    assert [len(texts) for texts in functions.values()] == [1] * len(losses.NAMES)
    assert [len(text) for texts in functions.values() for text in texts] == [1] * len(losses.NAMES)
    assert [key for key, texts in skeletons.items() if len(texts) > 1] == []
