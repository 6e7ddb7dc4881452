"""A GPU without what Triton needs at run time: foreach does the work, and says so once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.experiments import ROOT
from tests.optim.gpu.device import ON_GPU

pytestmark = ON_GPU

STEPS = """
import torch
from optim_cli.optim import ALGORITHMS

for name in ("Adam", "SGD"):
    start = torch.arange(1.0, 6.0)
    ours = ALGORITHMS[name]([torch.nn.Parameter(start.cuda())], lr=0.1)
    expected = ALGORITHMS[name]([torch.nn.Parameter(start.double())], lr=0.1, implementation="for_loop")
    for count in range(3):
        for optimizer in (ours, expected):
            for p in optimizer.param_groups[0]["params"]:
                p.grad = torch.full_like(p, count + 1)
            optimizer.step()
    p, q = (optimizer.param_groups[0]["params"][0] for optimizer in (ours, expected))
    torch.testing.assert_close(p.double().cpu(), q, rtol=1e-5, atol=1e-5)
    print(name, dict(ours.executions), dict(ours.launches))
"""


def test_without_a_c_compiler(tmp_path: Path) -> None:
    known = {key: value for key, value in os.environ.items() if key not in ("CC", "PYTHONWARNINGS")}
    packages = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    changed = {"PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": packages}
    found = subprocess.run(
        [sys.executable, "-c", STEPS], env=known | changed, cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["Adam {'foreach': 3} {}", "SGD {'foreach': 3} {}"]
    for name in ("Adam", "SGD"):
        told = f"{name}: no fused execution here, since "
        assert found.stderr.count(told) == 1, found.stderr
    assert "a fused kernel does not compile" in found.stderr
