"""The inputs of torch's own tests of optimizers: right ones train as with torch's, wrong ones are refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.elementwise import Elementwise
from tests.optim.any_algorithm import SHARED, takes_dimension
from tests.optim.oracle import Options, ran, theirs_of

STEPS = 4
# A refusal of torch that is none of ours, as docs/deviations.md says.
ACCEPTED = "as a Tensor is not supported for capturable=False and foreach=True"
# Ours say what is allowed, of a pair for the number that is wrong; of two mistakes they name the other.
OUR_WORDS = (
    r"Invalid eta value at index 0: 1.0 \(etas\[0\] must be > 0 and < 1\)",
    r"Invalid d value: 0.0 \(d must be >= 1\)",
    r"Invalid beta2_decay value: 0.8 \(beta2_decay must be <= 0\)",
    r"LBFGS doesn't support per-parameter options: lr is 0.01 in parameter group 0 and 1 in group 1",
)
TOLERANCES = {
    # It turns matrices in bfloat16, where another order of operations is another rounding, of 2^-8.
    "Muon": (2**-6, 1e-4),
    # Each iteration is from the differences of gradients that are ever more alike.
    "LBFGS": (1e-6, 1e-6),
}
EXACT = (1e-9, 1e-11)

names = pytest.mark.parametrize("name", SHARED)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Step counts in float64 too: torch's arithmetic on them is then as exact as ours."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@cache
def database() -> dict[str, Any]:
    """torch's descriptions of its optimizers, by name; importing them takes seconds."""
    from torch.testing._internal.common_optimizers import optim_db

    # The import also forbids this whole process to set flags of backends.
    setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)
    return {info.name: info for info in optim_db}


def switched(name: str, options: Options) -> list[Options]:
    """Options beside each of torch's switches for an execution that it has on a CPU."""
    flags = [flag for flag in ("foreach", "fused") if flag in database()[name].supported_impls]
    return [options, *(options | {other: other == flag for other in flags} for flag in (*flags, None))]


class Trained:
    """A small network that an optimizer trains, those of its parameters that torch's algorithm takes.

    Args:
        sparse: give the gradients as sparse tensors.
    """

    def __init__(self, cls: Any, network: nn.Module, options: Options, sparse: bool) -> None:
        self.network = copy.deepcopy(network)
        self.sparse = sparse
        self.params = [p for p in self.network.parameters() if takes_dimension(cls.__name__, p.dim())]
        self.optimizer = cls(self.params, **copy.deepcopy(options))
        self.losses: list[float] = []

    def step(self, inputs: Tensor) -> None:
        self.losses.append(self.optimizer.step(lambda: self._loss(inputs)).item())

    def _loss(self, inputs: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss: Tensor = (self.network(inputs) - 1).square().mean()
        loss.backward()
        if self.sparse:
            for p in self.params:
                assert p.grad is not None
                p.grad = p.grad.to_sparse()
        return loss


def network(generator: torch.Generator) -> nn.Module:
    made = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    for p in made.parameters():
        nn.init.normal_(p, generator=generator)
    return made


def compare(name: str, options: Options, sparse: bool, generator: torch.Generator) -> None:
    start = network(generator)
    if name == "LBFGS":
        # The loss is not convex: in many iterations, a difference in the last digit becomes one in all.
        options = {"max_iter": 5} | options
    ours, theirs = (Trained(cls, start, options, sparse) for cls in (ALGORITHMS[name], theirs_of(name)))
    rtol, atol = TOLERANCES.get(name, EXACT)
    inputs = torch.randn(5, 4, generator=generator)
    for _ in range(STEPS):
        ours.step(inputs)
        theirs.step(inputs)
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=rtol, atol=atol, msg=str(options))
        for x, y in zip(ours.params, theirs.params, strict=True):
            torch.testing.assert_close(x, y, rtol=rtol, atol=atol, msg=f"{name} {options} {sparse}: {x} {y}")
    moved = [not torch.equal(x, y) for x, y in zip(ours.params, start.parameters(), strict=False)]
    assert any(moved), options
    if issubclass(ALGORITHMS[name], Elementwise) and not sparse:
        switches = [options[flag] for flag in ("foreach", "fused") if flag in options]
        assert ran(ours.optimizer) == {"foreach" if any(switches) or not switches else "for_loop": STEPS}


@pytest.mark.filterwarnings("ignore:.*no fused execution")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@names
def test_inputs_train_as_with_torch(name: str, generator: torch.Generator) -> None:
    info = database()[name]
    given = [x.kwargs for x in info.optim_inputs_func(device="cpu")]
    assert len(given) > 3
    for options in given:
        for all_options in switched(name, options):
            compare(name, all_options, info.only_supports_sparse_grads, generator)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@names
def test_sparse_gradients_train_as_with_torch(name: str, generator: torch.Generator) -> None:
    info = database()[name]
    if not (info.supports_sparse or info.only_supports_sparse_grads):
        pytest.skip(f"torch's {name} takes no sparse gradients")
    options, _ = info.metadata_for_sparse
    compare(name, options, True, generator)


@names
def test_wrong_inputs_are_refused_as_by_torch(name: str) -> None:
    """A warning is an error here, so that both are refusals."""
    given = database()[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(given) >= 6
    for wrong in given:
        what = wrong.optimizer_error_input
        params = [nn.Parameter(torch.randn(2, 3))] if what.params is None else what.params
        if wrong.error_regex.endswith(ACCEPTED):
            continue
        with pytest.raises(wrong.error_type, match="|".join((wrong.error_regex, *OUR_WORDS))):
            # Some are refused by the constructor, others by the first step.
            ALGORITHMS[name](params, **what.kwargs).step()


def test_torch_describes_every_algorithm() -> None:
    assert SHARED
    assert set(SHARED) <= set(database())
