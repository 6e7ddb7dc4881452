"""Schedules of some parameter groups, beside each other, against the same ones of optimizers of their own."""

from __future__ import annotations

import copy
import pickle
import random
import warnings
from collections.abc import Sequence
from math import isnan
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from optim_cli.optim import lr_scheduler as ours
from optim_cli.optim.lr_scheduler import place
from optim_cli.optim.lr_scheduler.groupwise import GroupwiseLR, SomeGroups
from optim_cli.optim.lr_scheduler.swa import SWALR
from optim_cli.training.taking_over import TakingOver
from tests.optim.lr_scheduler.mixing import KINDS, Drawn, drawn, numbers_of, optimizer_of
from tests.optim.lr_scheduler.sampling import LONGEST, SIMPLE, close


class Split:
    """An optimizer of several algorithms, and schedules of random disjoint groups of it; some have none."""

    def __init__(self, g: random.Random, among: Sequence[str] = tuple(SIMPLE)) -> None:
        self.kinds = [g.choice(KINDS) for _ in range(g.randint(2, 6))]
        drawn_rates = [g.uniform(1e-3, 1) for _ in self.kinds]
        self.rates = [x if g.random() < 0.7 else torch.tensor(x, dtype=torch.float64) for x in drawn_rates]
        self.optimizer = optimizer_of(self.kinds, self.rates)
        indices = list(range(len(self.kinds)))
        g.shuffle(indices)
        self.plans: list[tuple[list[int], Drawn]] = []
        while indices and (not self.plans or g.random() < 0.8):
            taken = [indices.pop() for _ in range(g.randint(1, len(indices)))]
            groups = [self.optimizer.param_groups[index] for index in taken]
            self.plans.append((taken, drawn(g, groups, among)))
        print(self.kinds, self.rates, *self.plans, sep="\n")
        self.schedule = self.made(self.optimizer)

    def made(self, optimizer: Any) -> Any:
        """The schedules of an optimizer like this one's."""
        return GroupwiseLR(optimizer, [x.made(SomeGroups(optimizer, taken)) for taken, x in self.plans])

    def alone(self) -> list[tuple[Any, Any]]:
        """For each group an optimizer of its own and its schedule, if it has one."""
        found: list[tuple[Any, Any]] = []
        for index, (kind, rate) in enumerate(zip(self.kinds, self.rates, strict=True)):
            optimizer = optimizer_of([kind], [rate])
            plans = [(taken.index(index), x) for taken, x in self.plans if index in taken]
            made = [x.of_group(at, optimizer.param_groups[0]).made(optimizer) for at, x in plans]
            found.append((optimizer, made[0] if made else None))
        return found


def values_of(optimizer: Any) -> list[dict[str, Any]]:
    """All that may be scheduled, by group."""
    return [numbers_of(group) for group in optimizer.param_groups]


def apart(optimizer: Any) -> tuple[list[float], list[float]]:
    """The rates of all groups, and everything else."""
    groups = optimizer.param_groups
    rest = [x for x in place.known(optimizer) if x != "lr"]
    return [float(x["lr"]) for x in groups], [
        float(place.read(x, y)) for x in groups for y in rest if place.has(x, y)
    ]


def stepping(optimizer: Any) -> None:
    """Step once, so that no schedule complains that it is first; nobody has a gradient."""
    optimizer.step()


def test_each_group_goes_its_own_way(seed: int) -> None:
    """Bit for bit as with optimizers of one group, also where only some of a schedule's groups have it."""
    g = random.Random(seed)
    for _ in range(60):
        split = Split(g)
        alone = split.alone()
        for optimizer in (split.optimizer, *(x for x, _ in alone)):
            stepping(optimizer)
        for t in range(LONGEST):
            assert values_of(split.optimizer) == [numbers_of(x.param_groups[0]) for x, _ in alone], t
            assert split.schedule.get_last_lr() == [x["lr"] for x in split.optimizer.param_groups]
            split.schedule.step()
            for _, schedule in alone:
                if schedule is not None:
                    schedule.step()


def test_a_table_is_what_stepping_gives(seed: int) -> None:
    g = random.Random(seed)
    for _ in range(40):
        split = Split(g)
        table = split.schedule.table(LONGEST)
        stepping(split.optimizer)
        groups = split.optimizer.param_groups
        for t in range(LONGEST):
            for name, values in table.items():
                assert values.shape == (LONGEST, len(groups))
                for group, value in zip(groups, values[t].tolist(), strict=True):
                    told = place.has(group, name)
                    assert close([float(place.read(group, name))], [value]) if told else isnan(value), (
                        name,
                        t,
                    )
            split.schedule.step()


def test_it_goes_on_from_its_state(seed: int) -> None:
    """Loading replaces the groups of an optimizer; schedules find the new ones."""
    g = random.Random(seed)
    for _ in range(30):
        split = Split(g)
        again = optimizer_of(split.kinds, split.rates)
        resumed = split.made(again)
        for optimizer in (split.optimizer, again):
            stepping(optimizer)
        for _ in range(g.randrange(LONGEST)):
            split.schedule.step()
        again.load_state_dict(split.optimizer.state_dict())
        resumed.load_state_dict(split.schedule.state_dict())
        for _ in range(LONGEST):
            assert values_of(again) == values_of(split.optimizer)
            split.schedule.step()
            resumed.step()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_one_of_its_own(copied: Any) -> None:
    optimizer = optimizer_of(("AdamW", "SGD"), (0.1, 0.2))
    schedule = GroupwiseLR(optimizer, [ours.ExponentialLR(SomeGroups(optimizer, [1]), 0.5)])
    stepping(optimizer)
    schedule.step()
    other = copied(schedule)
    other.step()
    assert [x["lr"] for x in optimizer.param_groups] == [0.1, 0.1]
    assert [x["lr"] for x in other.optimizer.param_groups] == [0.1, 0.05]
    assert other.parts[0].optimizer.whole is other.optimizer is not optimizer


