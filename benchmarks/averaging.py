"""An exponential average inside our fused step on a CUDA device, beside torch's AveragedModel after a step.

    python -m benchmarks.averaging --json averaging.json
    python -m benchmarks.averaging --models resnet50

What is compared is what averaging adds to a step of training. Ours is a part of the optimizer's launch, so it
is the difference: AdamW that averages less AdamW that does not. torch's is a call of its own,
`AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn()).update_parameters(model)`, and it is that call.

Each is the median time between two events around it, from an idle device on, so that the host's part counts
where the device waits for it, as it does on small models. Blocks of the three alternate. Float32, gradients
where they were. Exit code 1 names the rows over LIMITS.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import swa_utils as theirs

from benchmarks.claims import Limit, Row, head, limits_table, line
from benchmarks.measuring import Runner, alternate, apart, describe
from benchmarks.optimizer_step import launches_of, release, tensors
from benchmarks.shapes import MODELS
from optim_cli import optim
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY = 0.999
SECTION = "averaging"
LIMITS = (
    Limit("what averaging adds, ResNet-50, over AveragedModel", SECTION, "over torch", 0.20, ("resnet50",)),
    Limit("what averaging adds, 1.2 B, over AveragedModel", SECTION, "over torch", 0.62, ("llama",)),
    Limit("launches that averaging adds", SECTION, "launches", 0),
    # What is fast must also be right: how far our averages are from torch's, over the way they went.
    Limit("distance from torch's averages", SECTION, "apart", 1e-3),
)


def as_model(params: list[nn.Parameter]) -> nn.Module:
    """A model of these parameters, and nothing else."""
    model = nn.Module()
    model.params = nn.ParameterList(params)
    return model


class Averaging:
    """Our AdamW that averages."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.model = as_model(params)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        self.optimizer = optim.AdamW(params)
        self.optimizer.average_into(self.averaged, self.model)
        self.step = self.optimizer.step


class AveragingByTorch:
    """torch's average alone, called as a step is."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        self.model = as_model(params)
        self.averaged = theirs.AveragedModel(self.model, multi_avg_fn=theirs.get_ema_multi_avg_fn(DECAY))

    def step(self) -> None:
        """Average."""
        self.averaged.update_parameters(self.model)


def repetitions(pool: Sequence[list[Tensor]]) -> tuple[int, int]:
    """Blocks, and steps of each: more than of a step alone, since a difference varies more."""
    return (10, 20) if sum(x.numel() for x in pool[0]) < 1e9 else (5, 6)


def distance(ours: Averaging, steps: int = 20) -> float:
    """How far our averages come away from torch's of the same weights, over the way of both."""
    expected = theirs.AveragedModel(ours.model, multi_avg_fn=theirs.get_ema_multi_avg_fn(DECAY))
    expected.load_state_dict(ours.averaged.state_dict())
    before = [x.detach().clone() for x in expected.parameters()]
    for _ in range(steps):
        ours.step()
        expected.update_parameters(ours.model)
    return apart(list(ours.averaged.parameters()), list(expected.parameters()), before)


def measured(model: str) -> Row:
    """What averaging adds on one model."""
    pool = tensors(model)
    initial, *gradients = pool
    runs = [Runner(make, initial) for make in (optim.AdamW, Averaging, AveragingByTorch)]
    plain, averaging = (runner.optimizer for runner in runs[:2])
    without, with_average, called = alternate(runs, gradients, *repetitions(pool))
    launches = launches_of(averaging.optimizer) - launches_of(plain)
    values: dict[str, float | None] = {
        "AdamW us": without,
        "with EMA us": with_average,
        "added us": with_average - without,
        "torch us": called,
        "over torch": (with_average - without) / called,
        "launches": launches,
        "apart": distance(averaging),
    }
    return Row(SECTION, model, "AdamW", values)


def main() -> int:
    """Print the table; the exit code says whether all rows are within the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["mlp", "resnet50", "gpt2", "llama"])
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    parser.add_argument("--markdown", action="store_true", help="print the limits as a table at the end")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this measures a CUDA device, and there is none")

    about = (
        f"{describe('cuda')}, Triton {import_module('triton').__version__}, float32, {datetime.date.today()}"
    )
    print(about, flush=True)
    rows: list[Row] = []
    for model in arguments.models:
        row = measured(model)
        if not rows:
            print(head(SECTION, list(row.values)))
        print(line(row), flush=True)
        rows.append(row)
        release()
    broken = [text for limit in LIMITS for text in limit.broken(rows)]
    if arguments.json:
        found = {"about": about, "rows": list(map(vars, rows)), "over": broken}
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if arguments.markdown:
        print("", *limits_table(LIMITS, rows), "", sep="\n")
    if broken:
        print("over the limits:", *broken, sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
