"""What torch refuses is refused with the same type of exception and the same words at the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import NAMES, Options, fresh, give, pair, params_of, ran, theirs_of

TWO = torch.ones(2)

# Of torch's constructors: (algorithms, options).
INVALID: list[tuple[str, Options]] = [
    ("SGD Adam AdamW", {"lr": -1.0}),
    ("SGD Adam AdamW", {"lr": -torch.ones(())}),
    ("Adam AdamW", {"lr": torch.nan}),
    ("SGD Adam AdamW", {"lr": TWO}),
    ("SGD Adam AdamW", {"weight_decay": -0.1}),
    ("SGD", {"momentum": -0.1}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("Adam AdamW", {"eps": -1e-8}),
    ("Adam AdamW", {"eps": torch.nan}),
    ("Adam AdamW", {"betas": (1.0, 0.999)}),
    ("Adam AdamW", {"betas": (-0.1, 0.999)}),
    ("Adam AdamW", {"betas": (0.9, 1.0)}),
    ("Adam AdamW", {"betas": (0.9, -0.1)}),
    ("Adam AdamW", {"betas": (torch.tensor(0.9), 0.999)}),
    ("Adam AdamW", {"betas": (0.9, torch.tensor(0.999))}),
    ("SGD Adam AdamW", {"fused": True, "foreach": True}),
    ("SGD Adam AdamW", {"fused": True, "differentiable": True}),
    ("SGD Adam AdamW", {"lr": None}),
    ("SGD Adam AdamW", {"lr": "0.1"}),
    ("SGD Adam AdamW", {"learning_rate": 0.1}),
]
CASES = [(name, options) for known, options in INVALID for name in known.split()]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_invalid_options(name: str, options: Options) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        theirs_of(name)([nn.Parameter(TWO)], **fresh(options))
    with pytest.raises(type(theirs.value)) as ours:
        ALGORITHMS[name]([nn.Parameter(TWO)], **fresh(options))
    assert type(ours.value) is type(theirs.value)
    # What Python itself says of a wrong type depends on the order of a comparison's sides.
    assert isinstance(ours.value, TypeError) or str(ours.value).startswith(str(theirs.value))


@pytest.mark.parametrize(
    "betas", [(torch.tensor([0.9, 0.9]), torch.tensor(0.999)), (torch.tensor(0.9), TWO / 2)]
)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_tensors_of_betas_have_one_element(name: str, betas: Any) -> None:
    """torch compares them before it counts, so that its own message never appears."""
    for cls in (theirs_of(name), ALGORITHMS[name]):
        with pytest.raises((ValueError, RuntimeError)):
            cls([nn.Parameter(TWO)], betas=betas)
    with pytest.raises(ValueError, match=r"Tensor betas\[[01]\] must be 1-element, got 2 elements"):
        ALGORITHMS[name]([nn.Parameter(TWO)], betas=betas)


@pytest.mark.parametrize("betas", [(0.9,), (0.9, 0.99, 0.999), 0.9])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_betas_are_two(name: str, betas: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="betas"):
        ALGORITHMS[name]([nn.Parameter(TWO)], betas=betas)


def test_messages_say_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"Invalid learning rate: -1.0 \(lr must be >= 0\)"):
        ALGORITHMS["SGD"]([TWO], lr=-1.0)
    with pytest.raises(ValueError, match=r"at index 1: 1.0 \(betas\[1\] must be >= 0 and < 1\)"):
        ALGORITHMS["Adam"]([TWO], betas=(0.9, 1.0))


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_outside_every_range(name: str) -> None:
    """torch's SGD lets NaN pass."""
    for option, value in ALGORITHMS[name]([TWO]).defaults.items():
        if isinstance(value, float) or option in ("weight_decay", "momentum"):
            with pytest.raises(ValueError, match=f"Invalid .*nan .{option} must be"):
                ALGORITHMS[name]([TWO], **{option: torch.nan})


PARAMS: dict[str, Any] = {
    "no parameters": lambda: [],
    "a tensor itself": lambda: torch.ones(2),
    "not tensors": lambda: [1.0],
    "not a leaf": lambda: [torch.ones(2, requires_grad=True) * 2],
    "twice in a group": lambda: [p := nn.Parameter(torch.ones(2)), p],
    "in two groups": lambda: [{"params": p} for p in [nn.Parameter(torch.ones(2))] * 2],
    "a set": lambda: [{"params": {nn.Parameter(torch.ones(2))}}],
    "partly named": lambda: [("p", nn.Parameter(torch.ones(2))), nn.Parameter(torch.ones(2))],
}


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
@pytest.mark.parametrize("what", PARAMS)
@pytest.mark.parametrize("name", NAMES)
def test_invalid_parameters(name: str, what: str) -> None:
    refusals: list[tuple[type[Exception], str] | None] = []
    for cls in (theirs_of(name), ALGORITHMS[name]):
        try:
            cls(PARAMS[what]())
            refusals.append(None)
        except Exception as refusal:
            refusals.append((type(refusal), str(refusal)))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_sparse_gradients_are_refused_as_by_torch(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(3), torch.ones(3)])
    for optimizer in (ours, theirs):
        for p, g in zip(params_of(optimizer), (torch.ones(3), torch.ones(3).to_sparse()), strict=True):
            p.grad = g
    with pytest.raises(RuntimeError) as refused:
        theirs.step()
    # torch's AdamW calls itself Adam here.
    wording = str(refused.value).partition(" ")[2].partition(",")[0]
    with pytest.raises(RuntimeError, match=f"^{name} {wording}.*SparseAdam"):
        ours.step()
    # Nothing has moved: a refused step is no step.
    assert all(torch.equal(p, torch.ones(3)) for p in params_of(ours))
    assert ran(ours) == {}


@pytest.mark.parametrize("name", NAMES)
def test_state_of_other_parameters_is_refused_as_by_torch(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(2)])
    two = ALGORITHMS[name]([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))])
    give(params_of(two), [torch.ones(2)] * 2)
    two.step()
    assert ran(two) == {"foreach": 1}
    messages = []
    for optimizer in (ours, theirs):
        with pytest.raises(ValueError, match="loaded state dict") as refused:
            optimizer.load_state_dict(two.state_dict())
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
