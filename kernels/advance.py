"""The scalars of a step, running products among them: made on the device, so that a CUDA graph can replay them.

For each row (a parameter group): carried, scalars <- step(carried, values), all in float64; scalars are rounded to the
dtype that the rule computes in. Running products, never powers: both devices then have the same bits.
"""

from functools import cache, partial

import numpy as np

from . import generate, threads
from .limits import Limits
from .text import accessors, module, stem
from .tree import BLOCK

LIMITS = Limits(threads=256, streams=False, float64=True)

CPU = """
@jit(CACHING)
$step

@jit(CACHING, "void(int64, int64, int64, int64, int64, int64)")
def advance(values, carried, scalars, scratch, first, last):
    for row in range(first, last):
        $advance
"""

CUDA = """
@device
$step

@jit("int64 int64 int64 int64", NAME, CODE)
def advance(values, carried, scalars, rows):
    row = cuda.blockIdx.x * np.int64(cuda.blockDim.x) + cuda.threadIdx.x
    if row < rows:
        $advance
"""


@cache
def kernel(device, rule, sums):
    """The kernel of a rule's step function, for scalars of dtype `sums`."""
    read = [f"c_{n} = load_float64(carried, row * {len(rule.carried)} + {k})" for k, n in enumerate(rule.carried)]
    read += [f"h_{n} = load_float64(values, row * {len(rule.hyper)} + {k})" for k, n in enumerate(rule.hyper)]
    taken = [f"c_{n}" if n in rule.carried else f"h_{n}" for n in rule.taken]
    given = [*(f"c_{n}" for n in rule.carried), *(f"h_{n}" for n in rule.given)]
    write = [f"store_float64(carried, row * {len(rule.carried)} + {k}, c_{n})" for k, n in enumerate(rule.carried)]
    write += [
        f"store_sum(scalars, row * {len(rule.scalars)} + {k}, rounded(h_{n}))" for k, n in enumerate(rule.scalars)
    ]
    call = [f"{', '.join(given)}, = rule({', '.join(taken)})"]
    constants = {"constant": "np.float64", "rounded": f"np.{sums}"} | accessors({"float64"}, sums)
    parts = {"step": generate.rule_text(rule.step, {}), "advance": "\n".join([*read, *call, *write])}
    name = stem("advance", rule.name, sums)
    return module(name, device, CPU if device == "cpu" else CUDA, parts, constants).advance


def launcher(device, compiled, values, carried, scalars, rows):
    """The call that takes one step forward; values, carried and scalars are addresses."""
    args = (values, carried, scalars)
    if device == "cpu":
        return partial(threads.run, compiled, args, rows, 0)
    return compiled.prepare(-(-rows // BLOCK), BLOCK, *args, rows)


def initial(rule, rows):
    """The carried scalars before the first step."""
    return np.tile(np.array(list(rule.carried.values()), np.float64), (rows, 1))
