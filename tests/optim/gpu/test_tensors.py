"""Which tensors kernels reach by their address: of all sizes, strides and alignments, and none besides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.gpu.device import (
    DEVICE,
    ON_GPU,
    assert_close,
    drawn,
    follow,
    made,
    names,
    reference,
    some_steps,
    step,
)
from tests.optim.oracle import params_of, ran

pytestmark = ON_GPU

STEPS = 3
SIZES: list[tuple[int, ...]] = [(1,), (15,), (17,), (1023,), (1025,), (2048,), (), (0,), (3, 0)]
MARK = 77.0


class Tagged(Tensor):
    """A class of somebody else's."""


class Unaligned:
    """A view that begins in the middle of 16 bytes, with an element before and one behind it to watch."""

    def __init__(self, values: Tensor) -> None:
        self.buffer = torch.full((values.numel() + 2,), MARK, dtype=values.dtype, device=values.device)
        self.view = self.buffer[1:-1].view(values.shape).copy_(values)
        assert self.view.data_ptr() % 16

    def is_kept_to(self) -> bool:
        """Whether the elements around it are what they were."""
        return bool((self.buffer[[0, -1]] == MARK).all())


@names
def test_every_size(name: str, generator: torch.Generator) -> None:
    values = drawn(generator, shapes=SIZES)
    ours, expected = made(name, values), reference(name, values)
    for count in range(STEPS):
        step([ours, expected], drawn(generator, shapes=SIZES))
        assert_close(ours, expected, some_steps(name, torch.float32), f"step {count}:")
        follow(ours, expected)
    assert ran(ours) == {"fused": STEPS}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("which", ["parameters", "gradients", "states", "all but the first parameter"])
def test_views_into_larger_buffers(which: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Each alone; what is aligned beside them is a launch of its own."""
    shapes = [x for x in SIZES if 0 not in x]
    values, aligned = drawn(generator, dtype, shapes), made("Adam", drawn(generator, dtype, shapes))
    views: list[Unaligned] = []

    def unaligned(x: Tensor) -> Tensor:
        views.append(Unaligned(x))
        return views[-1].view

    ours, expected = aligned, reference("Adam", values)
    moved = [unaligned(x) if which == "parameters" else x.clone() for x in values]
    if which.startswith("all"):
        moved = [moved[0], *map(unaligned, values[1:])]
    with torch.no_grad():
        for p, x in zip(params_of(ours), moved, strict=True):
            p.data = x
    for count in range(STEPS):
        for p, q, g in zip(
            params_of(ours), params_of(expected), drawn(generator, dtype, shapes), strict=True
        ):
            p.grad = unaligned(g) if which == "gradients" else g
            q.grad = g.to("cpu", torch.float64)
        ours.step()
        expected.step()
        # bfloat16 is rounded once a step.
        tolerance = (2**-8, 1e-5) if dtype == torch.bfloat16 else some_steps("Adam", dtype)
        assert_close(ours, expected, tolerance, f"step {count}:")
        follow(ours, expected)
        if which == "states" and count == 0:
            for state in ours.state.values():
                state["exp_avg"] = unaligned(state["exp_avg"])
    assert views
    assert all(view.is_kept_to() for view in views)
    assert ran(ours) == {"fused": 2 * STEPS if which.startswith("all") else STEPS}


@names
def test_other_strides(name: str, generator: torch.Generator) -> None:
    """Of parameters, and of gradients and loaded states beside them."""
    images, matrix = drawn(generator, shapes=[(4, 3, 5, 5), (6, 33)])
    values = [images.to(memory_format=torch.channels_last), matrix.t()]
    ours, expected = made(name, values), reference(name, values)
    for count in range(STEPS):
        for i, (p, q) in enumerate(zip(params_of(ours), params_of(expected), strict=True)):
            (g,) = drawn(generator, shapes=[tuple(p.shape)])
            assert p.stride() != g.stride()
            p.grad = g if (count + i) % 2 else torch.empty_like(p).copy_(g)
            q.grad = g.double().cpu()
        ours.step()
        expected.step()
        assert_close(ours, expected, some_steps(name, torch.float32), f"step {count}:")
        for p in params_of(ours):
            for key, x in ours.state.get(p, {}).items():
                assert x.dim() == 0 or x.stride() == p.stride(), key
                if x.dim() and count == 0:
                    ours.state[p][key] = x.contiguous()
        follow(ours, expected)
    assert ran(ours) == {"fused": STEPS}


@names
def test_what_never_takes_the_pointer_path(name: str, generator: torch.Generator) -> None:
    """Holes, overlaps and classes of somebody else's, each beside a parameter that takes it."""
    plain, wide, long = drawn(generator, shapes=[(4, 3), (4, 6), (8,)])
    odd: dict[str, Tensor] = {
        "holes": wide.clone()[:, ::2],
        "overlaps": torch.zeros_like(long).as_strided((3, 4), (2, 1)),
        "class": nn.Parameter(plain.clone().as_subclass(Tagged)),
    }
    for kind, p in odd.items():
        (g,) = drawn(generator, shapes=[tuple(p.shape)])
        g = torch.ones_like(g) if kind == "overlaps" else g
        both = made(name, [plain, p])
        alone = made(name, [p])
        both.param_groups[0]["params"][1] = p.detach().requires_grad_() if kind != "class" else p
        alone.param_groups[0]["params"][0] = p.detach().requires_grad_() if kind != "class" else p
        for optimizer in (alone, both):
            for q in params_of(optimizer):
                q.grad = g.reshape(q.shape).clone() if q.shape == g.shape else torch.ones_like(q)
            optimizer.step()
        assert "fused" not in ran(alone), kind
        assert ran(both)["fused"] == 1, kind
        assert len(ran(both)) == 2, kind


def test_more_elements_than_32_bits_count(generator: torch.Generator) -> None:
    """At both ends and around 2^31 every element is looked at, between them all are alike."""
    if DEVICE == "cuda" and torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB")
    n, near = 2_200_000_000 if DEVICE == "cuda" else 220_000, 4096
    middle = min(2**31, n // 2)
    buffer = torch.full((n + near,), MARK, dtype=torch.bfloat16, device=DEVICE)
    gradient = torch.full((n,), 0.5, dtype=torch.bfloat16, device=DEVICE)
    p = nn.Parameter(buffer[:n])
    places = [slice(near), slice(middle - near, middle + near), slice(n - near, n)]
    expected = []
    with torch.no_grad():
        p.fill_(1.0)
        for place in places:
            x, g = (drawn(generator, torch.bfloat16, [tuple(p[place].shape)])[0] for _ in range(2))
            p[place], gradient[place] = x, g
            expected.append((x.float() - 0.5 * g.float()).bfloat16())
    ours: Any = made("SGD", [torch.ones(1)], lr=0.5)
    ours.param_groups[0]["params"][0] = p
    # Not reached; the norm is of everything.
    ours.clip_gradients(max_norm=1e9)
    p.grad = gradient
    ours.step()
    assert ran(ours) == {"fused": 1}
    with torch.no_grad():
        for place, values in zip(places, expected, strict=True):
            torch.testing.assert_close(p[place], values, rtol=2**-7, atol=0)
            p[place] = 0.75
        # In portions: the comparison makes tensors of its own.
        assert all(bool((x == 0.75).all()) for x in p.split(2**28))
        assert bool((buffer[n:] == MARK).all())
    by_hand = sum(float(g.float().square().sum(dtype=torch.float64)) for g in gradient.split(2**28)) ** 0.5
    assert float(ours.grad_norm) == pytest.approx(by_hand, rel=1e-4)
