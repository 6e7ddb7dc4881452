"""Programs and scalar texts printed as Triton kernels.

Three kernels share one signature, `(source, table, n, extra)`: the prologue takes over what the host has
written, advances the 0-d states and derives the scalars, one lane a tensor (`extra` says which of both); the
norm sums squares of gradients; the update runs the rule, one block of elements a program.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from optim_cli.optim.execution.fused import layout
from optim_cli.optim.execution.fused.layout import CELL, FIRST_BLOCK, HEADER, LANES, NUMEL, SEARCHED
from optim_cli.optim.execution.translate import Op, Program, parse
from optim_cli.optim.execution.vocabulary import WITH_SCALAR
from optim_cli.optim.swa_utils import Warmup

GRADIENT_FACTOR = "gradient_factor"
AVERAGE = "average"


@dataclass(frozen=True)
class Form:
    """What a kernel is specialised for besides the rule.

    Attributes:
        dtypes: of p, g, the states and the average, as real numbers.
        stored: dtype of the 0-d states.
        held: hyperparameters that lie in tensors on the device in some group.
        aligned: whether every tensor begins at a multiple of 16 bytes.
        skippable: whether GradScaler's verdict decides if the step counts.
        unscaled: whether the prologue starts the gradients' factor, from GradScaler's scale or at 1.
        normed: whether the norm of the gradients makes that factor.
        averaged: whether an average of the parameters follows them.
        warmup: of that average, which gives its weights from the count on the device.
        block: elements to a program of the update.
    """

    dtypes: tuple[torch.dtype, ...]
    stored: torch.dtype
    held: frozenset[str] = frozenset()
    aligned: bool = True
    skippable: bool = False
    unscaled: bool = False
    normed: bool = False
    averaged: bool = False
    warmup: type[Warmup] | None = None
    block: int = 1024


class Texts:
    """The sources of the kernels of one algorithm variant in one form, and the layout they agree on.

    Args:
        program: the rule.
        scalars: the algorithm's scalar text.
        zero_dim: names of its 0-d states.
        form: what the kernels are specialised for.

    Attributes:
        columns: tensors that the update reads, in order.
        rows: names of the table's rows that the host writes.
        scalars: names of the rows that the prologue writes.
        cells: hyperparameters, in order.
    """

    def __init__(self, program: Program, scalars: Any, zero_dim: Sequence[str], form: Form) -> None:
        self.program, self.form, self.zero_dim = program, form, tuple(zero_dim)
        self.columns = (*program.inputs, *[AVERAGE] * form.averaged)
        self.rows = (FIRST_BLOCK, NUMEL, CELL, *self.columns, *self.zero_dim)
        self.scalars = tuple(x for x in program.scalars if x != GRADIENT_FACTOR)
        self.temporaries, self.derived = _read(scalars)
        texts = [*self.temporaries.values(), *self.derived.values()]
        texts += [ast.parse(program.scalars[x], mode="eval").body for x in self.scalars]
        known = {*self.temporaries, *self.zero_dim}
        used = {x.id for text in texts for x in ast.walk(text) if isinstance(x, ast.Name)} - {"torch"}
        hoisted_only = {*self.derived} - {x.arg for x in _arguments(scalars)}
        self.cells = tuple(sorted(used - known - hoisted_only))

    @property
    def advances(self) -> bool:
        """Whether the prologue has something to do at every step."""
        return bool(self.zero_dim or self.form.held or self.form.unscaled or self.form.averaged)

    @property
    def words(self) -> int:
        """Words to a tensor, besides cells."""
        return len(self.scalars) + len(self.rows)

    @property
    def cell_words(self) -> int:
        """Words to a kind of tensor: hyperparameters, and how many bytes each has where it is held."""
        return len(self.cells) * (2 if self.form.held else 1)

    def prologue(self, name: str) -> str:
        """`name(source, table, n, what)`: what a step needs once per tensor."""
        lines = [f"    {line}" for line in self._advance()]
        if lines:
            lines.insert(0, f"    if _what & {layout.ADVANCE} != 0:")
        head = ["@triton.jit", f"def {name}(_source, _table, _n, _what):", *self._take_over()]
        return "\n".join([*head, *lines, ""])

    def update(self, name: str) -> str:
        """`name(source, table, n, extra)`: the rule, on one block of one tensor."""
        return "\n".join(["@triton.jit", f"def {name}(_source, _table, _n, _extra):", *self._update(), ""])

    def _row(self, name: str, base: str = "_table") -> str:
        index = len(self.scalars) + self.rows.index(name)
        return f"{base} + {HEADER} + {index} * _n"

    def _take_over(self) -> Iterator[str]:
        yield f"    _lane = tl.program_id(0) * {LANES} + tl.arange(0, {LANES})"
        yield "    _there = _lane < _n"
        yield f"    if _what & {layout.TAKE_OVER} != 0:"
        sizes = f"{HEADER}, {layout.HOST_WORDS}, {len(self.scalars)}, {len(self.rows)}"
        cells = f"tl.load(_source + {layout.CELL_WORDS})"
        yield f"        take_over(_source, _table, _n, _lane, _there, {sizes}, {cells})"

    def _advance(self) -> Iterator[str]:
        form, stored = self.form, _triton(self.form.stored)
        if form.skippable:
            yield f"    _skip = tl.load(header_address(_source, {layout.FOUND_INF}, tl.float32)) != 0"
        if form.unscaled or form.averaged:
            yield "    if tl.program_id(0) == 0:"
        if form.unscaled:
            limit = f"header_number(_source, {layout.MAX_NORM})"
            programs = f"tl.load(_source + {layout.PROGRAMS})" if form.normed else "0"
            yield f"        _factor_at = header_address(_source, {layout.FACTOR}, tl.float64)"
            yield f"        put_factor(_factor_at, _source, {layout.SCALE}, {programs}, {limit},"
            yield f"                   {layout.NORM}, {layout.PARTIALS}, {form.normed})"
        if form.averaged:
            yield f"        _weight = header_number(_source, {layout.WEIGHT})"
            yield from _warm_up(form.warmup)
            yield f"        if tl.load(header_address(_source, {layout.AVERAGED}, tl.int64)) == 0:"
            yield "            _weight = tl.full((), 1.0, tl.float64)"
            yield f"        tl.store(_table + {layout.WEIGHT_NOW}, _weight.to(tl.int64, bitcast=True))"
        if self.cells:
            cell = f"tl.load({self._row(CELL, '_source')} + _lane, mask=_there, other=0)"
            yield f"    _cells = _source + {HEADER} + {self.words} * _n + {cell}"
        for i, x in enumerate(self.cells):
            if x in form.held:
                yield f"    {x} = held_number(_cells + {i}, _cells + {len(self.cells) + i}, _there)"
            else:
                yield f"    {x} = number(_cells + {i}, _there)" + (" != 0" if x == "first" else "")
        for x in self.zero_dim:
            address = f"tl.load({self._row(x, '_source')} + _lane, mask=_there, other=0)"
            yield f"    {x}_at = {address}.to(tl.pointer_type({stored}))"
            yield f"    {x}_old = tl.load({x}_at, mask=_there, other=1.0)"
            yield f"    {x} = ({x}_old{' + 1' * (x == 'step')}).to(tl.float64)"
        for x, text in self.temporaries.items():
            yield f"    {x} = {_printed(text, {})}"
        renamed = {x: f"{x}_new" for x in self.derived}
        for x, text in self.derived.items():
            rounded = f".to({stored}).to(tl.float64)" if x in self.zero_dim else ""
            yield f"    {x}_new = ({_printed(text, {})}){rounded}"
        for x in self.zero_dim:
            if x == "step" or x in self.derived:
                new = f"{renamed.get(x, x)}.to({stored})"
                value = f"tl.where(_skip, {x}_old, {new})" if form.skippable else new
                yield f"    tl.store({x}_at, {value}, mask=_there)"
        for i, x in enumerate(self.scalars):
            value = _printed(ast.parse(self.program.scalars[x], mode="eval").body, renamed)
            yield f"    put_number(_table + {HEADER} + {i} * _n + _lane, {value}, _there)"

    def _update(self) -> Iterator[str]:
        form, wide = self.form, _triton(_wide(self.form.dtypes[0]))
        yield "    _block = tl.program_id(0)"
        yield f"    _tensor = tensor_of({self._row(FIRST_BLOCK)}, _n, _block, {SEARCHED})"
        yield f"    _first = tl.load({self._row(FIRST_BLOCK)} + _tensor)"
        yield f"    _numel = tl.load({self._row(NUMEL)} + _tensor)"
        yield f"    _start = (_block - _first) * {form.block}"
        for x, dtype in zip(self.columns, form.dtypes, strict=True):
            address = f"tl.load({self._row(x)} + _tensor).to(tl.pointer_type({_triton(dtype)}))"
            yield f"    {x}_at = {_aligned(address, form.aligned)}"
        for i, x in enumerate(self.scalars):
            bits = f"tl.load(_table + {HEADER} + {i} * _n + _tensor)"
            yield f"    {x} = {bits}.to(tl.float64, bitcast=True).to({wide})"
        if GRADIENT_FACTOR in self.program.scalars:
            factor = f"tl.load(header_address(_table, {layout.FACTOR}, tl.float64))"
            yield f"    {GRADIENT_FACTOR} = {factor}.to({wide})"
        if form.skippable:
            yield f"    _skip = tl.load(header_address(_table, {layout.FOUND_INF}, tl.float32)) != 0"
        if form.averaged:
            yield f"    _weight = header_number(_table, {layout.WEIGHT_NOW}).to({wide})"
        yield "    if _block == 0:"
        yield f"        tell_host(_table, {layout.SLOT}, {layout.SEQUENCE})"
        if form.averaged:
            yield f"        if tl.load(_table + {layout.ADVANCED}) != 0:"
            yield f"            _count = header_address(_table, {layout.ADVANCED}, tl.int64)"
            yield "            tl.store(_count, tl.load(_count) + 1)"
        yield f"    _offsets = _start + tl.arange(0, {form.block})"
        yield f"    if _start + {form.block} <= _numel:"
        yield from self._elements("", wide)
        yield "    else:"
        yield "        _inside = _offsets < _numel"
        yield from self._elements(", mask=_inside", wide)

    def _elements(self, mask: str, wide: str) -> Iterator[str]:
        program, form = self.program, self.form
        for x in self.columns:
            yield f"        {x} = tl.load({x}_at + _offsets{mask}).to({wide})"
        for op in program.ops:
            yield f"        {op.target} = {_operation(op)}"
        for x, value in program.outputs.items():
            if form.skippable:
                yield f"        {value}_kept = tl.where(_skip, {x}, {value})"
        suffix = "_kept" if form.skippable else ""
        outputs = {x: f"{value}{suffix}" for x, value in program.outputs.items()}
        for x, value in outputs.items():
            yield f"        tl.store({x}_at + _offsets, {value}{mask})"
        if form.averaged:
            newest = f"{outputs['p']}.to({_triton(form.dtypes[0])}).to({wide})"
            yield f"        tl.store({AVERAGE}_at + _offsets, lerp({AVERAGE}, {newest}, _weight){mask})"


def print_norm(name: str, texts: Texts) -> str:
    """`name(reduction, table, n, base)`: sums of squares of the gradients, one of each program.

    The prologue adds them up, always in the same order. `base` counts the programs of launches before.
    """
    form = texts.form
    wide, dtype = _triton(_wide(form.dtypes[1])), _triton(form.dtypes[1])
    g_at = _aligned(f"_address.to(tl.pointer_type({dtype}))", form.aligned)
    lines = [
        "@triton.jit",
        f"def {name}(_reduction, _table, _n, _base):",
        f"    _sums = tl.zeros([{form.block}], {wide})",
        f"    _blocks = tl.load(_table + {layout.BLOCKS})",
        # Neighbours, most of which are of one tensor.
        "    _each = (_blocks + tl.num_programs(0) - 1) // tl.num_programs(0)",
        "    _begin = tl.program_id(0) * _each",
        "    _end = tl.minimum(_begin + _each, _blocks)",
        "    _next = _begin",
        "    _first = _begin",
        "    _numel = _begin",
        "    _address = _begin",
        "    for _block in range(_begin, _end):",
        "        if _block >= _next:",
        f"            _tensor = tensor_of({texts._row(FIRST_BLOCK)}, _n, _block, {SEARCHED})",
        f"            _first = tl.load({texts._row(FIRST_BLOCK)} + _tensor)",
        f"            _numel = tl.load({texts._row(NUMEL)} + _tensor)",
        f"            _address = tl.load({texts._row('g')} + _tensor)",
        f"            _next = _first + (_numel + {form.block - 1}) // {form.block}",
        f"        g_at = {g_at}",
        f"        _start = (_block - _first) * {form.block}",
        f"        _offsets = _start + tl.arange(0, {form.block})",
        f"        if _start + {form.block} <= _numel:",
        f"            g = tl.load(g_at + _offsets).to({wide})",
        "            _sums += g * g",
        "        else:",
        f"            g = tl.load(g_at + _offsets, mask=_offsets < _numel, other=0).to({wide})",
        "            _sums += g * g",
        f"    _partial = _reduction + {layout.PARTIALS} + _base + tl.program_id(0)",
        "    tl.store(_partial.to(tl.pointer_type(tl.float64)), tl.sum(_sums.to(tl.float64)))",
        "",
    ]
    return "\n".join(lines)


def _operation(op: Op) -> str:
    x, scalar = op.tensors, op.scalar
    name = op.operation.name
    symbol = {"add": "+", "sub": "-", "mul": "*"}.get(name)
    if op.operation is WITH_SCALAR.get(name):
        return f"divide({x[0]}, {scalar})" if name == "div" else f"{x[0]} {symbol} {scalar}"
    match name:
        case "neg":
            return f"-{x[0]}"
        case "abs":
            return f"tl.abs({x[0]})"
        case "sqrt":
            return f"square_root({x[0]})"
        case "div":
            return f"divide({x[0]}, {x[1]})"
        case "add" if scalar == "weight_decay" or x[0] == x[1]:
            return f"decayed({x[0]}, {x[1]}, {scalar})"
        case "add" if scalar is not None:
            return f"{x[0]} + {scalar} * {x[1]}"
        case "addcmul" | "addcdiv":
            product = f"({x[1]} * {x[2]})" if name == "addcmul" else f"divide({x[1]}, {x[2]})"
            return f"{x[0]} + {product}" if scalar is None else f"{x[0]} + {scalar} * {product}"
        case "sign" | "clamp_min" | "clamp_max" | "maximum" | "lerp":
            return f"{name}({', '.join((*x, *([scalar] if scalar is not None else [])))})"
    return f"{x[0]} {symbol} {x[1]}"


def _warm_up(warmup: type[Warmup] | None) -> Iterator[str]:
    """The newest parameters' weight in an average that begins with a smaller decay than its own."""
    if warmup is None:
        return
    count, *numbers = (x.arg for x in _arguments(warmup.formula))
    assert len(numbers) <= layout.HOST_WORDS - layout.WARMUP, f"{warmup.__name__} takes too many numbers"
    [formula] = [x.value for x in parse(warmup.formula)[0].body if isinstance(x, ast.Return)]
    assert formula is not None
    renamed = {count: "_averaged", **{x: f"_warmup_{x}" for x in numbers}}
    yield f"        _averaged = tl.load(header_address(_source, {layout.AVERAGED}, tl.int64)).to(tl.float64)"
    for i, x in enumerate(numbers):
        yield f"        {renamed[x]} = header_number(_source, {layout.WARMUP + i})"
    yield f"        _weight = maximum(_weight, 1 - {_printed(formula, renamed)})"


