"""The parameter groups of a run, for people to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optim_cli.config.groups import entries_of
from optim_cli.config.schedules import form_of
from optim_cli.config.targets import plugins_of
from optim_cli.config.values import options_of
from optim_cli.optim.param_groups import Group, words_of
from optim_cli.training.events import GroupRow
from optim_cli.training.loop import Training


def group_rows(training: Training, values: Mapping[str, Any]) -> tuple[GroupRow, ...]:
    """A row for each group, and for each entry that takes nothing; none where all are trained alike.

    Args:
        values: the config that the training is assembled from.
    """
    entries = entries_of(values)
    rows = []
    for name in (*entries, None):
        groups = [x for x in training.groups if x.entry == name]
        takes = "what no entry takes" if name is None else words_of(entries[name])
        rows += [
            GroupRow(
                group.name,
                takes,
                len(group.parameters),
                sum(x.numel() for x in group.parameters.values()),
                ", ".join(_differences(group, values)),
            )
            for group in groups
        ]
        if name is not None and not groups:
            rows.append(GroupRow(name, takes, 0, 0, ""))
    return tuple(rows)


def frozen_in_words(group: Group) -> str:
    """`frozen`, or until which step, or nothing."""
    if not group.is_frozen:
        return ""
    return "frozen" if group.is_never_trained else f"frozen to step {group.settings['unfreeze_at']}"


def _differences(group: Group, values: Mapping[str, Any]) -> Iterator[str]:
    """What of a group is not as the run's optimizer has it."""
    if not group.is_never_trained:
        plugins = plugins_of(values)
        runs = options_of(values["optimizer"], plugins)
        own = entries_of(values)[group.entry].get("optimizer") if group.entry else None
        options = (runs if own is None else options_of(own, plugins)) | group.hyperparameters
        if own is not None:
            yield own["_target_"].rpartition(".")[2]
        rate = options.pop("lr", None)
        if rate is None and group.lr_scale != 1:
            yield f"lr_scale {group.lr_scale:.4g}"
        elif rate is not None and (own is not None or rate * group.lr_scale != runs.get("lr")):
            yield f"lr {rate * group.lr_scale:.4g}"
        # What the run's has not is held against the defaults of the entry's own.
        usual = {} if own is None else options_of({"_target_": own["_target_"]}, plugins)
        for name, value in options.items():
            if value != (usual | runs).get(name):
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
