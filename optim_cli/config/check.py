"""Checks a config against the constructors that it names, and tells every mistake at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt

from optim_cli.config.describe import PACKAGE
from optim_cli.config.groups import mistakes_in_groups, mistakes_in_structure
from optim_cli.config.mistakes import Mistake
from optim_cli.config.schedules import AT_THE_TOP, mistakes_in_schedule
from optim_cli.config.targets import ABOUT, given_to, is_there, kind_of, plugins_of
from optim_cli.config.values import SUPPLIED, mistakes_in, shown, unlike

MAY_BE_NONE = ("scheduler", "averaging")
VALUES: dict[str, Any] = {
    "seed": (Annotated[int, Ge(0), Lt(2**63)], ...),
    "device": (Literal["auto", "cpu", "cuda"], ...),
    "plugins": (list[Annotated[str, PACKAGE]], []),
    "resume": (str | None, None),
    "rerun": (str | None, None),
}


def mistakes(config: Mapping[str, Any]) -> list[Mistake]:
    """Everything wrong with a resolved config; empty where nothing is."""
    rest = {key: value for key, value in config.items() if key not in SUPPLIED}
    found = unlike(VALUES, rest, "", (*SUPPLIED, *VALUES))
    plugins = plugins_of(config)
    found += [
        Mistake("plugins", f"{x!r} is no module or package that Python finds from here")
        for x in plugins
        if not is_there(x)
    ]
    for group, supplied in SUPPLIED.items():
        node = config.get(group)
        if not isinstance(node, Mapping) or not (node or group in MAY_BE_NONE):
            given = "null" if node is None else repr(node)
            found.append(Mistake(group, f"{given} is no choice; choose one with {group}=CHOICE"))
        elif group == "scheduler" and node:
            found += mistakes_in_schedule(node, group, AT_THE_TOP, plugins)
        elif group == "averaging":
            found += _mistakes_in_averages(node, plugins)
        elif node:
            own, about = given_to(group, node), ABOUT.get(group, ())
            found += mistakes_in(own, f"{group}.", (kind_of(group),), supplied, plugins, about)
            found += mistakes_in_structure(node) if group == "model" else []
            found += mistakes_in_groups(config, plugins) if group == "optimizer" else []
    return found


def _mistakes_in_averages(node: Mapping[str, Any], plugins: Collection[str]) -> list[Mistake]:
    """What is wrong with one average, or several by name."""
    found = []
    averages = averages_in(node)
    for key, part in averages.values():
        if isinstance(part, Mapping) and "_target_" in part:
            kinds = (kind_of("averaging"),)
            found += mistakes_in(part, f"{key}.", kinds, SUPPLIED["averaging"], plugins)
        elif part is node:
            what = "there is no average that it could be of; choose one with averaging=CHOICE"
            found += [Mistake(f"{key}.{x}", what) for x in part]
        else:
            allowed = f"a mapping with _target_; ~{key} on the command line leaves it out"
            found.append(Mistake(key, f"{shown(part)} is no average; allowed: {allowed}"))
    return found


def averages_in(node: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """The averages of the group `averaging`, which is one node or several by name.

    Returns:
        What metrics and files call each -> its key and its node.
    """
    if not node:
        return {}
    if "_target_" in node or not any(isinstance(x, Mapping) for x in node.values()):
        return {"averaged": ("averaging", node)}
    return {f"averaged_{name}": (f"averaging.{name}", part) for name, part in node.items()}
