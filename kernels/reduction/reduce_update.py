"""Reduce and update in one launch: g = scale * (tree sum of G), then w, *state <- rule(w, g, *state, *hyper).

The gradient is never written to memory: the tree's root is handed to the rule where it was computed, by the
block that folded the last node of its columns.
"""

from functools import cache

from ..backend import memory
from ..codegen.element import Element
from ..codegen.module import Compiled, stem
from ..rules.rule import Flags, Rule
from . import reduce


@cache
def kernel(
    device: str, rule: Rule, flags: Flags, dtypes: tuple[str, ...], g_dtype: str, weighted: bool = False
) -> Compiled:
    """The fused kernel of a rule; dtypes of (w, *rule.states), g_dtype of G, whose sums have w's accumulator dtype."""
    sums = memory.accumulator(g_dtype)
    fields = Element(rule, (dtypes[0], sums, *dtypes[1:]), dict(flags))
    return reduce.build(
        stem(
            "fused",
            rule.name,
            *rule.copies,
            *(f for f, on in flags if on),
            "weighted" if weighted else "",
            g_dtype,
            *dtypes,
        ),
        device,
        g_dtype,
        weighted,
        finish=fields.update(g="total"),
        columns=len(fields.columns) - 1,
        addresses=fields.addresses(column=reduce.FIXED, without=("g",)),
        hyper=fields.scalars(),
        rule=fields.functions(),
        constants=fields.constants,
        used=dtypes,
    )
