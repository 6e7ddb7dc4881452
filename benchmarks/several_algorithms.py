"""Muon of the matrices and AdamW of the rest as one optimizer, over torch's two: time and memory of a step.

    python -m benchmarks.several_algorithms --device cuda

Shapes of GPT-2 124M in float32; Muon has the matrices of its blocks, AdamW the embeddings, norms and biases.
Ours is a MultiOptimizer; beside it torch.optim.Muon, then torch.optim.AdamW(fused=True). A second row clips
by norm: ours within the step, torch's by clip_grad_norm_ before it. A CPU takes a smaller model:
`--device cpu --width 64 --layers 2`. Blocks of steps alternate between the two. Exit code 1 if our time over
torch's is above LIMIT, which is for CUDA.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import Runner, alternate, apart, describe, transformer_arguments
from benchmarks.shapes import gpt2
from optim_cli import optim

# Of time, ours over torch's, at the width and depth of GPT-2 124M.
LIMIT = 0.5
# Updates in bfloat16, summed in another order: of the way that torch's parameters went.
APART = 0.02
MAX_NORM = 1.0
EMBEDDINGS = 2  # the first shapes: of tokens, which is the head too, and of positions
MUON: dict[str, Any] = dict(lr=1e-3, adjust_lr_fn="match_rms_adamw")
ADAMW: dict[str, Any] = dict(lr=1e-3)


def shared_out(params: Sequence[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the blocks, and the rest."""
    matrices = [p for p in params[EMBEDDINGS:] if p.dim() == 2]
    return matrices, [*params[:EMBEDDINGS], *(p for p in params[EMBEDDINGS:] if p.dim() != 2)]


def ours(params: list[nn.Parameter], max_norm: float | None) -> optim.MultiOptimizer:
    """One optimizer of the two algorithms."""
    matrices, rest = shared_out(params)
    multi = optim.MultiOptimizer([optim.Muon(matrices, **MUON), optim.AdamW(rest, **ADAMW)])
    multi.clip_gradients(max_norm=max_norm)
    return multi


class Torchs:
    """torch's two, one after the other."""

    def __init__(self, params: list[nn.Parameter], max_norm: float | None) -> None:
        matrices, rest = shared_out(params)
        self.params, self.max_norm = params, max_norm
        self.optimizers: Sequence[Any] = (
            torch.optim.Muon(matrices, **MUON),
            torch.optim.AdamW(rest, fused=True, **ADAMW),
        )

    @property
    def state(self) -> dict[Tensor, Any]:
        """What both keep of each parameter."""
        return {p: held for optimizer in self.optimizers for p, held in optimizer.state.items()}

    def step(self) -> None:
        """Clip, then step."""
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.params, self.max_norm)
        for optimizer in self.optimizers:
            optimizer.step()


def launches_of(optimizer: optim.MultiOptimizer) -> str:
    """What a step has launched: kernels of the fused execution by kind, and executions that ran."""
    before = Counter(optimizer.launches), Counter(optimizer.executions)
    optimizer.step()
    launched, ran = optimizer.launches - before[0], optimizer.executions - before[1]
    return ", ".join(f"{count} {kind}" for kind, count in [*launched.items(), *ran.items()])


def measure(pool: Sequence[list[Tensor]], blocks: int, max_norm: float | None) -> float:
    """Print a row; our time over torch's.

    Args:
        pool: initial values, then gradients.
        blocks: of steps of each side.
        max_norm: limit of the norm of all gradients; None for no limit.
    """
    initial, *gradients = pool
    runners = [Runner(partial(make, max_norm=max_norm), initial) for make in (ours, Torchs)]
    steps = 20 if runners[0].device == "cuda" else 4
    mine, torchs = alternate(runners, gradients, blocks, steps)
    distance = apart(runners[0].params, runners[1].params, initial)
    peaks = [runner.peak() / 1e6 for runner in runners]
    print(
        f"{'clipped' if max_norm else 'plain':8} {mine:10.0f} {torchs:10.0f} {mine / torchs:6.2f} "
        f"{peaks[0]:9.1f} {peaks[1]:9.1f} {peaks[0] / peaks[1]:7.3f} {distance:9.1e}  "
        f"{launches_of(runners[0].optimizer)}",
        flush=True,
    )
    assert distance < APART, "the two did not do the same"
    return mine / torchs


def main() -> int:
    """Print both rows; the exit code says whether they are within the limit."""
    arguments = transformer_arguments(__doc__)

    print(f"{describe(arguments.device)}, float32")
    shapes = gpt2(arguments.width, arguments.layers)
    pool = [[torch.randn(shape, device=arguments.device) for shape in shapes] for _ in range(3)]
    elements = sum(x.numel() for x in pool[0])
    print(f"{len(shapes)} tensors, {elements / 1e6:.1f} M parameters")
    print(f"{'step':8} {'ours us':>10} {'torch us':>10} {'time':>6} ", end="")
    print(f"{'ours MB':>9} {'torch MB':>9} {'memory':>7} {'apart':>9}  launches and executions of ours")
    worst = max(measure(pool, arguments.blocks, max_norm) for max_norm in (None, MAX_NORM))
    if arguments.device == "cuda" and worst > LIMIT:
        print(f"over the limit: time {worst:.2f} (limit {LIMIT})")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
