"""What rules and scalars may not say is refused, with the place and what is allowed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor

from optim_cli.optim.algorithms.sgd import SGD
from optim_cli.optim.execution.translate import Program, RuleError, Stage, check_scalars, translate
from optim_cli.optim.execution.vocabulary import ALLOWED_IN_RULES, ALLOWED_IN_SCALARS

# The texts below stand outside the vocabulary on purpose; the line refused ends in `# here`.


def loop(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    for _ in range(2):  # here
        p = p + g
    return (p,)


def augmented(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p += g  # here
    return (p,)


def two_targets(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = q = p + g  # here
    return (q,)


def unpacked(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p, g = g, p  # here
    return (p,)


def in_place(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p.add_(g)  # here
    return (p,)


def method(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p.add(g)  # here
    return (p,)


def function(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.exp(p)  # here
    return (p,)


def other_module(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p * inspect.pi(g)  # type: ignore[attr-defined]  # here
    return (p,)


def condition_on_tensor(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    if p:  # here
        p = p + g
    return (p,)


def condition_on_scalar(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    if lr > 0:  # here
        p = p + g
    return (p,)


def choice_on_tensor(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p if g.sum() else g  # here
    return (p,)


def unknown_name(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p + velocity  # type: ignore[name-defined] # noqa: F821 # here
    return (p,)


def scalar_minus_tensor(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = 1 - p  # here
    return (p,)


def tensor_minus_scalar(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p - lr  # here
    return (p,)


def scalar_over_tensor(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = lr / p  # here
    return (p,)


def power(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p**2  # here
    return (p,)


def comparison(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p * (g > 0)  # here
    return (p,)


def index(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p[0]  # here
    return (p,)


def text(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p * len("2")  # here
    return (p,)


def missing_weight(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.lerp(p, g)  # type: ignore[call-overload]  # here
    return (p,)


def missing_tensor(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.addcmul(p, g)  # type: ignore[call-overload]  # here
    return (p,)


def scalar_for_tensor(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.maximum(p, lr)  # type: ignore[arg-type]  # here
    return (p,)


def tensor_for_scalar(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.add(p, g, alpha=g)  # type: ignore[call-overload]  # here
    return (p,)


def unknown_keyword(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.add(p, g, out=p)  # here
    return (p,)


def too_many_operands(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = torch.sub(p, g, lr)  # type: ignore[call-overload]  # here
    return (p,)


def square_root_of_scalar(p: Tensor, g: Tensor, *, lr: float) -> tuple[Tensor]:
    p = p * torch.sqrt(lr)  # type: ignore[arg-type]  # here
    return (p,)


def too_few_results(p: Tensor, g: Tensor, state: Tensor, *, lr: float) -> tuple[Tensor]:
    return (p,)  # here


def not_a_tuple(p: Tensor, g: Tensor, *, lr: float) -> Tensor:
    return p  # here


def number_as_result(p: Tensor, g: Tensor, state: Tensor, *, lr: float) -> tuple[Tensor, float]:
    return p, 0.0  # here


def none_as_result(p: Tensor, g: Tensor, state: Tensor, *, lr: float) -> tuple[Tensor, None]:
    return p, None  # here


def no_return(p: Tensor, g: Tensor, *, lr: float) -> None:  # here
    p = p + g


RULES = [
    loop,
    augmented,
    two_targets,
    unpacked,
    in_place,
    method,
    function,
    other_module,
    condition_on_tensor,
    condition_on_scalar,
    choice_on_tensor,
    unknown_name,
    scalar_minus_tensor,
    tensor_minus_scalar,
    scalar_over_tensor,
    power,
    comparison,
    index,
    text,
    missing_weight,
    missing_tensor,
    scalar_for_tensor,
    tensor_for_scalar,
    unknown_keyword,
    too_many_operands,
    square_root_of_scalar,
    too_few_results,
    not_a_tuple,
    number_as_result,
    none_as_result,
    no_return,
]


def program(rule: Callable[..., Any], **flags: object) -> Program:
    parameters = inspect.signature(rule).parameters.values()
    outputs = [x.name for x in parameters if x.kind is not x.KEYWORD_ONLY and x.name != "g"]
    return translate(rule.__name__, [Stage(rule, tuple(outputs))], outputs[1:], flags)


def line_marked(text: Callable[..., Any]) -> int:
    lines, start = inspect.getsourcelines(text)
    return start + next(i for i, line in enumerate(lines) if "# here" in line)


@pytest.mark.parametrize("rule", RULES)
def test_rules_outside_the_vocabulary(rule: Callable[..., Any]) -> None:
    with pytest.raises(RuleError) as refused:
        program(rule)
    assert isinstance(refused.value, SyntaxError)
    assert (refused.value.filename, refused.value.lineno) == (__file__, line_marked(rule))
    assert f"({__file__}, line {line_marked(rule)})" in str(refused.value)
    assert ALLOWED_IN_RULES in str(refused.value)


def scalar_loop(*, lr: float) -> dict[str, float]:
    while lr > 1:  # here
        lr = lr / 2
    return dict(lr2=lr)


def scalar_condition(*, lr: float) -> dict[str, float]:
    if lr > 1:  # here
        lr = 1
    return dict(lr2=lr)


def scalar_choice(*, lr: float) -> dict[str, float]:
    return dict(lr2=1 if lr > 1 else lr)  # here


def scalar_function(*, lr: Tensor) -> dict[str, Tensor]:
    return dict(lr2=torch.exp(lr))  # here


def scalar_builtin(*, lr: float) -> dict[str, float]:
    return dict(lr2=max(lr, 1))  # here


def scalar_unknown_name(*, lr: float) -> dict[str, float]:
    return dict(lr2=lr * step)  # type: ignore[name-defined] # noqa: F821 # here


def scalar_returning_a_number(*, lr: float) -> float:
    return lr  # here


def scalar_text(*, lr: float) -> dict[str, Any]:
    return dict(lr2="lr")  # here


def scalar_method(*, lr: Tensor) -> dict[str, Any]:
    return dict(lr2=lr.item())  # here


def scalar_membership(*, lr: Any) -> dict[str, Any]:
    return dict(lr2=torch.where(lr in lr, lr, 1))  # type: ignore[call-overload] # here


def scalar_identity(*, lr: Any) -> dict[str, Any]:
    return dict(lr2=torch.where(lr is lr, lr, 1))  # type: ignore[call-overload] # here


def scalar_without_return(*, lr: float) -> None:  # here
    lr = lr / 2


def scalar_unpacking(*, lr: Any) -> dict[str, Any]:
    return dict(**lr)  # here


SCALARS = [
    scalar_membership,
    scalar_identity,
    scalar_without_return,
    scalar_unpacking,
    scalar_loop,
    scalar_condition,
    scalar_choice,
    scalar_function,
    scalar_builtin,
    scalar_unknown_name,
    scalar_returning_a_number,
    scalar_text,
    scalar_method,
]


@pytest.mark.parametrize("scalars", SCALARS)
def test_scalars_outside_the_vocabulary(scalars: FunctionType) -> None:
    with pytest.raises(RuleError) as refused:
        check_scalars(scalars)
    assert (refused.value.filename, refused.value.lineno) == (__file__, line_marked(scalars))
    assert ALLOWED_IN_SCALARS in str(refused.value)


def flagged(
    p: Tensor, g: Tensor, state: Tensor | None, *, lr: float, quick: bool, wide: bool
) -> tuple[Tensor, Tensor | None]:
    if quick and not wide:
        return p + g, state
    if state is not None and (wide or quick):
        state = state * lr
    p = p - g if wide else p
    return p, state


@pytest.mark.parametrize(
    ("quick", "wide", "present", "operations"),
    [
        (True, False, True, ["add"]),
        (True, True, True, ["mul", "sub"]),
        (False, True, True, ["mul", "sub"]),
        (False, True, False, ["sub"]),
        (False, False, True, []),
    ],
)
def test_flags_and_absent_states_are_resolved(
    quick: bool, wide: bool, present: bool, operations: list[str]
) -> None:
    stage = Stage(flagged, ("p", "state"))
    result = translate("flagged", [stage], ["state"] if present else [], {"quick": quick, "wide": wide})
    assert [op.operation.name for op in result.ops] == operations
    assert set(result.outputs) == ({"p", "state"} if present else {"p"})


def repeated(p: Tensor, g: Tensor, *, lr: float, beta: float) -> tuple[Tensor]:
    p = p * (1 - lr * beta)
    p = torch.add(p, g, alpha=-(lr / 2))
    p = p * (1 - lr * beta) * lr
    return (p,)


def test_expressions_over_scalars_are_taken_out_once() -> None:
    assert list(program(repeated).scalars.values()) == ["1 - lr * beta", "-(lr / 2)", "lr"]


def numbered_names(
    p: Tensor, g: Tensor, m: Tensor, m_1: Tensor, *, s_1: float
) -> tuple[Tensor, Tensor, Tensor]:
    m = m * (s_1 * 2)
    m_1 = m_1 + m
    p = p * s_1 + m_1
    return p, m, m_1


def test_names_of_a_rule_do_not_collide_with_generated_ones() -> None:
    result = program(numbered_names)
    targets = [op.target for op in result.ops]
    assert len({*targets, *result.inputs}) == len(targets) + len(result.inputs)
    assert result.scalars["s_1"] == "s_1"
    assert set(result.scalars.values()) == {"s_1", "s_1 * 2"}


class _Misspelled(SGD):
    @staticmethod
    def rule(  # type: ignore[override]
        p: Tensor,
        g: Tensor,
        momentum_buffer: Tensor | None,
        *,
        lrr: float,  # here
    ) -> tuple[Tensor, Tensor | None]:
        return torch.add(p, g, alpha=-lrr), momentum_buffer


def test_a_parameter_that_nothing_gives_a_value_is_refused() -> None:
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    with pytest.raises(RuleError, match=r"`lrr`.*test_vocabulary.py, line \d+.*lr") as refused:
        _Misspelled([p]).step()
    assert refused.value.lineno == line_marked(_Misspelled.rule)
    assert torch.equal(p, torch.ones(2))
