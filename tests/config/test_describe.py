"""What is allowed, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt

from optim_cli.config.describe import PACKAGE, describe, element
from optim_cli.config.mistakes import Mistake, first_lines, shortened, unknown_choice, unknown_key

WORDS: list[tuple[Any, str]] = [
    (int, "an integer"),
    (float, "a number"),
    (bool, "true or false"),
    (str, "a text"),
    (None, "another value"),
    (Any, "another value"),
    (int | None, "an integer or null"),
    (Annotated[int, Ge(0), Lt(5)], "an integer greater than or equal to 0 and less than 5"),
    (Annotated[float, Gt(0), Le(1)] | None, "a number greater than 0 and less than or equal to 1 or null"),
    (Literal["a", 2], "'a' or 2"),
    (tuple[float, float], "a list of 2, each a number"),
    (tuple[int, str], "a list of 2, an integer; a text"),
    (tuple[int, ...], "a list, each an integer"),
    (list[Annotated[str, PACKAGE]], "a list, each the name of a package"),
    (Sequence[Annotated[int, Ge(1)]], "a list, each an integer greater than or equal to 1"),
    (Mapping[str, int], "a mapping"),
    (torch.nn.Module | None, "a mapping whose _target_ makes a Module or null"),
    (float | torch.Tensor, "a number"),
]


@pytest.mark.parametrize(("hint", "words"), WORDS, ids=[x[1] for x in WORDS])
def test_words(hint: Any, words: str) -> None:
    assert describe(hint) == words


def test_elements() -> None:
    assert element(tuple[int, str], 1) is str
    assert element(tuple[int, str], 7) is str
    assert element(Annotated[Sequence[int], Ge(0)], 3) is int
    assert element(Sequence[int] | None, 0) is int
    assert element(int, 0) is int


def test_lines() -> None:
    assert str(Mistake("a.b", "is wrong", "command line: a.b=1")) == "a.b: is wrong [command line: a.b=1]"
    assert str(Mistake("", "is wrong")) == "'': is wrong"
    assert len(str(Mistake("k" * 9999, "w" * 9999 + "\n" + "v" * 9999, "o" * 9999))) < 2600
    assert shortened("abcdef", 4) == "ab ... ef"
    assert first_lines(ValueError("one\n\n  full_key: x\ntwo\nthree")) == "one; two"
    assert first_lines(ValueError()) == "ValueError"


def test_suggestions() -> None:
    known = ("lr", "betas")
    assert "did you mean o.betas? (known: lr, betas)" in unknown_key("o.beta", known).what
    assert "did you mean x.lr or y.lr?" in unknown_key("lr", ("a",), ["x.lr", "y.lr"]).what
    assert "did you mean optimizer.lr?" in unknown_key("optimzer.lrr", ("a",), ["optimizer.lr"]).what
    assert "did you mean" not in unknown_key("o.zzzz", known, ["o.lr", "o.betas", "o"]).what
    assert "(known: none)" in unknown_key("a", ()).what
    assert unknown_choice("g", 3, ["3"]).what == "3 is no choice; put it in quotes to mean 3 (choices: 3)"
    assert unknown_choice("g", None, []).what == "null is no choice (choices: none)"
