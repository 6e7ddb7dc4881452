"""The parameter groups of a run, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optim_cli.config.groups import entries_of
from optim_cli.config.schedules import form_of
from optim_cli.optim.param_groups import Group, words_of
from optim_cli.training.events import GroupRow
from optim_cli.training.loop import Training
from optim_cli.training.rates import configured


def group_rows(training: Training, values: Mapping[str, Any]) -> tuple[GroupRow, ...]:
    """A row for each group; none where all parameters are trained alike.

    Args:
        values: the config that the training is assembled from.
    """
    entries = entries_of(values)
    held = {x["name"]: x for x in training.optimizer.param_groups if "name" in x}
    return tuple(
        GroupRow(
            group.name,
            "what no entry takes" if group.entry is None else words_of(entries[group.entry]),
            len(group.parameters),
            sum(x.numel() for x in group.parameters.values()),
            ", ".join(_differences(group, held.get(group.name), values["optimizer"])),
        )
        for group in training.groups
    )


def frozen_in_words(group: Group) -> str:
    """`frozen`, or until which step, or nothing."""
    if not group.is_frozen:
        return ""
    until = group.settings.get("unfreeze_at")
    return "frozen" if until is None else f"frozen to step {until}"


def _differences(group: Group, held: dict[str, Any] | None, optimizer: Mapping[str, Any]) -> Iterator[str]:
    """What of a group is not as the optimizer has it.

    Args:
        held: the group as the optimizer has it; None where it is never trained.
        optimizer: its node in the config.
    """
    if held is not None:
        own = group.settings.get("optimizer")
        if own is not None:
            yield own.func.__name__
        if own is not None or group.lr_scale != 1:
            yield f"lr {float(configured(held, 'lr')):.4g}"
        for name, value in group.hyperparameters.items():
            if (own is not None or value != optimizer.get(name)) and (name != "lr" or own is None):
                yield f"{name} {value}"
        schedule = group.settings.get("scheduler")
        if schedule is not None:
            yield _schedule_in_words(schedule)
    if group.is_frozen:
        yield frozen_in_words(group)


def _schedule_in_words(node: Mapping[str, Any]) -> str:
    if not node:
        return "constant"
    return f"schedule {form_of(node) or node['_target_'].rpartition('.')[2]}"