def test_a_plateau_of_some_groups() -> None:
    def made() -> tuple[Any, Any]:
        optimizer = optimizer_of(("AdamW", "SGD", "SGD"), (1.0, 1.0, 1.0))
        plateau = ours.ReduceLROnPlateau(SomeGroups(optimizer, [2, 0]), factor=0.5, patience=0)
        rest = ours.ExponentialLR(SomeGroups(optimizer, [1]), 0.5)
        return optimizer, GroupwiseLR(optimizer, [plateau, rest])

    optimizer, schedule = made()
    assert schedule.follows_metric
    stepping(optimizer)
    for metric, plateau, rest in ((3.0, 1.0, 0.5), (3.0, 0.5, 0.25), (1.0, 0.5, 0.125)):
        schedule.step()
        schedule.observe(metric)
        assert schedule.get_last_lr() == [plateau, rest, plateau]
    again, resumed = made()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for x in (schedule, resumed):
        x.step(2.0)
    assert resumed.get_last_lr() == schedule.get_last_lr() == [0.25, 0.0625, 0.25]


def test_another_schedule_takes_over_all_rates(seed: int) -> None:
    """Everything but the rate goes on as before, in every group; resumed too."""
    g = random.Random(seed)
    for _ in range(20):
        # Two SWALR would share what they keep in the groups.
        split = Split(g, [x for x in SIMPLE if x != "SWALR"])
        start, middle = g.randrange(LONGEST), g.randrange(LONGEST)
        optimizers = [optimizer_of(split.kinds, split.rates) for _ in range(2)]
        both, resumed = (TakingOver(x, split.made(x), SWALR(x, 0.05, 3), start) for x in optimizers)
        table = both.table(LONGEST)["lr"]
        for optimizer in (split.optimizer, *optimizers):
            stepping(optimizer)
        for t in range(LONGEST):
            if t == middle:
                optimizers[1].load_state_dict(optimizers[0].state_dict())
                resumed.load_state_dict(both.state_dict())
            if t >= middle:
                assert values_of(optimizers[1]) == values_of(optimizers[0])
                resumed.step()
            (own, expected), (rates, found) = map(apart, (split.optimizer, optimizers[0]))
            assert close(found, expected)
            assert close(rates, table[t].tolist())
            if t < start:
                assert close(rates, own)
            elif t >= start + 3:
                assert rates == pytest.approx([0.05] * len(rates))
            both.step()
            split.schedule.step()


def test_schedules_of_other_packages() -> None:
    """Those of torch take some groups for an optimizer, and steps of the whole for its steps."""
    optimizer = optimizer_of(("AdamW", "SGD", "SGD"), (0.1, 0.2, 0.4))
    some = SomeGroups(optimizer, [2, 1])
    assert isinstance(some, torch.optim.Optimizer)
    schedule = GroupwiseLR(optimizer, [theirs.StepLR(some, 2, 0.5)])
    assert not schedule.is_known
    stepping(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            schedule.step()
    assert schedule.get_last_lr() == [0.1, 0.1, 0.2]


@pytest.mark.parametrize("package", [ours, theirs])
def test_stepping_the_schedule_first_warns(package: Any) -> None:
    optimizer = optimizer_of(("AdamW", "SGD"), (0.1, 0.2))
    schedule = GroupwiseLR(optimizer, [package.StepLR(SomeGroups(optimizer, [1]), 2)])
    with pytest.warns(UserWarning, match=r"before `?optimizer.step\(\)"):
        schedule.step()


def test_what_is_refused() -> None:
    optimizer, other = (optimizer_of(("AdamW", "SGD", "Adagrad"), (0.1, 0.2, 0.3)) for _ in range(2))
    optimizer.param_groups[1]["name"] = "head"

    def cycle(*indices: int) -> Any:
        return ours.OneCycleLR(SomeGroups(optimizer, indices), None, 9)

    def line(*indices: int, name: str = "lr") -> Any:
        return ours.LinearLR(SomeGroups(optimizer, indices), hyperparameter=name)

    with pytest.raises(ValueError, match="GroupwiseLR expects at least one scheduler"):
        GroupwiseLR(optimizer, [])
    with pytest.raises(
        ValueError, match="GroupwiseLR expects all schedulers to belong to the same optimizer"
    ):
        GroupwiseLR(optimizer, [ours.LinearLR(SomeGroups(other, [0]))])
    with pytest.raises(
        ValueError, match="OneCycleLR at index 0 and LinearLR at index 1 both set lr of parameter group 0;"
    ):
        GroupwiseLR(optimizer, [cycle(2, 0), line(0, 1)])
    # The momentum of a cycle goes along.
    with pytest.raises(ValueError, match="both set momentum of parameter group head; give each"):
        GroupwiseLR(optimizer, [cycle(0, 1), line(0, 1, name="momentum")])
    GroupwiseLR(optimizer, [cycle(0, 1), line(0, 1, name="weight_decay"), line(2)])
    some = SomeGroups(optimizer, [1])
    later = ours.SequentialLR(some, [ours.ConstantLR(some), ours.OneCycleLR(some, None, 9)], [3])
    with pytest.raises(ValueError, match="SequentialLR at index 0 and LinearLR at index 1 both set momentum"):
        GroupwiseLR(optimizer, [later, line(1, name="momentum")])
    with pytest.raises(ValueError, match="'momentum' is not one of MultiOptimizer's; it has lr, "):
        line(0, 2, name="momentum")
