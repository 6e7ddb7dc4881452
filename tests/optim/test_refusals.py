"""What torch refuses is refused with the same type of exception and the same words at the start."""

from __future__ import annotations

from typing import Annotated, Any, get_origin, get_type_hints

import pytest
import torch
from torch import nn

from optim_cli.optim import ALGORITHMS
from tests.optim.oracle import NAMES, Options, fresh, give, pair, params_of, ran, takes, theirs_of

TWO = torch.ones(2)

# What constructors of torch refuse that have these options.
INVALID: list[Options] = [
    {"lr": -1.0},
    {"lr": -torch.ones(())},
    {"lr": torch.nan},
    {"lr": TWO},
    {"weight_decay": -0.1},
    {"momentum": -0.1},
    {"nesterov": True},
    {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    {"eps": -1e-8},
    {"eps": torch.nan},
    {"betas": (1.0, 0.999)},
    {"betas": (-0.1, 0.999)},
    {"betas": (0.9, 1.0)},
    {"betas": (0.9, -0.1)},
    {"betas": (torch.tensor(0.9), 0.999)},
    {"betas": (0.9, torch.tensor(0.999))},
    {"rho": -0.1},
    {"rho": 1.1},
    {"alpha": -0.1},
    {"momentum_decay": -0.1},
    {"lr_decay": -0.1},
    {"initial_accumulator_value": -0.1},
    {"etas": (0.0, 1.2)},
    {"etas": (0.5, 1.0)},
    {"etas": (1.5, 1.2)},
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
    {"lr": None},
    {"lr": "0.1"},
    {"learning_rate": 0.1},
]


def refusal(cls: Any, options: Options) -> Exception | None:
    """What a constructor says to options."""
    try:
        cls([nn.Parameter(TWO)], **fresh(options))
    except Exception as refused:
        return refused
    return None


CASES = [
    (name, options)
    for name in NAMES
    for options in INVALID
    if all(takes(name, option) for option in options) or "learning_rate" in options
    if refusal(theirs_of(name), options) is not None
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_invalid_options(name: str, options: Options) -> None:
    theirs, ours = (refusal(cls, options) for cls in (theirs_of(name), ALGORITHMS[name]))
    assert type(ours) is type(theirs)
    # What Python itself says of a wrong type depends on the order of a comparison's sides.
    assert isinstance(ours, TypeError) or str(ours).startswith(said(theirs))


def said(refused: Exception | None) -> str:
    """torch's words: of a pair that it shows whole, ours shows the number that is wrong."""
    text = str(refused)
    return "Invalid eta value" if text.startswith("Invalid eta values") else text


def test_invalid_options_are_many() -> None:
    assert len(CASES) > 8 * len(NAMES)
    assert {option for _, options in CASES for option in options} >= {"lr", "betas", "eps", "rho", "fused"}


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
    """Some of torch's constructors let NaN pass."""
    hints = get_type_hints(ALGORITHMS[name].__init__, include_extras=True)
    ranged = [option for option, hint in hints.items() if get_origin(hint) is Annotated]
    assert "lr" in ranged
    for option in ranged:
        if takes(name, option):
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


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_are_refused_as_by_torch(name: str) -> None:
    ours, theirs = pair(name, [torch.ones(3), torch.ones(3)])
    for optimizer in (ours, theirs):
        for p, g in zip(params_of(optimizer), (torch.ones(3), torch.ones(3).to_sparse()), strict=True):
            p.grad = g
    try:
        theirs.step()
        pytest.skip(f"torch's {name} accepts them")
    except RuntimeError as refused:
        # torch's AdamW calls itself Adam here.
        wording = str(refused).partition(" ")[2].partition(",")[0]
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
