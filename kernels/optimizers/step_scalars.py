"""The scalars of a step, running products among them: made on the device, so that a CUDA graph can replay them.

For each row (a parameter group): carried, scalars <- step(carried, values), all in float64; scalars are rounded to the
dtype that the rule computes in. Running products, never powers: both devices then have the same bits.

`context` is the address of a row of addresses (element.STEP_CONTEXT), or 0. Where found_inf is set nothing changes;
else, with `counts`, the count of completed steps grows by one.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from ..backend import threads
from ..backend.geometry import BLOCK
from ..backend.limits import Limits
from ..codegen import source
from ..codegen.element import STEP_CONTEXT, context_address
from ..codegen.module import Compiled, accessors, module, stem
from ..rules.rule import Rule

LIMITS = Limits(threads=256, streams=False, float64=True)

CPU = """
@device
$step

@jit(CODE, "void(int64, int64, int64, int64, int64, int64, int64, int64)")
def advance(values, carried, scalars, context, counts, scratch, first, last):
    if context != 0 and load_int64($found_inf) != 0 and load_float32(load_int64($found_inf), 0) == 1:
        last = first
    for row in range(first, last):
        $advance
        if row == 0 and counts != 0:
            $count
"""

CUDA = """
@device
$step

@jit("int64 int64 int64 int64 int64 int64", NAME, CODE)
def advance(values, carried, scalars, context, counts, rows):
    if context != 0 and load_int64($found_inf) != 0 and load_float32(load_int64($found_inf), 0) == 1:
        return
    row = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if row < rows:
        $advance
        if row == 0 and counts != 0:
            $count
"""


@cache
def kernel(device: str, rule: Rule | None, sums: str) -> Compiled:
    """The kernel of a rule's step function, for scalars of dtype `sums`; rule None: of one that only counts."""
    parts = {"step": "def rule():\n    return", "advance": ""}
    if rule:
        parts = {"step": source.rule_text(rule.step, {}), "advance": _advance(rule)}
    parts |= {
        "found_inf": f"context, {STEP_CONTEXT.index('found_inf')}",
        "count": "store_int64(steps, 0, load_int64(steps, 0) + 1)",
    }
    parts["count"] = f"steps = {context_address('steps')}\n" + parts["count"]
    constants = {"constant": "np.float64", "rounded": f"np.{sums}"} | accessors({"float64", "float32"}, sums)
    name = stem("advance", rule.name if rule else "count", sums)
    return module(name, device, CPU if device == "cpu" else CUDA, parts, constants).advance


def _advance(rule):
    read = [f"c_{n} = load_float64(carried, row * {len(rule.carried)} + {k})" for k, n in enumerate(rule.carried)]
    read += [f"h_{n} = load_float64(values, row * {len(rule.hyper)} + {k})" for k, n in enumerate(rule.hyper)]
    taken = [f"c_{n}" if n in rule.carried else f"h_{n}" for n in rule.taken]
    given = [*(f"c_{n}" for n in rule.carried), *(f"h_{n}" for n in rule.given)]
    write = [f"store_float64(carried, row * {len(rule.carried)} + {k}, c_{n})" for k, n in enumerate(rule.carried)]
    write += [
        f"store_sum(scalars, row * {len(rule.scalars)} + {k}, rounded(h_{n}))" for k, n in enumerate(rule.scalars)
    ]
    return "\n".join([*read, f"{', '.join(given)}, = rule({', '.join(taken)})", *write])


def launcher(
    device: str,
    compiled: Compiled,
    values: int,
    carried: int,
    scalars: int,
    rows: int,
    context: int = 0,
    counts: int = 0,
) -> Callable[[], None]:
    """The launch that takes one step forward; values, carried, scalars and context are addresses."""
    args = (values, carried, scalars, context, counts)
    if device == "cpu":
        return threads.Launch(compiled, args, rows, 0)
    return compiled.prepare(-(-rows // BLOCK), BLOCK, *args, rows)


def initial(rule: Rule, rows: int) -> np.ndarray:
    """The carried scalars before the first step."""
    return np.tile(np.array(list(rule.carried.values()), np.float64), (rows, 1))
