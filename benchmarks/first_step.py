"""Seconds of making AdamW and of its first step, on the shapes of ResNet-18, after CUDA is initialised.

    python -m benchmarks.first_step

A process of its own, since only the first step of a process is one; it prints a JSON object.
"""

from __future__ import annotations

import json
import time

import torch
from torch import nn

from benchmarks.shapes import MODELS
from optim_cli import optim


def main() -> None:
    """Print the seconds."""
    params = [nn.Parameter(torch.randn(shape, device="cuda")) for shape in MODELS["resnet18"]()]
    for p in params:
        p.grad = torch.randn_like(p)
    torch.cuda.synchronize()
    start = time.perf_counter()
    optimizer = optim.AdamW(params)
    made = time.perf_counter()
    optimizer.step()
    torch.cuda.synchronize()
    done = time.perf_counter()
    assert set(optimizer.executions) == {"fused"}, optimizer.executions
    print(json.dumps({"making s": made - start, "step s": done - made}))


if __name__ == "__main__":
    main()
