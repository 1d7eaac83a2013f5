"""A rule's source: read once, and rewritten as the scalar function of a kernel."""

import ast
import builtins
import inspect
import math
import re
import textwrap
from collections import ChainMap
from collections.abc import Callable
from functools import cache
from numbers import Real

from ..backend.scalars import EMIT
from .language import FUNCTIONS, STATEMENTS, check, not_allowed

TAKEN = (*FUNCTIONS, "constant", "np")  # what a generated module calls its own


def rule_text(
    function: Callable,
    flags: dict[str, bool],
    absent: tuple[str, ...] = (),
    name: str = "rule",
    returns: tuple[str, ...] | None = None,
) -> str:
    """Source of the scalar rule `function` as a function of this name.

    Numbers, written in it or named at its module's level, become calls of `constant`, which gives them the array's
    precision. gdgpu's scalar functions are known by whatever name the rule's module gives them. Parameters named in
    `flags` become the constants given there, those in `absent` are neither taken nor returned. returns: names of what
    it must return. Raises TypeError for what is no plain function of scalars, or would not have one precision.
    """
    source = Source.of(function)
    rule = ast.parse(source.text).body[0]  # anew, to be rewritten
    rule.name, rule.decorator_list, rule.returns = name, [], None
    rule.args.args = [ast.arg(n) for n in source.parameters if n not in flags and n not in absent]
    if ast.get_docstring(rule):
        rule.body = rule.body[1:]
    rule.body = _Rewrite(source, flags, absent).block(rule.body)
    check(source, rule, returns)
    return ast.unparse(ast.fix_missing_locations(rule))


class Source:
    """A function's text, tree and place, and what its names stand for. Read once: its file may be edited later on."""

    def __init__(self, function: Callable) -> None:
        named = inspect.isfunction(function) and function.__code__.co_name != "<lambda>"
        if not named or hasattr(function, "__wrapped__"):
            raise TypeError(f"rule: expected a function made by def, got {function!r}")
        self.name, self.path = function.__name__, function.__code__.co_filename
        try:
            lines, self.first = inspect.getsourcelines(function)
            self.text = textwrap.dedent("".join(lines))
            self.tree = ast.parse(self.text).body[0]
        except OSError:
            where = "in a file or a notebook's cell, not in exec or python -c"
            raise TypeError(f"rule: {self.name}: {self.path} cannot be read again; write the rule {where}") from None
        except SyntaxError:  # a piece of an expression
            self.tree = None
        if not isinstance(self.tree, ast.FunctionDef):
            raise TypeError(f"rule: expected a function made by def, got {function!r}")
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        nonlocals = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
        self.known = ChainMap(nonlocals, function.__globals__, vars(builtins))
        self.locals = function.__code__.co_varnames
        self.parameters = tuple(inspect.signature(function).parameters)
        self._check_parameters(self.tree.args)

    @classmethod
    @cache
    def of(cls, function: Callable) -> "Source":
        """The Source of a function, read when first asked for."""
        return cls(function)

    def _check_parameters(self, args):
        if args.vararg or args.kwarg or args.kwonlyargs or args.posonlyargs:
            raise self.error(self.tree, "takes parameters by *, / or **; a rule's are all plain")
        if args.defaults:
            raise self.error(self.tree, "has defaults in its def; give them to gdgpu.rule: @gdgpu.rule(momentum=0.9)")
        for name in self.locals:
            if name in TAKEN:
                raise self.error(self.tree, f"has a variable {name}, as generated code calls something else")

    def error(self, node: ast.AST, what: str) -> TypeError:
        """The TypeError to raise for this node of the tree."""
        line = self.first + node.lineno - 1
        return TypeError(f"rule: {self.name}, {self.path}:{line}: {what}")

    def shown(self, node: ast.AST) -> str:
        """The text of a node, on one line, shortened."""
        text = re.sub(r"#.*", "", ast.get_source_segment(self.text, node))
        return textwrap.shorten(text, 60, placeholder=" …")

    @property
    def returned(self) -> tuple[str, ...]:
        """The names of what it returns, the same in every return; TypeError for what has no name."""
        found = None
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Return):
                returned = values(node)
                if not returned or not all(isinstance(v, ast.Name) for v in returned):
                    raise self.error(node, "returns what has no name; name what it returns, as the rule names it")
                names = tuple(v.id for v in returned)
                if found not in (None, names):
                    raise self.error(node, f"returns {', '.join(names)}, and elsewhere {', '.join(found)}")
                found = names
        if not found:
            raise self.error(self.tree, "may end without a return")
        return found