def _arguments(function: Any) -> list[ast.arg]:
    arguments = parse(function)[0].args
    return [*arguments.args, *arguments.kwonlyargs]


def _read(scalars: Any) -> tuple[Mapping[str, ast.expr], Mapping[str, ast.expr]]:
    """The assignments of a scalar text, and what it returns by name."""
    temporaries: dict[str, ast.expr] = {}
    derived: dict[str, ast.expr] = {}
    for statement in parse(scalars)[0].body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=x)], value=value):
                temporaries[x] = value
            case ast.Return(value=ast.Call(keywords=keywords)):
                derived = {keyword.arg: keyword.value for keyword in keywords if keyword.arg is not None}
    return temporaries, derived


def _printed(node: ast.expr, renamed: Mapping[str, str], argument: bool = False) -> str:
    """A scalar expression in Triton; an argument is never a bare number, which would be a float32."""

    def of(x: ast.expr, argument: bool = False) -> str:
        return _printed(x, renamed, argument)

    match node:
        case ast.Name(id=x):
            return renamed.get(x, x)
        case ast.Constant(value=value):
            return f"tl.full((), {value!r}, tl.float64)" if argument else repr(value)
        case ast.Attribute():
            return "tl.full((), float('inf'), tl.float64)"
        case ast.UnaryOp(operand=operand):
            return f"-({of(operand, argument)})"
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return f"power({of(left, True)}, {of(right, True)})"
        case ast.BinOp(left=left, op=op, right=right):
            symbol = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(op)]
            return f"({of(left, argument)} {symbol} {of(right)})"
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            pair = ast.unparse(ast.Compare(ast.Name("l"), [op], [ast.Name("r")])).split()
            return f"({of(left)} {pair[1]} {of(right)})"
        case ast.Call(func=ast.Attribute(attr=name), args=arguments):
            return f"tl.{name}({', '.join(of(x, True) for x in arguments)})"
    raise AssertionError(f"{ast.unparse(node)} passed the check of the vocabulary")


def _aligned(address: str, aligned: bool) -> str:
    return f"tl.multiple_of({address}, 16)" if aligned else address


def _triton(dtype: torch.dtype) -> str:
    return f"tl.{str(dtype).removeprefix('torch.')}"


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
