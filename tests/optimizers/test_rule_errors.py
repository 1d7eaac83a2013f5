"""What cannot be a rule is refused when it is decorated, in one line that names the rule, its file and the line."""

import inspect
import math

import numpy as np
import pytest

import gdgpu


def refused(message, step=None, **given):
    """A function that gdgpu.rule must refuse with this message, and the line with the comment `here`, or of its def."""

    def keep(function):
        REFUSED.append(pytest.param(message, function, step, given, id=function.__name__))
        return function

    return keep


REFUSED = []
V = {"state": ("v",)}


@refused("returns 1 value, expected 2: w, v", **V)
def too_few(w, g, v, lr):
    if lr > 0.1:
        return w  # here
    return w - lr * g, v


@refused("returns 2 values, expected 1: w")
def too_many(w, g, lr):
    return w - lr * g, g  # here


@refused("returns 0 values, expected 1: w")
def nothing(w, g, lr):
    return  # here


@refused("may end without a return")
def no_return(w, g, lr):  # here
    if lr > 0:
        return w


@refused("takes (w, g, lr); expected w, g, v first", **V)
def no_state(w, g, lr):  # here
    return w, g


@refused("takes (g, w, lr); expected w, g first")
def other_order(g, w, lr):  # here
    return w


@refused("takes no lr")
def no_lr(w, g):  # here
    return w - g


@refused("takes no beta, which has a default; its hyperparameters are lr", beta=0.9)
def stray_default(w, g, lr):  # here
    return w - lr * g


@refused("takes no fast, which has a default; its hyperparameters are lr", fast=True)
def stray_flag(w, g, lr):  # here
    return w - lr * g


@refused("takes params, which every optimizer has; give it another name")
def reserved_name(w, g, lr, params):  # here
    return w - lr * g * params


@refused("nonnegative: expected names of states, got u", nonnegative=("u",))
def no_such_state(w, g, lr):  # here
    return w - lr * g


@refused("has a variable sqrt, as generated code calls something else")
def hides_a_function(w, g, lr):  # here
    sqrt = lr * g
    return w - sqrt


@refused("has defaults in its def; give them to gdgpu.rule: @gdgpu.rule(momentum=0.9)")
def default_in_def(w, g, lr=0.1):  # here
    return w - lr * g


@refused("takes parameters by *, / or **; a rule's are all plain")
def starred(w, g, *lr):  # here
    return w


ALLOWED = "a rule may use numbers and gdgpu's fma, sqrt, maximum, minimum, sign"
AS_WRITTEN = "use a number as it is written: it has the arrays' precision"


@refused(f"uses np.float64; {ALLOWED}; {AS_WRITTEN}")
def wider(w, g, lr):
    return w - np.float64(0.1) * lr * g  # here


@refused(f"uses float; {ALLOWED}; {AS_WRITTEN}")
def python_float(w, g, lr):
    g = float(g)  # here
    return w - lr * g


@refused(f"uses math.sqrt; {ALLOWED}; use gdgpu.sqrt")
def math_function(w, g, lr):
    return w - lr * g / math.sqrt(g * g + 1)  # here


@refused(f"uses abs; {ALLOWED}; use maximum(x, -x)")
def built_in_function(w, g, lr):
    return w - lr * abs(g)  # here


@refused("uses nowhere, which is not defined")
def undefined_name(w, g, lr):
    return w - lr * nowhere  # noqa: F821  # here


@refused("uses gdgpu.nowhere, which is not defined")
def undefined_attribute(w, g, lr):
    return w - lr * gdgpu.nowhere(g)  # here


@refused("g > 0 is true or false, no number; write (1 if g > 0 else 0)")
def sum_of_comparisons(w, g, lr):
    return w - lr * ((g > 0) - (g < 0))  # here


@refused("positive is true or false, no number; write (1 if positive else 0)")
def product_with_a_comparison(w, g, lr):
    positive = g > 0
    return gdgpu.fma(-lr, positive, w)  # here


@refused("fast is true or false, no number; write (1 if fast else 0)", fast=False)
def product_with_a_flag(w, g, lr, fast):
    return w - fast * lr * g  # here


@refused("g if lr > 0 else lr > 0 is sometimes a number, sometimes true or false")
def of_two_kinds(w, g, lr):
    g = g if lr > 0 else lr > 0  # here
    return w - lr * g


@refused("uses u, which may have no value yet")
def set_on_one_path(w, g, lr):
    if g > 0:
        u = g
    return w - lr * u  # here


@refused("assigns to fast, which is fixed when the rule is compiled", fast=False)
def sets_a_flag(w, g, lr, fast):
    fast = g > 0  # here
    return w - (lr if fast else 2 * lr) * g


