"""The foreach execution: a program printed as `torch._foreach_*` statements, in place where it may be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.execution.translate import Op, Program, compile_source
from optim_cli.optim.execution.vocabulary import OPERATIONS, WITH_SCALAR

# Lists are worked through in portions: the temporaries of one portion are all the extra memory a step
# takes, and on a CPU a portion stays in the cache from one statement to the next.
PORTION_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}


def compile_foreach(program: Program) -> Callable[..., None]:
    """`update(*tensor lists, *scalars)`: one step on lists of equal length, in place.

    Lists come in the order of `program.inputs`, scalars in the order of `program.scalars`: numbers, or
    lists of 0-d tensors where `unfused` has taken the operation apart.
    """
    name = f"{program.name}_foreach"
    return compile_source(print_foreach(program, name), name, {"torch": torch})


def run_foreach(
    update: Callable[..., None],
    columns: Sequence[Sequence[Tensor]],
    scalars: Sequence[float | Tensor | Sequence[Tensor]],
) -> None:
    """Apply a compiled update to columns of tensors, portion by portion."""
    for portion in portions(columns[0]):
        update(
            *(column[portion] for column in columns),
            *(s[portion] if isinstance(s, Sequence) else s for s in scalars),
        )


def portions(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Slices of consecutive tensors of at most PORTION_BYTES each, or of one larger tensor."""
    limit = PORTION_BYTES.get(tensors[0].device.type, PORTION_BYTES["cuda"])
    start = size = 0
    for index, tensor in enumerate(tensors):
        size += tensor.nbytes
        if size > limit and index > start:
            yield slice(start, index)
            start, size = index, tensor.nbytes
    yield slice(start, len(tensors))


def unfused(program: Program, tensor_scalars: Collection[str]) -> Program:
    """Take operations apart whose scalar is a tensor, where torch wants a number.

    What remains (add, mul, div by a scalar) torch accepts with 0-d tensors too.
    """
    ops: list[Op] = []
    for op in program.ops:
        if op.scalar not in tensor_scalars or op.operation in WITH_SCALAR.values():
            ops.append(op)
            continue
        names = iter(f"{op.target}_{suffix}" for suffix in "abc")

        def emit(name: str, *tensors: str, names: Iterator[str] = names) -> str:
            ops.append(Op(next(names), OPERATIONS[name], tensors))
            return ops[-1].target

        def scale(tensor: str, op: Op = op, names: Iterator[str] = names) -> str:
            ops.append(Op(next(names), WITH_SCALAR["mul"], (tensor,), op.scalar))
            return ops[-1].target

        match op.operation.name, op.tensors:
            case "add", (x, y):
                base, product = x, scale(y)
            case "addcmul", (x, a, b):
                base, product = x, scale(emit("mul", a, b))
            case "addcdiv", (x, a, b):
                base, product = x, scale(emit("div", a, b))
            case "lerp", (x, y):
                base, product = x, scale(emit("sub", y, x))
            case name, _:
                raise AssertionError(f"no form of {name} takes its scalar as a tensor")
        ops.append(Op(op.target, OPERATIONS["add"], (base, product)))
    return Program(program.name, program.inputs, tuple(ops), program.outputs, program.scalars)


def print_foreach(program: Program, name: str) -> str:
    """The source of a program in foreach form.

    A value may take over the memory of an operand that nobody reads again. The gradient is borrowed
    and never overwritten; a parameter or state is written where it lies.
    """
    last_use = {x: index for index, op in enumerate(program.ops) for x in op.tensors}
    last_use |= dict.fromkeys(program.outputs.values(), len(program.ops))
    home = {value: x for x, value in program.outputs.items()}
    memory = {x: x for x in program.inputs}
    lines = [f"def {name}({', '.join((*program.inputs, *program.scalars))}):"]
    for index, op in enumerate(program.ops):
        operands = list(op.tensors)
        movable = operands[:2] if op.operation.commutative and not op.scalar else operands[:1]
        free = [x for x in movable if last_use[x] == index and memory[x] != "g"]
        free.sort(key=lambda x: memory[x] != home.get(op.target))
        if free:
            operands.remove(free[0])
            operands.insert(0, free[0])
            memory[op.target] = memory[free[0]]
            lines.append(f"    {_call(op, [memory[x] for x in operands], in_place=True)}")
        else:
            memory[op.target] = op.target
            lines.append(f"    {op.target} = {_call(op, [memory[x] for x in operands])}")
        lines += [
            f"    del {memory[x]}"
            for x in dict.fromkeys(op.tensors)
            if last_use[x] == index and memory[x] not in program.inputs and x not in free[:1]
        ]
    lines += _copies({x: memory[value] for x, value in program.outputs.items()})
    return "\n".join([*lines, "    return None", ""])


def _call(op: Op, operands: Sequence[str], in_place: bool = False) -> str:
    arguments = list(operands)
    if op.scalar is not None:
        keyword = "alpha=" if op.operation is OPERATIONS["add"] else ""
        arguments.append(keyword + op.scalar)
    return f"torch._foreach_{op.operation.name}{'_' * in_place}({', '.join(arguments)})"


def _copies(places: dict[str, str]) -> Iterator[str]:
    """Statements that bring results home which ended up elsewhere."""
    moves = {x: source for x, source in places.items() if x != source}
    for source in sorted(set(moves.values()) & set(moves)):
        # This memory is about to be overwritten by another move: keep what it holds.
        yield f"    {source}_moved = [x.clone() for x in {source}]"
        moves = {x: f"{source}_moved" if y == source else y for x, y in moves.items()}
    for x, source in moves.items():
        yield f"    torch._foreach_copy_({x}, {source})"


def compile_single(program: Program) -> Callable[..., tuple[Tensor, ...]]:
    """`update(*tensors, *scalars) -> new values of the outputs`, pure, for scalars held in tensors."""
    name = f"{program.name}_single"
    lines = [f"def {name}({', '.join((*program.inputs, *program.scalars))}):"]
    for op in program.ops:
        arguments: list[Any] = [*op.tensors]
        if op.scalar is not None:
            arguments.append((op.operation.scalar or "") + "=" + op.scalar)
        lines.append(f"    {op.target} = torch.{op.operation.name}({', '.join(arguments)})")
    lines.append(f"    return ({', '.join(program.outputs.values())},)")
    return compile_source("\n".join(lines) + "\n", name, {"torch": torch})
