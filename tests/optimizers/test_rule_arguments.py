"""Arguments of a user's rule, and of gdgpu.rule, that are refused in one line; functions that can be no rule."""

import math
import re

import numpy as np
import pytest

import gdgpu
from support.user_rules import debiased, heavy_ball

# argument: what is said of it
BAD_ARGUMENTS = {
    "heavy_ball: missing a required argument: 'lr'": (heavy_ball, {}),
    "heavy_ball: got an unexpected keyword argument 'momentumm'": (heavy_ball, {"lr": 0.1, "momentumm": 0.9}),
    "heavy_ball: too many positional arguments": (lambda w, **k: heavy_ball(w, 0.1, 0.9), {}),
    "lr: expected a finite number >= 0, got -0.1": (heavy_ball, {"lr": -0.1}),
    "momentum: expected a finite number": (heavy_ball, {"lr": 0.1, "momentum": math.inf}),
    "momentum: expected a number, got bool": (heavy_ball, {"lr": 0.1, "momentum": True}),
    "bounded: expected True or False, got 1": (debiased, {"bounded": 1}),
}


@pytest.mark.parametrize("message", BAD_ARGUMENTS)
def test_bad_arguments(message):
    optimizer, given = BAD_ARGUMENTS[message]
    with pytest.raises((TypeError, ValueError), match=rf"\A{re.escape(message)}[^\n]*\Z"):
        optimizer(np.ones(2), **given)


def gives_scale(power, lr):
    power = power * 0.5
    scale = lr * power
    return power, scale


def scaled(w, g, lr, scale):
    return w - lr * scale * g


# argument: what is said of it
BAD_DECORATIONS = {
    "state: expected a tuple of names, like ('velocity',), got 'v'": {"state": "v"},
    "state: expected different names, got ('v', 'v')": {"state": ("v", "v")},
    "state: expected a tuple of names, like ('velocity',), got 3": {"state": 3},
    "carried: expected a dict of numbers, like {'power': 1.0}, got ('power',)": {"carried": ("power",)},
    "carried['power']: expected a finite number": {"carried": {"power": math.nan}, "step": gives_scale},
    "rule: expected a function made by def, got 3": {"step": 3},
    "scale: expected a number, got str": {"scale": "fast"},
    "lr: expected a finite number >= 0, got -1": {"lr": -1},
}


@pytest.mark.parametrize("message", BAD_DECORATIONS)
def test_bad_arguments_of_the_decorator(message):
    with pytest.raises((TypeError, ValueError), match=rf"\A{re.escape(message)}[^\n]*\Z"):
        gdgpu.rule(**BAD_DECORATIONS[message])(scaled)


@pytest.mark.parametrize("function", [lambda w, g, lr: w, len, 3, gdgpu.Momentum])
def test_what_is_no_function_made_by_def(function):
    with pytest.raises(TypeError, match=r"\Arule: expected a function made by def, got [^\n]*\Z"):
        gdgpu.rule(function)


def test_without_a_source():
    scope = {"gdgpu": gdgpu}
    expected = r"\Arule: f: <string> cannot be read again; write the rule in a file or a notebook's cell[^\n]*\Z"
    with pytest.raises(TypeError, match=expected):
        exec("@gdgpu.rule\ndef f(w, g, lr): return w - lr * g", scope)
