"""The command that prints every parameter with its group: `optim-run --groups`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console

from optim_cli.assemble import assemble
from optim_cli.config.experiment import Experiment
from optim_cli.config.groups import entries_of
from optim_cli.config.mistakes import Mistake
from optim_cli.group_table import frozen_in_words
from optim_cli.optim.param_groups import REST
from optim_cli.preflight import mistakes_of
from optim_cli.training.loop import Training

HEADINGS = ("parameter", "shape", "group", "lr", "weight decay", "frozen")


def print_groups(experiment: Experiment, console: Console) -> list[Mistake]:
    """Print the parameters of the config's model, each with the group that it is in.

    Returns:
        Mistakes, if there are any; then nothing is printed.
    """
    if experiment.several:
        return [Mistake("--groups", "is about one run; leave out -m and give one value to each key")]
    job = experiment.job(experiment.jobs[0])
    found = [*experiment.mistakes, *job.told(mistakes_of(job))]
    if found or job.values is None:
        return list(dict.fromkeys(found))
    rows = [HEADINGS, *_rows(assemble(_unscheduled(job.values), torch.device("cpu")))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        console.print(
            line, style="bold" if row is HEADINGS else None, markup=False, highlight=False, soft_wrap=True
        )
    return []


def _unscheduled(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config without schedules, whose first values are not those that groups are given."""
    entries = {name: entry | {"scheduler": None} for name, entry in entries_of(values).items()}
    optimizer = values["optimizer"] | {"param_groups": entries}
    return {**values, "optimizer": optimizer, "scheduler": {}, "averaging": {}}


def _rows(training: Training) -> Iterator[Sequence[str]]:
    """A row for each parameter, in the order of the model."""
    held = {p: group for group in training.optimizer.param_groups for p in group["params"]}
    groups = {p: group for group in training.groups for p in group.parameters.values()}
    for name, parameter in training.model.named_parameters():
        shape = " x ".join(map(str, parameter.shape)) or "scalar"
        group = groups.get(parameter)
        if group is None and not parameter.requires_grad:
            yield name, shape, "-", "", "", "by the model"
            continue
        yield (
            name,
            shape,
            REST if group is None else group.name,
            *(_value(held.get(parameter), key) for key in ("lr", "weight_decay")),
            "" if group is None else frozen_in_words(group),
        )


def _value(held: Mapping[str, Any] | None, name: str) -> str:
    """A value of a parameter group; empty where an algorithm has none such, or nothing is trained."""
    return "" if held is None or name not in held else f"{held[name]:.4g}"