@refused("g**2: a power has other bits on other devices; use products or sqrt")
def power(w, g, lr):
    return w - lr * g**2  # here


@refused("uses g // 2")
def floor(w, g, lr):
    return w - lr * (g // 2)  # here


@refused("fma takes 3 values, got 2")
def wrong_arity(w, g, lr):
    return gdgpu.fma(lr, g)  # here


@refused("uses gdgpu.sqrt(a=g)")
def keyword(w, g, lr):
    return w - gdgpu.sqrt(a=g) * lr  # here


@refused("uses w(g)")
def calls_a_number(w, g, lr):
    return w(g) * lr  # here


@refused("uses w.real, which is not defined")
def attribute_of_a_number(w, g, lr):
    return w.real - lr * g  # here


@refused("uses [g]")
def makes_a_list(w, g, lr):
    return w - lr * [g][0]  # here


@refused("has 'for k in range(3): g = g / 2'; a rule is assignments, if and return")
def loops(w, g, lr):
    for k in range(3):  # noqa: B007  # here
        g = g / 2
    return w - lr * g


@refused("has 'def half(x): return x / 2'; a rule is assignments, if and return")
def nested(w, g, lr):
    def half(x):  # here
        return x / 2

    return w - lr * half(g)


@refused("assigns to g, lr; expected a name for each value")
def unpacks(w, g, lr):
    g, lr = w  # here
    return w - lr * g


@refused('uses "fast"')
def text(w, g, lr):
    return w - lr * "fast"  # here


def gives_scale(power, lr):
    power = power * 0.5
    scale = lr * power
    return power, scale


POWER = {"carried": {"power": 1.0}}


@refused("takes no scale, which gives_scale gives", step=gives_scale, **POWER)
def does_not_take_it(w, g, lr):  # here
    return w - lr * g


@refused(
    "takes power, which is carried from step to step: let gives_scale give it by another name", gives_scale, **POWER
)
def takes_what_is_carried(w, g, scale, power):  # here
    return w - scale * power * g


def gives_half():
    half = 0.5
    return half


@refused("takes no lr, and neither does gives_half", gives_half)
def no_lr_at_all(w, g, half):  # here
    return w - half * g


@refused("carried: power need a step function, which makes them anew", **POWER)
def nothing_makes_it(w, g, lr):  # here
    return w - lr * g


def refused_step(message, **carried):
    """A step function that gdgpu.rule must refuse."""

    def keep(step):
        REFUSED_STEPS.append(pytest.param(message, step, carried, id=step.__name__))
        return step

    return keep


REFUSED_STEPS = []


@refused_step("takes no power, which is carried", power=1.0)
def does_not_carry(lr):  # here
    scale = lr * 0.5
    return scale


@refused_step("returns scale, power; expected what is carried first: power", power=1.0)
def another_order(power, lr):  # here
    scale = lr * power
    return scale, power


@refused_step("returns what has no name; name what it returns, as the rule names it", power=1.0)
def without_a_name(power, lr):
    return power, lr * power  # here


@refused_step("returns half, and elsewhere scale")
def other_names(lr):
    scale = half = lr
    if lr > 1:
        return half  # here
    return scale


@refused_step("takes g; a step's scalars come from what is carried and from hyperparameters alone")
def takes_a_gradient(g, lr):  # here
    scale = g * lr
    return scale


@refused_step("lr**power: a power has other bits on other devices; use products or sqrt", power=1.0)
def takes_a_power(power, lr):
    scale = lr**power  # here
    return power, scale


@refused_step("may end without a return")
def gives_nothing(lr):  # here
    pass


def scaled(w, g, lr, scale):
    return w - lr * scale * g


def line_of(function):
    """The line with the comment `here`."""
    lines, first = inspect.getsourcelines(function)
    return next(number for number, line in enumerate(lines, first) if line.endswith("# here\n"))


def assert_refused(message, culprit, function, **given):
    with pytest.raises(TypeError) as caught:
        gdgpu.rule(**given)(function)
    where = f"rule: {culprit.__name__}, {__file__}:{line_of(culprit)}: "
    assert str(caught.value).startswith(where + message) and "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize("message, function, step, given", REFUSED)
def test_what_cannot_be_a_rule_is_refused_with_its_line(message, function, step, given):
    assert_refused(message, function, function, step=step, **given)


@pytest.mark.parametrize("message, step, carried", REFUSED_STEPS)
def test_what_cannot_be_a_step_is_refused_with_its_line(message, step, carried):
    assert_refused(message, step, scaled, step=step, carried=carried)
