"""The translator: rules (plain Python over torch operations) become one `Program`.

A program is what the rule does to one element, as a list of operations in static single assignment
form: every value is named once. Flags are resolved, and what is computed from scalars alone is taken
out, so that it is evaluated once per tensor in float64 instead of once per element.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import ModuleType
from typing import Any, NoReturn

from optim_cli.optim.execution.vocabulary import (
    ALLOWED_IN_RULES,
    ALLOWED_IN_SCALARS,
    OPERATIONS,
    SCALAR_FUNCTIONS,
    WITH_SCALAR,
    Operation,
)


class RuleError(SyntaxError):
    """A rule says something outside the vocabulary; carries the file and line."""


@dataclass(frozen=True)
class Op:
    """`target = operation(*tensors, scalar)`; `scalar` names an entry of `Program.scalars`."""

    target: str
    operation: Operation
    tensors: tuple[str, ...]
    scalar: str | None = None


@dataclass(frozen=True)
class Program:
    """What one step does to one element.

    Attributes:
        name: a Python identifier for generated code.
        inputs: tensors read: `p`, `g` and the states present, in the order executions pass them.
        ops: the operations, in order.
        outputs: for every input that is written, the value that it holds afterwards.
        scalars: name -> Python expression over hyperparameters and derived scalars.
    """

    name: str
    inputs: tuple[str, ...]
    ops: tuple[Op, ...]
    outputs: Mapping[str, str]
    scalars: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Stage:
    """One pure text, composed with others into a program; compared by identity.

    Attributes:
        rule: the function; tensors are positional, scalars and flags keyword-only.
        outputs: names of the tensors that it returns, in order.
    """

    rule: Callable[..., Any]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class _Tensor:
    value: str


@dataclass(frozen=True)
class _Static:
    value: object


_Value = _Tensor | _Static | ast.expr  # an ast.expr is an expression over scalars


def translate(
    name: str, stages: Sequence[Stage], states: Sequence[str], flags: Mapping[str, object]
) -> Program:
    """Compose the stages into one program.

    Args:
        name: a Python identifier for generated code.
        stages: texts that run one after another on the same tensors.
        states: names of the states that are present; a state that a rule names and that is not
            among them is None there.
        flags: values of the flags; `if` on them is resolved here.

    Raises:
        RuleError: a text uses something outside the vocabulary.
    """
    inputs = ("p", "g", *states)
    keywords = {x for stage in stages for x in inspect.getfullargspec(stage.rule).kwonlyargs}
    builder = _Builder(flags, {*inputs, *keywords})
    tensors: dict[str, _Value] = {x: _Tensor(x) for x in inputs}
    for stage in stages:
        parameters = inspect.signature(stage.rule).parameters.values()
        absent = {x.name: _Static(None) for x in parameters if x.kind is not x.KEYWORD_ONLY}
        results = builder.run(stage, absent | tensors)
        tensors |= zip(stage.outputs, results, strict=True)
    outputs = {}
    for x, value in tensors.items():
        if isinstance(value, _Tensor) and x in inputs and x != "g":
            outputs[x] = value.value
    return Program(name, inputs, tuple(builder.ops), outputs, builder.scalars)


class _Builder:
    """Reads stages one after another; collects operations and scalar expressions."""

    def __init__(self, flags: Mapping[str, object], taken: set[str]) -> None:
        self.flags = flags
        self.taken = taken
        self.ops: list[Op] = []
        self.scalars: dict[str, str] = {}
        self.names: dict[str, int] = {}

    def run(self, stage: Stage, tensors: Mapping[str, _Value]) -> list[_Value]:
        self.function, self.file = parse(stage.rule)
        self.outputs = stage.outputs
        self.present = {x for x, value in tensors.items() if isinstance(value, _Tensor)}
        self.env: dict[str, _Value] = dict(tensors)
        for argument in self.function.args.kwonlyargs:
            x = argument.arg
            self.env[x] = _Static(self.flags[x]) if x in self.flags else ast.Name(x, ast.Load())
        returned = self.block(self.function.body)
        if returned is None:
            self.refuse(self.function, "a rule without a return")
        return returned

    def block(self, body: Sequence[ast.stmt]) -> list[_Value] | None:
        for statement in body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=x)], value=value):
                    self.env[x] = self.expression(value, x)
                case ast.If(test=test, body=then, orelse=otherwise):
                    returned = self.block(then if self.decide(test) else otherwise)
                    if returned is not None:
                        return returned
                case ast.Return(value=ast.Tuple(elts=elements)):
                    if len(elements) != len(self.outputs):
                        self.refuse(statement, f"{len(elements)} results for {self.outputs}")
                    named = zip(elements, self.outputs, strict=True)
                    return [self.result(element, output) for element, output in named]
                case ast.Expr(value=ast.Constant(value=str())):
                    pass  # a docstring
                case _:
                    self.refuse(statement, "this statement")
        return None

    def result(self, node: ast.expr, output: str) -> _Value:
        value = self.expression(node, output)
        if output in self.present and not isinstance(value, _Tensor):
            self.refuse(node, f"`{ast.unparse(node)}` as the new {output}")
        return value

    def expression(self, node: ast.expr, hint: str = "t") -> _Value:
        """The value of an expression; `hint` names it in generated code."""
        match node:
            case ast.Name(id=x):
                if x not in self.env:
                    self.refuse(node, f"the name `{x}`")
                return self.env[x]
            case ast.Constant(value=None):
                return _Static(None)
            case ast.Constant(value=bool() | int() | float()):
                return node
            case ast.IfExp(test=test, body=then, orelse=otherwise):
                return self.expression(then if self.decide(test) else otherwise, hint)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.expression(operand, hint)
                if isinstance(value, _Tensor):
                    return self.emit(OPERATIONS["neg"], [value], None, hint)
                return ast.UnaryOp(ast.USub(), self.scalar(node, value))
            case ast.BinOp(left=left, op=operator, right=right):
                values = self.expression(left, hint), self.expression(right, hint)
                return self.binary(node, operator, *values, hint)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)):
                return self.call(node, name, hint)
        self.refuse(node, f"`{ast.unparse(node)}`")

    def binary(
        self, node: ast.expr, operator: ast.operator, left: _Value, right: _Value, hint: str
    ) -> _Value:
        name = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}.get(type(operator))
        if isinstance(left, _Tensor) and isinstance(right, _Tensor):
            if name is not None:
                return self.emit(OPERATIONS[name], [left, right], None, hint)
        elif isinstance(left, _Tensor):
            if name in WITH_SCALAR:
                return self.emit(WITH_SCALAR[name], [left], self.scalar(node, right), hint)
        elif isinstance(right, _Tensor):
            if name in WITH_SCALAR and WITH_SCALAR[name].commutative:
                return self.emit(WITH_SCALAR[name], [right], self.scalar(node, left), hint)
        elif name is not None or isinstance(operator, ast.Pow):
            return ast.BinOp(self.scalar(node, left), operator, self.scalar(node, right))
        self.refuse(node, f"`{ast.unparse(node)}`")

    def call(self, node: ast.Call, name: str, hint: str) -> _Value:
        values = [self.expression(argument, hint) for argument in node.args]
        if name not in OPERATIONS:
            self.refuse(node, f"`torch.{name}`")
        operation = OPERATIONS[name]
        keywords = {keyword.arg: self.expression(keyword.value) for keyword in node.keywords}
        tensors, rest = values[: operation.tensors], values[operation.tensors :]
        scalar = rest.pop(0) if rest else keywords.pop(operation.scalar, None)
        well_formed = len(tensors) == operation.tensors and not rest and not keywords
        if not well_formed or not all(isinstance(value, _Tensor) for value in tensors):
            self.refuse(node, f"`{ast.unparse(node)}`")
        if scalar is not None and operation.scalar is None:
            self.refuse(node, f"`{ast.unparse(node)}`")
        if scalar is None and operation.scalar is not None and operation.default is None:
            self.refuse(node, f"torch.{name} without `{operation.scalar}`")
        scalar = None if scalar is None else self.scalar(node, scalar)
        return self.emit(operation, [t for t in tensors if isinstance(t, _Tensor)], scalar, hint)

    def emit(
        self, operation: Operation, tensors: Sequence[_Tensor], scalar: ast.expr | None, hint: str
    ) -> _Tensor:
        target = self.fresh(hint)
        operands = tuple(tensor.value for tensor in tensors)
        self.ops.append(Op(target, operation, operands, self.hoist(scalar)))
        return _Tensor(target)

    def hoist(self, scalar: ast.expr | None) -> str | None:
        """Name an expression over scalars; the same expression gets the same name."""
        if scalar is None:
            return None
        source = ast.unparse(scalar)
        for name, known in self.scalars.items():
            if known == source:
                return name
        name = source if isinstance(scalar, ast.Name) else self.fresh("s")
        self.scalars[name] = source
        return name

    def fresh(self, stem: str) -> str:
        self.names[stem] = self.names.get(stem, 0) + 1
        name = f"{stem}_{self.names[stem]}"
        return self.fresh(stem) if name in self.taken else name

    def scalar(self, node: ast.expr, value: _Value) -> ast.expr:
        if isinstance(value, ast.expr):
            return value
        self.refuse(node, f"`{ast.unparse(node)}`")

    def decide(self, test: ast.expr) -> bool:
        """The value of a condition, which must be known at translation."""
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self.decide(operand)
            case ast.BoolOp(op=ast.And(), values=values):
                return all(self.decide(value) for value in values)
            case ast.BoolOp(op=ast.Or(), values=values):
                return any(self.decide(value) for value in values)
            case ast.Compare(left=left, ops=[ast.Is() | ast.IsNot() as op], comparators=[other]):
                if isinstance(other, ast.Constant) and other.value is None:
                    absent = self.expression(left) == _Static(None)
                    return absent is isinstance(op, ast.Is)
            case ast.Name():
                value = self.expression(test)
                if isinstance(value, _Static):
                    return bool(value.value)
        self.refuse(test, f"a condition on `{ast.unparse(test)}`")

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        refuse(self.file, node, what, ALLOWED_IN_RULES)


def refuse(file: str, node: ast.AST, what: str, allowed: str) -> NoReturn:
    """Raise a RuleError that points at the line."""
    line = getattr(node, "lineno", 1)
    text = linecache.getline(file, line)
    raise RuleError(
        f"{what} is not in the vocabulary of rules ({file}, line {line}); allowed: {allowed}",
        (file, line, None, text),
    )


def parse(function: Callable[..., Any]) -> tuple[ast.FunctionDef, str]:
    """The syntax tree of a function with the line numbers of its file, and that file."""
    file = inspect.getsourcefile(function) or "<unknown>"
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    ast.increment_lineno(tree, first - 1)
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        refuse(file, definition, "anything but a function", ALLOWED_IN_RULES)
    return definition, file


def check_scalars(function: Callable[..., Any]) -> tuple[str, ...]:
    """Refuse an algorithm's `scalars` that says something outside its vocabulary.

    Returns:
        Names of what it derives.

    Raises:
        RuleError: with the file, the line and what is allowed.
    """
    definition, file = parse(function)
    known = {argument.arg for argument in (*definition.args.args, *definition.args.kwonlyargs)}
    for statement in definition.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Assign(targets=[ast.Name(id=x)], value=value):
                _check_scalar(file, value, known)
                known.add(x)
            case ast.Return(value=ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords)):
                for keyword in keywords:
                    _check_scalar(file, keyword.value, known)
                derived = tuple(keyword.arg for keyword in keywords if keyword.arg is not None)
                if len(derived) != len(keywords):
                    refuse(file, statement, "`**` in the result", ALLOWED_IN_SCALARS)
                return derived
            case _:
                refuse(file, statement, "this statement", ALLOWED_IN_SCALARS)
    refuse(file, definition, "a text without a return", ALLOWED_IN_SCALARS)


def _check_scalar(file: str, node: ast.expr, known: set[str]) -> None:
    match node:
        case ast.Name(id=x) if x in known:
            pass
        case ast.Constant(value=int() | float()) | ast.Attribute(value=ast.Name(id="torch"), attr="inf"):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check_scalar(file, operand, known)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow(), right=right):
            _check_scalar(file, left, known)
            _check_scalar(file, right, known)
        case ast.Compare(
            left=left,
            ops=[ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE() | ast.Eq() | ast.NotEq()],
            comparators=[right],
        ):
            _check_scalar(file, left, known)
            _check_scalar(file, right, known)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name), args=args, keywords=[]) if (
            name in SCALAR_FUNCTIONS
        ):
            for argument in args:
                _check_scalar(file, argument, known)
        case _:
            refuse(file, node, f"`{ast.unparse(node)}`", ALLOWED_IN_SCALARS)


def check_names(function: Callable[..., Any], known: Collection[str]) -> None:
    """Refuse a text with a keyword parameter that nothing gives a value.

    Raises:
        RuleError: with the file, the line and the names there are.
    """
    definition, file = parse(function)
    for argument in definition.args.kwonlyargs:
        if argument.arg not in known:
            refuse(file, argument, f"the parameter `{argument.arg}`", ", ".join(sorted(known)))


def compile_source(source: str, name: str, namespace: Mapping[str, object]) -> Callable[..., Any]:
    """Compile generated code as a module of its own, which tracebacks, debuggers and compilers can find."""
    module = ModuleType(f"{__package__}.generated_{next(_numbers)}_{name}")
    file = f"<{module.__name__}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    vars(module).update(namespace)
    sys.modules[module.__name__] = module
    exec(compile(source, file, "exec"), vars(module))
    function: Callable[..., Any] = getattr(module, name)
    return function


_numbers = count()
