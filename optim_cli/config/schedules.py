"""Schedules in configs: a single one, or a `chain` or `sequence` of parts, nested to any depth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from typing import Any

from optim_cli.config.describe import describe
from optim_cli.config.durations import Interval, RunLength, counted
from optim_cli.config.mistakes import Mistake, unknown_key
from optim_cli.config.targets import hints_of, kind_of, locate
from optim_cli.config.values import SUPPLIED, mistakes_in, shown, unlike
from optim_cli.optim.lr_scheduler.schedule import Steps

FORMS = ("chain", "sequence")
# Keys that stand beside a schedule and are not its own: parameter -> type, default.
AT_THE_TOP: dict[str, Any] = {"interval": (Interval, "step"), "metric": (str | None, None)}
OF_A_STAGE: dict[str, Any] = {"length": (Steps | None, None)}  # of a part of a sequence


@dataclass(frozen=True)
class Single:
    """A schedule that is no chain or sequence.

    Attributes:
        target: what makes it.
        given: `_target_` and the arguments, as the config has them.
        values: the same with durations as numbers, and open totals filled in.
    """

    target: Callable[..., Any]
    given: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def hyperparameter(self) -> str:
        """What it schedules."""
        return str(self.values.get("hyperparameter", "lr"))


@dataclass(frozen=True)
class Plan:
    """A schedule whose durations are numbers of its steps.

    Attributes:
        key: where it stands in the config.
        steps: how many there are for it.
        length: how many the config gives it, as a part of a sequence; None where that is left open.
        single: where it is no chain or sequence.
        form: chain or sequence, where it is one.
        parts: of a chain or sequence, in their order.
    """

    key: str
    steps: int
    length: int | None
    single: Single | None = None
    form: str | None = None
    parts: tuple[Plan, ...] = ()

    @property
    def milestones(self) -> list[int]:
        """Of a sequence: the first step of each part but the first."""
        return list(accumulate(x.length or 0 for x in self.parts[:-1]))

    def singles(self) -> Iterator[tuple[str, Single]]:
        """Key and content of everything in it that is no chain or sequence."""
        if self.single is not None:
            yield self.key, self.single
        for part in self.parts:
            yield from part.singles()

    def numbers(self) -> dict[str, Any]:
        """Whole key -> value, of everything in it that durations could be in."""
        own = {f"{self.key}.length": self.length} if self.length is not None else {}
        if self.single is not None:
            own |= {f"{self.key}.{name}": value for name, value in self.single.values.items()}
        for part in self.parts:
            own |= part.numbers()
        return own


def mistakes_in_schedule(
    node: Mapping[str, Any], key: str, beside: Mapping[str, Any], plugins: Collection[str]
) -> list[Mistake]:
    """What is wrong with a single schedule, a chain or a sequence.

    Args:
        beside: keys that are not the schedule's own -> type, default.
    """
    found = unlike(beside, {x: y for x, y in node.items() if x in beside}, f"{key}.")
    own = {x: y for x, y in node.items() if x not in beside}
    if beside is AT_THE_TOP and not own:
        choice = "scheduler" if key == "scheduler" else f"+scheduler@{key}"
        what = f"there is no schedule that it could be of; choose one with {choice}=CHOICE"
        return [Mistake(f"{key}.{x}", what) for x in node]
    forms = [x for x in ("_target_", *FORMS) if x in own]
    if len(forms) > 1:
        return [*found, Mistake(key, f"has {' and '.join(forms)}; a schedule is one of them")]
    meant = [x for x in own if not forms and get_close_matches(x, FORMS, n=1)]
    if meant:
        return found + [unknown_key(f"{key}.{x}", ("_target_", *FORMS, *beside)) for x in meant]
    if forms in ([], ["_target_"]):
        return found + mistakes_in(
            own, f"{key}.", (kind_of("scheduler"),), SUPPLIED["scheduler"], plugins, beside
        )
    [form] = forms
    found += [unknown_key(f"{key}.{x}", (form, *beside)) for x in own if x != form]
    if not isinstance(own[form], Mapping | list) or not own[form]:
        allowed = "schedules by name, or a list of schedules"
        return [*found, Mistake(f"{key}.{form}", f"{shown(own[form])} is not allowed; allowed: {allowed}")]
    *before_the_last, _ = parts = parts_of(own, key)
    for at, part in parts.items():
        if not isinstance(part, Mapping):
            allowed = "a mapping with _target_, chain or sequence"
            found.append(Mistake(at, f"{shown(part)} is not allowed; allowed: {allowed}"))
            continue
        found += mistakes_in_schedule(part, at, OF_A_STAGE if form == "sequence" else {}, plugins)
        if form == "sequence" and at in before_the_last and part.get("length") is None:
            allowed = describe(Steps)
            found.append(
                Mistake(f"{at}.length", f"missing; allowed: {allowed}; the last part may go without")
            )
    return found


def form_of(node: Mapping[str, Any]) -> str | None:
    """Whether a node is a chain or a sequence; None if it is neither."""
    return next((x for x in FORMS if x in node), None)


def parts_of(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Key -> part of a chain or sequence, which is a mapping of names or a list.

    Args:
        key: of the node.
    """
    form = form_of(node)
    parts = node[str(form)]
    if isinstance(parts, Mapping):
        return {f"{key}.{form}.{name}": part for name, part in parts.items()}
    return {f"{key}.{form}[{i}]": part for i, part in enumerate(parts)}


def plan(
    node: Mapping[str, Any], run: RunLength, plugins: Collection[str] = (), key: str = "scheduler"
) -> Plan:
    """What a checked schedule, which stands at `key`, comes to in a run of this length."""
    own = {name: value for name, value in node.items() if name not in AT_THE_TOP}
    return _plan(own, key, run, run.total, None, plugins)


def _plan(
    node: Mapping[str, Any],
    key: str,
    run: RunLength,
    steps: int,
    length: int | None,
    plugins: Collection[str],
) -> Plan:
    form = form_of(node)
    if form is None:
        target = locate(node["_target_"], (kind_of("scheduler"),), plugins)
        # A schedule of no steps is told elsewhere; here it gets a length that its constructor takes.
        values = counted(node, hints_of(target), run, max(steps, 1))
        return Plan(key, steps, length, Single(target, node, values))
    nodes = parts_of(node, key)
    given = _lengths(list(nodes.values()), run, steps) if form == "sequence" else [None] * len(nodes)
    parts, rest = [], steps
    for (at, part), its_length in zip(nodes.items(), given, strict=True):
        own = {name: value for name, value in part.items() if name not in OF_A_STAGE}
        there = rest if its_length is None else its_length
        parts.append(_plan(own, at, run, there, its_length, plugins))
        if form == "sequence":
            rest -= there
    return Plan(key, steps, length, form=form, parts=tuple(parts))


def _lengths(nodes: list[Mapping[str, Any]], run: RunLength, steps: int) -> list[int | None]:
    """The lengths of a sequence's parts; None where the last one's is left open.

    Fractions of a step that were dropped are the last part's: 30 % and 70 % fill any run.
    """
    written = [node.get("length") for node in nodes]
    given = [x for x in written if x is not None]
    *before, last = [None if x is None else run.count(x) for x in written]
    if len(given) == len(written) and -1 < steps - sum(map(run.exact, given)) < 1:
        last = steps - sum(map(run.count, given[:-1]))
    return [*before, last]