def _filled(cell):
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _float(value):
    try:
        return float(value)
    except OverflowError:
        return math.inf


def values(node: ast.Return) -> list[ast.expr]:
    """What a return statement returns."""
    if node.value is None:
        return []
    return node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]


class _Rewrite(ast.NodeTransformer):
    """Names become what they stand for, and what flags decide is decided."""

    def __init__(self, source, flags, absent):
        self.source, self.flags, self.absent = source, flags, absent

    def block(self, statements):
        """The statements rewritten; an `if` whose flags decide it becomes the branch that is taken."""
        found = [self.visit(s) if isinstance(s, STATEMENTS) else s for s in statements]
        return [one for some in found for one in (some if isinstance(some, list) else [some])]

    def visit_If(self, node):
        node.test = self.visit(node.test)
        if isinstance(node.test, ast.Constant):
            return self.block(node.body if node.test.value else node.orelse)
        node.body, node.orelse = self.block(node.body) or [ast.Pass()], self.block(node.orelse)
        return node

    def visit_IfExp(self, node):
        node.test = self.visit(node.test)
        if isinstance(node.test, ast.Constant):
            return self.visit(node.body if node.test.value else node.orelse)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_BoolOp(self, node):
        decides = isinstance(node.op, ast.Or)
        values = [self.visit(value) for value in node.values]
        if any(isinstance(v, ast.Constant) and v.value is decides for v in values):
            return ast.copy_location(ast.Constant(decides), node)
        node.values = [v for v in values if not isinstance(v, ast.Constant)]
        if len(node.values) < 2:
            return node.values[0] if node.values else ast.copy_location(ast.Constant(not decides), node)
        return node

    def visit_UnaryOp(self, node):
        node = self.generic_visit(node)
        if isinstance(node.op, ast.Not) and isinstance(node.operand, ast.Constant):
            return ast.copy_location(ast.Constant(not node.operand.value), node)
        return node

    def visit_Return(self, node):
        present = [v for v in values(node) if not (isinstance(v, ast.Name) and v.id in self.absent)]
        if isinstance(node.value, ast.Tuple):
            value = ast.Tuple(present, ast.Load()) if len(present) > 1 else present[0]
            node.value = ast.copy_location(value, node.value)
        return self.generic_visit(node)

    def visit_Constant(self, node):
        return self._value(node, node.value) if type(node.value) in (int, float) else node

    def visit_Name(self, node):
        if node.id in self.flags:
            if isinstance(node.ctx, ast.Store):
                raise self.source.error(node, f"assigns to {node.id}, which is fixed when the rule is compiled")
            return self._value(node, self.flags[node.id])
        if node.id in self.source.locals:
            return node
        return self._value(node, self._found(node))

    def visit_Attribute(self, node):
        return self._value(node, self._found(node))

    def _found(self, node):
        """What a dotted name stands for: gdgpu.fma, math.pi."""
        try:
            return self._named(node)
        except (KeyError, AttributeError):
            raise self.source.error(node, f"uses {self.source.shown(node)}, which is not defined") from None

    def _named(self, node):
        if isinstance(node, ast.Attribute):
            return getattr(self._named(node.value), node.attr)
        if not isinstance(node, ast.Name) or node.id in self.source.locals:
            raise AttributeError
        return self.source.known[node.id]

    def _value(self, node, value):
        if isinstance(value, bool):
            new = ast.Constant(value)
        elif isinstance(value, Real):
            value = _float(value)
            nan = ast.Attribute(ast.Name("np", ast.Load()), "nan", ast.Load())
            new = ast.Call(ast.Name("constant", ast.Load()), [ast.Constant(value) if value == value else nan], [])
        elif inspect.isfunction(value) and value in EMIT:
            new = ast.Name(value.__name__, ast.Load())
        else:
            raise self.source.error(node, not_allowed(self.source.shown(node)))
        return ast.copy_location(new, node)
