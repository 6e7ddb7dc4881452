"""Muon: orthogonal updates, which parameters it takes, and where torch's goes wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.optimizer import Optimizer
from optim_cli.optim.per_tensor.orthogonal import orthogonal
from tests.optim.oracle import Options, difference, entries, give, pair, parameters, params_of, ran, theirs_of

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def muon(values: list[Tensor], **options: Any) -> Optimizer:
    made: Optimizer = ALGORITHMS["Muon"](parameters(values), **options)
    return made


def test_singular_values_become_one(generator: torch.Generator) -> None:
    """The iteration is made to be quick, not exact: near 1 means between 0.6 and 1.3."""
    matrices = torch.randn(3, 16, 40, generator=generator)
    turned = orthogonal(matrices.bfloat16(), COEFFICIENTS, 5, 1e-7).float()
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert ((torch.linalg.svdvals(turned) - 0.95).abs() < 0.35).all()
    # The same singular vectors, up to bfloat16 and to the spread of the values.
    along = (u.mT @ turned @ v.mT).diagonal(dim1=-2, dim2=-1)
    assert (along > 0.6).all()


@pytest.mark.parametrize("shape", [(8, 3), (3, 8)])
def test_a_transposed_matrix_is_updated_alike(shape: tuple[int, int], generator: torch.Generator) -> None:
    value, g = torch.randn(2, *shape, generator=generator)
    # match_rms_adamw does not tell rows from columns.
    ours = muon([value, value.t()], adjust_lr_fn="match_rms_adamw")
    give(params_of(ours), [g, g.t()])
    ours.step()
    first, second = params_of(ours)
    # From the right instead of from the left: sums in another order, in bfloat16.
    torch.testing.assert_close(first, second.t(), rtol=0, atol=2**-6 * 1e-3)
    assert ran(ours) == {"foreach": 2}


@pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_bfloat16_momentum_is_not_overwritten(
    nesterov: bool, implementation: str, generator: torch.Generator
) -> None:
    """torch 2.13 normalises it in place without nesterov; its run in float32 is the oracle."""
    values = [torch.randn(shape, generator=generator).bfloat16() for shape in ((4, 3), (3, 4), (4, 4))]
    ours = muon(values, nesterov=nesterov, lr=0.125, implementation=implementation)
    theirs = theirs_of("Muon")(parameters([x.float() for x in values]), nesterov=nesterov, lr=0.125)
    for _ in range(3):
        gradients = [torch.randn(x.shape, generator=generator).bfloat16() for x in values]
        give(params_of(ours), gradients)
        give(params_of(theirs), [g.float() for g in gradients])
        ours.step()
        theirs.step()
        for x, y in zip(entries(ours)["momentum_buffer"], entries(theirs)["momentum_buffer"], strict=True):
            torch.testing.assert_close(x.float(), y, rtol=2**-6, atol=2**-8)
        # Directions that differ by a rounding are turned into matrices that differ by some.
        for x, y in zip(params_of(ours), params_of(theirs), strict=True):
            torch.testing.assert_close(x.float(), y, rtol=2**-5, atol=2**-5)
    assert set(ran(ours)) == {implementation}


def test_parameters_that_are_no_matrices_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Muon only supports 2D parameters") as refused:
        ALGORITHMS["Muon"](model.named_parameters())
    for told in ("0.weight [2, 1, 3, 3]", "0.bias [2]", "1.bias [2]", "bias=False", "flatten=True"):
        assert told in str(refused.value)
    assert "1.weight" not in str(refused.value)
    with pytest.raises(ValueError, match=r"are parameter 1 \[2\]") as refused:
        muon([torch.ones(2, 2), torch.ones(2)])
    assert "flatten" not in str(refused.value)
    with pytest.raises(ValueError, match=r"parameter 7 \[1\] and 12 more"):
        muon([torch.ones(1)] * 20)


def test_a_refused_group_is_not_added() -> None:
    ours = muon([torch.ones(2, 2)])
    with pytest.raises(ValueError, match="2D"):
        ours.add_param_group({"params": parameters([torch.ones(2)])})
    assert len(ours.param_groups) == 1


@pytest.mark.parametrize("implementation", ["for_loop", "foreach"])
def test_flatten_takes_images_as_matrices(implementation: str, generator: torch.Generator) -> None:
    """A tensor (a, b, c, d) is the matrix (a, b*c*d); an image in channels-last order too."""
    images = [torch.randn(shape, generator=generator) for shape in ((4, 2, 3, 3), (40, 2, 3), (3, 5))]
    images[0] = images[0].to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"\[4, 2, 3, 3\].*flatten=True"):
        muon(images)
    ours = muon(images, flatten=True, implementation=implementation)
    flat = muon([x.reshape(len(x), -1) for x in images], implementation=implementation)
    for _ in range(2):
        gradients = [torch.randn(x.shape, generator=generator) for x in images]
        give(params_of(ours), gradients)
        give(params_of(flat), [g.flatten(1) for g in gradients])
        ours.step()
        flat.step()
    for x, y in zip(params_of(ours), params_of(flat), strict=True):
        assert torch.equal(x.flatten(1), y)
    assert params_of(ours)[0].is_contiguous(memory_format=torch.channels_last)
    assert set(ran(ours)) == {implementation}
    loaded = muon(images, flatten=True)
    loaded.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert loaded.param_groups[0]["flatten"] is True


INVALID: list[Options] = [
    {"lr": -1.0},
    {"momentum": -0.1},
    {"weight_decay": -0.1},
    {"adjust_lr_fn": "arbitrary"},
    {"ns_coefficients": (1.0, 2.0)},
    {"ns_steps": 100},
]


@pytest.mark.parametrize("options", INVALID, ids=str)
def test_invalid_options(options: Options) -> None:
    """Some of them torch refuses at the first step only."""
    params = [nn.Parameter(torch.ones(2, 2))]
    give(params, [torch.ones(2, 2)])
    with pytest.raises(ValueError, match=r"should be|must be|not supported|exactly 3"):
        theirs_of("Muon")(params, **options).step()
    with pytest.raises(ValueError, match=r"must be .*[<>]=? \d|must be 3 numbers|original, match_rms_adamw"):
        ALGORITHMS["Muon"](params, **options)


def test_ns_coefficients_may_come_as_a_list(generator: torch.Generator) -> None:
    """As YAML and JSON give them; torch stores what it gets."""
    values = [torch.randn(3, 4, generator=generator)]
    ours, theirs = (
        muon(values, ns_coefficients=[3.0, -4.0, 2.0]),
        muon(values, ns_coefficients=(3.0, -4.0, 2.0)),
    )
    for optimizer in (ours, theirs):
        give(params_of(optimizer), values)
        optimizer.step()
    assert difference(entries(ours), entries(theirs), (0, 0)) is None


def test_a_matrix_without_gradient_is_not_in_the_batch(generator: torch.Generator) -> None:
    values = [torch.randn(3, 4, generator=generator) for _ in range(3)]
    ours, theirs = pair("Muon", values)
    for optimizer in (ours, theirs):
        give(params_of(optimizer), [values[1], None, torch.zeros(3, 4)])
        optimizer.step()
    found = difference(entries(ours), entries(theirs), (2**-7, 2**-7))
    assert found is None, found
    # A gradient of zeros has no direction; only the weight decays.
    assert torch.allclose(params_of(ours)[2], values[2] * (1 - 1e-3 * 0.1))
