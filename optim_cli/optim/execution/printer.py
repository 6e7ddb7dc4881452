"""Programs printed as torch statements: on lists of tensors or one at a time, in place or pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from optim_cli.optim.execution.translate import Op, Program, compile_source
from optim_cli.optim.execution.vocabulary import OPERATIONS, WITH_SCALAR

Form = Literal["foreach", "single"]


def compile_in_place(program: Program, form: Form) -> Callable[..., None]:
    """`update(*tensors, *scalars)`: one step, written where the tensors lie.

    Tensors come in the order of `program.inputs`, lists of them in the foreach form; scalars in the order
    of `program.scalars`, numbers, or 0-d tensors (a list of them) where `unfused` has prepared for it.
    """
    name = f"{program.name}_{form}"
    return compile_source(print_in_place(program, form, name), name, {"torch": torch})


def compile_pure(program: Program) -> Callable[..., tuple[Tensor, ...]]:
    """`update(*tensors, *scalars) -> new values of the outputs`, overwriting nothing."""
    name = f"{program.name}_pure"
    lines = [f"def {name}({', '.join((*program.inputs, *program.scalars))}):"]
    lines += [f"    {op.target} = {_call(op, op.tensors, 'single')}" for op in program.ops]
    lines += [f"    return ({', '.join(program.outputs.values())},)", ""]
    return compile_source("\n".join(lines), name, {"torch": torch})


def print_in_place(program: Program, form: Form, name: str) -> str:
    """The source of a program in a form.

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
            lines.append(f"    {_call(op, [memory[x] for x in operands], form, in_place=True)}")
        else:
            memory[op.target] = op.target
            lines.append(f"    {op.target} = {_call(op, [memory[x] for x in operands], form)}")
        lines += [
            f"    del {memory[x]}"
            for x in dict.fromkeys(op.tensors)
            if last_use[x] == index and memory[x] not in program.inputs and x not in free[:1]
        ]
    lines += _copies({x: memory[value] for x, value in program.outputs.items()}, form)
    return "\n".join([*lines, "    return None", ""])


def _call(op: Op, operands: Sequence[str], form: Form, in_place: bool = False) -> str:
    name, arguments = op.operation.name, list(operands)
    if form == "single":
        arguments += [f"{op.operation.scalar}={op.scalar}"] * (op.scalar is not None)
        arguments += [f"out={operands[0]}"] * in_place
        return f"torch.{name}({', '.join(arguments)})"
    # torch's foreach functions take their scalars by position, but for this one.
    keyword = "alpha=" if op.operation is OPERATIONS["add"] else ""
    arguments += [f"{keyword}{op.scalar}"] * (op.scalar is not None)
    return f"torch._foreach_{name}{'_' * in_place}({', '.join(arguments)})"


def _copies(places: dict[str, str], form: Form) -> Iterator[str]:
    """Statements that bring results home which ended up elsewhere."""
    moves = {x: source for x, source in places.items() if x != source}
    for source in sorted(set(moves.values()) & set(moves)):
        # This memory is about to be overwritten by another move: keep what it holds.
        copy = f"{source}.clone()" if form == "single" else f"[x.clone() for x in {source}]"
        yield f"    {source}_moved = {copy}"
        moves = {x: f"{source}_moved" if y == source else y for x, y in moves.items()}
    for x, source in moves.items():
        yield f"    {x}.copy_({source})" if form == "single" else f"    torch._foreach_copy_({x}, {source})"


def unfused(program: Program, tensor_scalars: Collection[str]) -> Program:
    """Take operations apart whose scalar is a tensor, where torch wants a number.

    What has one tensor operand (add, mul, div by a scalar, clamps) torch accepts with 0-d tensors too.
    """
    ops: list[Op] = []
    for op in program.ops:
        if op.scalar not in tensor_scalars or op.operation.tensors == 1:
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
