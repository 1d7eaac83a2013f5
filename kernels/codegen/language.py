"""What a rule may be made of, so that all of it has one precision and the same bits on every device.

Assignments, `if` and `return`; + - * / and comparisons; numbers, and gdgpu's scalar functions. A value is a number, of
the arrays' precision, or true or false, and these do not mix: the sum of a float32 and a bool would be a float64.
"""

import ast
from typing import Any

from ..backend.scalars import EMIT

FUNCTIONS = {f.__name__: f.__code__.co_argcount for f in EMIT}
STATEMENTS = (ast.Assign, ast.AugAssign, ast.If, ast.Return, ast.Pass)
NORMS = ("w_norm", "u_norm")  # of whole tensors: parameters of rules that ask for them
NUMBER, TRUTH = "a number", "true or false"
INSTEAD = {
    "a number as it is written: it has the arrays' precision": ("float", "int", "float16", "float32", "float64"),
    "maximum(x, -x)": ("abs", "fabs", "absolute"),
    "gdgpu.maximum": ("max", "fmax", "maximum"),
    "gdgpu.minimum": ("min", "fmin", "minimum"),
    "gdgpu.sqrt": ("sqrt",),
    "gdgpu.sign": ("sign", "copysign"),
    "gdgpu.fma": ("fma",),
    "a product": ("pow", "power", "square"),
}
_INSTEAD = {name: instead for instead, names in INSTEAD.items() for name in names}


def not_allowed(text: str) -> str:
    """What is wrong with the use of this name."""
    instead = _INSTEAD.get(text.rpartition(".")[2])
    hint = f"; use {instead}" if instead else ""
    return f"uses {text}; a rule may use numbers and gdgpu's {', '.join(FUNCTIONS)}{hint}"


def check(source: Any, rule: ast.FunctionDef, returns: tuple[str, ...] | None = None) -> None:
    """TypeError, by source.error, unless this tree is a function of numbers. returns: names of what it must return."""
    names = {a.arg: NUMBER for a in rule.args.args}
    if _Check(source, returns).block(rule.body, names) is not None:
        raise source.error(source.tree, "may end without a return")


class _Check:
    def __init__(self, source, returns):
        self.source, self.returns = source, returns

    def block(self, statements, names):
        """The names that have a value after these statements, and its kind; None if they return."""
        for node in statements:
            if names is None:
                break
            names = self.statement(node, names)
        return names

    def statement(self, node, names):
        match node:
            case ast.Return():
                self.returned(node, names)
                return None
            case ast.If():
                self.kind(node.test, names)
                after = [self.block(part, dict(names)) for part in (node.body, node.orelse)]
                after = [known for known in after if known is not None]
                return {n: k for n, k in after[0].items() if all(a.get(n) == k for a in after)} if after else None
            case ast.Assign():
                known = dict(names)
                for target in node.targets:
                    known |= self.assigned(target, node.value, names)
                return known
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                old = ast.copy_location(ast.Name(name, ast.Load()), node)
                return names | {name: self.kind(ast.copy_location(ast.BinOp(old, op, value), node), names)}
            case ast.Pass():
                return names
        raise self.source.error(node, f"has {self.source.shown(node)!r}; a rule is assignments, if and return")

    def assigned(self, target, value, names):
        match target, value:
            case ast.Name(id=name), _:
                return {name: self.kind(value, names)}
            case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
                pairs = zip(targets, values, strict=True)
                return {name: kind for t, v in pairs for name, kind in self.assigned(t, v, names).items()}
        raise self.source.error(target, f"assigns to {self.source.shown(target)}; expected a name for each value")

    def returned(self, node, names):
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] if node.value else []
        if self.returns and len(values) != len(self.returns):
            wanted = f"expected {len(self.returns)}: {', '.join(self.returns)}"
            raise self.source.error(node, f"returns {len(values)} value{'s' * (len(values) != 1)}, {wanted}")
        for value in values:
            self.number(value, names)

    def number(self, node, names):
        if self.kind(node, names) == TRUTH:
            shown = self.source.shown(node)
            raise self.source.error(node, f"{shown} is true or false, no number; write (1 if {shown} else 0)")
        return NUMBER

    def kind(self, node, names):
        """NUMBER or TRUTH."""
        match node:
            case ast.Name(id=name):
                if name not in names:
                    raise self.source.error(node, f"uses {name}, which may have no value yet")
                return names[name]
            case ast.Constant(value=bool()):
                return TRUTH
            case ast.Call(func=ast.Name(id="constant")):
                return NUMBER
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and name not in names:
                if len(args) != FUNCTIONS[name]:
                    raise self.source.error(node, f"{name} takes {FUNCTIONS[name]} values, got {len(args)}")
                return self.all_of(args, names)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                return self.all_of([node.left, node.right], names)
            case ast.BinOp(op=ast.Pow()):
                shown = self.source.shown(node)
                raise self.source.error(node, f"{shown}: a power has other bits on other devices; use products or sqrt")
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                return self.number(node.operand, names)
            case ast.UnaryOp(op=ast.Not()):
                self.kind(node.operand, names)
                return TRUTH
            case ast.Compare(ops=ops) if not any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in ops):
                self.all_of([node.left, *node.comparators], names)
                return TRUTH
            case ast.BoolOp():
                return self.alike(node, node.values, names)
            case ast.IfExp():
                self.kind(node.test, names)
                return self.alike(node, [node.body, node.orelse], names)
        raise self.source.error(node, not_allowed(self.source.shown(node)))

    def all_of(self, nodes, names):
        for node in nodes:
            self.number(node, names)
        return NUMBER

    def alike(self, node, parts, names):
        kinds = {self.kind(part, names) for part in parts}
        if len(kinds) > 1:
            raise self.source.error(node, f"{self.source.shown(node)} is sometimes a number, sometimes true or false")
        return kinds.pop()
