"""Schedules in configs: what is refused in them, what they come to, and what gets built of them."""

from __future__ import annotations

import random
from copy import deepcopy
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from optim_cli.assemble import assemble, refusals, resolve
from optim_cli.config.check import mistakes
from optim_cli.config.durations import RunLength
from optim_cli.config.schedules import plan
from optim_cli.optim.lr_scheduler.parts import SequentialLR
from optim_cli.training.loop import Training
from tests.experiments import config_of

OURS = "optim_cli.optim.lr_scheduler."
CPU = torch.device("cpu")
WORDS = "allowed: a whole number greater than or equal to 1, or text such as '500 steps', '5 epochs', '10%'"


def single(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": name if "." in name else OURS + name, **arguments}


WARMUP = single("LinearLR", start_factor=0.1, total_iters=None)
COSINE = single("CosineAnnealingLR", T_max=None)
PLATEAU = single("ReduceLROnPlateau")
CYCLE = single("OneCycleLR", max_lr=1.0)
ROUND = single("CyclicLR", base_lr=0.0, max_lr=None, step_size_up=8)


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    """A run of 63 steps, 3 epochs, without a schedule."""
    return resolve(config_of("optimizer=sgd", "scheduler=none", "trainer.epochs=3", "model.hidden=[]"))


def scheduled(values: dict[str, Any], scheduler: dict[str, Any], **groups: Any) -> dict[str, Any]:
    return deepcopy(values) | {"scheduler": deepcopy(scheduler)} | groups


# scheduler -> key below it: what is said of it
MISFORMED: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        {"sequence": {"warmup": WARMUP | {"length": "5 epocks", "start_factr": 1},
                      "rest": COSINE | {"T_max": 0}}},
        {
            ".sequence.warmup.length": f"'5 epocks' is not allowed; {WORDS}",
            ".sequence.warmup.start_factr": "did you mean scheduler.sequence.warmup.start_factor?",
            ".sequence.rest.T_max": f"0 is not allowed; {WORDS}",
        },
    ),
    ({"sequence": {"a": WARMUP, "b": COSINE}}, {".sequence.a.length": "missing; allowed: a whole number"}),
    (
        {"sequence": [WARMUP | {"length": 3, "intervl": 1}, {"chain": [COSINE, {"_target_": "os.system"}]}]},
        {
            ".sequence[0].intervl": "unknown key",
            ".sequence[1].chain[1]._target_": "'os.system' may not be called",
        },
    ),
    ({"chain": {"a": WARMUP | {"length": 3}}}, {".chain.a.length": "unknown key"}),
    ({"chain": {"a": WARMUP}, "sequence": {"a": WARMUP}}, {"": "has chain and sequence; a schedule is one"}),
    (WARMUP | {"chain": [COSINE]}, {"": "has _target_ and chain"}),
    ({"chain": {}}, {".chain": "{} is not allowed; allowed: schedules by name, or a list"}),
    ({"sequence": None}, {".sequence": "null is not allowed"}),
    ({"chain": {"a": None, "b": {}}}, {".chain.a": "null is not allowed", ".chain.b._target_": "may not be"}),
    ({"chain": [WARMUP], "gamma": 1}, {".gamma": "unknown key (known: chain, interval, metric)"}),
    (COSINE | {"interval": "day", "metric": 3}, {".interval": "or 'epoch'", ".metric": "a text"}),
    (
        {"interval": "epoch", "metric": "val/loss"},
        dict.fromkeys((".interval", ".metric"), "there is no schedule that it could be of; choose one with"),
    ),
    ({"chain": [{"sequense": []}]}, {".chain[0].sequense": "did you mean scheduler.chain[0].sequence?"}),
    ({"chian": [COSINE], "interval": "step"}, {".chian": "did you mean scheduler.chain?"}),
    (single("MultiStepLR", milestones=["5%", "x", 0]), {".milestones[1]": "'x'", ".milestones[2]": "0 is"}),
    (single("LambdaLR", lr_lambda="math.exp"), {".lr_lambda": "'math.exp' may not be called; allowed: the"}),
    (single("LambdaLR", lr_lambda="torch.exp"), {".lr_lambda": "in optim_cli.optim"}),
    (single("LambdaLR", lr_lambda=["optim_cli.cli.main"]), {".lr_lambda": "no function that may be called"}),
    (single("LambdaLR", lr_lambda=3), {".lr_lambda": "allowed: the dotted name of a function or a list"}),
    (single("LambdaLR", lr_lambda="optim_cli.optim.nothing.at_all"), {".lr_lambda": "is not to be found"}),
]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "expected"), MISFORMED, ids=lambda x: str(x)[:60])
def test_misformed(default: dict[str, Any], scheduler: dict[str, Any], expected: dict[str, str]) -> None:
    found = {x.key: x.what for x in mistakes(scheduled(default, scheduler))}
    assert found.keys() == {f"scheduler{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"scheduler{key}"]


CONTRADICTORY: list[tuple[dict[str, Any], dict[str, str]]] = [
    (single("StepLR", step_size="5 epochs"), {".step_size": "'5 epochs' is too long: it makes 105"}),
    (single("StepLR", step_size="100%"), {".step_size": "'100%' never acts: it is after 63 steps, and the"}),
    (
        single("MultiStepLR", milestones=[62, "200%", "100%"]),
        {
            ".milestones[1]": "'200%' never acts: it is after 126 steps, and the run has 63",
            ".milestones[2]": "'100%' never acts: it is after 63 steps",
        },
    ),
    (single("MultiStepLR", milestones=[]), {".milestones": "[] has no step in it"}),
    (COSINE | {"T_max": 4, "interval": "epoch"}, {".T_max": "it makes 4 epochs, and the run has 3"}),
    (
        {"sequence": {"a": WARMUP | {"length": "1 epoch"}, "b": COSINE | {"length": "80%"}, "c": COSINE}},
        {
            ".sequence.b.length": "it is 50 steps after the 21 of the parts before it, and the run has 63",
            ".sequence.c": "never acts: it comes after the 71 of the parts before it",
        },
    ),
    (
        {"sequence": {"a": WARMUP | {"length": "5%"}, "b": COSINE | {"length": "20%"}}},
        {".sequence.b.length": "too short: the parts make 15 steps, and the run has 63; leave out"},
    ),
    (
        {"sequence": [WARMUP | {"length": 60}, {"length": "3 steps", "sequence": [COSINE | {"length": 2}]}]},
        {".sequence[1].sequence[0].length": "the parts make 2 steps, and scheduler.sequence[1] has 3"},
    ),
    ({"sequence": [WARMUP | {"length": 63}, COSINE]}, {".sequence[1]": "never acts: it comes after the 63"}),
    (
        {"sequence": {"a": {"length": 9, "sequence": [WARMUP | {"length": 10}]},
                      "b": COSINE | {"T_max": 55}}},
        {
            ".sequence.a.sequence[0].length": "it is 10 steps after the 0 of the parts before it, and "
            "scheduler.sequence.a has 9",
            ".sequence.b.T_max": "55 is too long: it makes 55 steps, and scheduler.sequence.b has 54",
        },
    ),
    (
        {"chain": {"a": WARMUP, "b": single("LambdaLR", lr_lambda="tests.experiments.inverse_root")}},
        {".chain.a": "never acts: scheduler.chain.b comes after it and sets lr outright"},
    ),
    (
        {"chain": [
            {"sequence": [WARMUP | {"length": 9}, COSINE]},
            single("CosineAnnealingWarmRestarts", T_0=9, hyperparameter="momentum"),
            single("OneCycleLR", max_lr=1.0, total_steps=None),
        ]},
        {".chain[0]": "sets lr outright", ".chain[1]": "scheduler.chain[2] comes after it and sets momentum"},
    ),
    (
        single("OneCycleLR", max_lr=1.0, total_steps=None, epochs=8, steps_per_epoch=10),
        {".total_steps": "epochs times steps_per_epoch is too long: it makes 80 steps, and the run has 63"},
    ),
    (
        {"sequence": [WARMUP | {"length": 9}, {"chain": [CYCLE]}]},
        {
            ".sequence[1].chain[0]": "OneCycleLR replaces the initial lr, which scheduler.sequence[0] would "
            "start from; use LinearLR and CosineAnnealingLR"
        },
    ),
    (
        {"chain": [CYCLE, CYCLE | {"hyperparameter": "weight_decay"},
                   {"sequence": [CYCLE | {"length": 9}, COSINE | {"hyperparameter": "weight_decay"}]}]},
        {".chain[2].sequence[0]": "a second OneCycleLR keeps its values of lr in the parameter groups, as "
         "scheduler.chain[0] does"},
    ),
    (
        {"sequence": [single("SWALR", swa_lr=0.1, length=9), single("SWALR", swa_lr=0.2)]},
        {".sequence[1]": "a second SWALR"},
    ),
    (PLATEAU, {".metric": "missing; ReduceLROnPlateau follows one (evaluations give train/loss, train/acc"}),
    (single("torch.optim.lr_scheduler.ReduceLROnPlateau"), {".metric": "missing"}),
    (COSINE | {"metric": "val/loss"}, {".metric": "'val/loss' is given, but no schedule here follows"}),
    (
        PLATEAU | {"metric": "val/los", "hyperparameter": "momentun"},
        {
            ".metric": "'val/los' is no metric of this run; did you mean val/loss? (evaluations give "
            "train/loss, train/accuracy, val/loss, val/accuracy)",
            ".hyperparameter": "'momentun' is none of SGD's; did you mean momentum? (it has lr, momentum, ",
        },
    ),
    (
        PLATEAU | {"metric": "val/loss", "interval": "epoch"},
        {".interval": "nothing is stepped by epoch: ReduceLROnPlateau acts on its metric, after evaluations"},
    ),
    (PLATEAU | {"metric": "val_averaged/loss"}, {".metric": "no metric of this run"}),
    (single("StepLR", step_size=9, hyperparameter="betas.0"), {".hyperparameter": "is none of SGD's"}),
]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "expected"), CONTRADICTORY, ids=lambda x: str(x)[:60])
def test_contradictory(default: dict[str, Any], scheduler: dict[str, Any], expected: dict[str, str]) -> None:
    values = scheduled(default, scheduler, plugins=["tests"])
    assert not mistakes(values)
    found = {x.key: x.what for x in refusals(values)}
    assert found.keys() == {f"scheduler{key}" for key in expected}
    for key, says in expected.items():
        assert says in found[f"scheduler{key}"]


def test_what_is_no_contradiction(default: dict[str, Any]) -> None:
    """Parts of which something is left, metrics that there are, and a resumed run shorter than its plan."""
    warm = {"sequence": [WARMUP | {"length": 9}, COSINE]}
    average = {"_target_": "optim_cli.training.averaging.EMA", "decay": 0.9}
    for scheduler, groups in (
        ({"chain": [single("CosineAnnealingWarmRestarts", T_0=9), warm]}, {}),
        ({"chain": [warm, single("LambdaLR", lr_lambda="tests.experiments.inverse_root",
                                 hyperparameter="weight_decay")]}, {}),
        ({"chain": [warm, {"sequence": [single("LambdaLR", lr_lambda="tests.experiments.inverse_root",
                                               length=20), COSINE]}]}, {}),
        ({"chain": [warm, PLATEAU], "metric": "val_averaged/loss"}, {"averaging": average}),
        ({"chain": [single("StepLR", step_size=1), PLATEAU], "metric": "val/loss", "interval": "epoch"}, {}),
        (single("torch.optim.lr_scheduler.ReduceLROnPlateau") | {"metric": "train/loss"}, {}),
        (single("StepLR", step_size=62), {}),
        ({"sequence": [WARMUP | {"length": "100%"}]}, {}),
        (COSINE | {"T_max": 64}, {"resume": "a run"}),
    ):  # fmt: skip
        values = scheduled(default, scheduler, plugins=["tests"], **groups)
        assert not mistakes(values)
        assert not refusals(values)


@pytest.mark.parametrize(
    ("optimizer", "first", "last", "undone"),
    [
        ("adamw", single("LinearLR", hyperparameter="betas.0", total_iters=None), CYCLE, "betas.0"),
        ("sgd", single("LinearLR", hyperparameter="momentum", total_iters=None), CYCLE, "momentum"),
        ("rprop", ROUND, single("CosineAnnealingWarmRestarts", T_0="25%"), "lr"),
    ],
)
def test_what_a_cycle_sets_depends_on_the_optimizer(
    optimizer: str, first: dict[str, Any], last: dict[str, Any], undone: str
) -> None:
    """Beta1, a momentum, or the rate alone."""
    run = resolve(config_of(f"optimizer={optimizer}", "scheduler=none", "trainer.epochs=3"))
    [mistake] = refusals(scheduled(run, {"chain": [first, last]}))
    assert mistake.key == "scheduler.chain[0]"
    assert f"never acts: scheduler.chain[1] comes after it and sets {undone} outright" in mistake.what


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_cycle_leaves_the_parts_after_it_their_start(default: dict[str, Any], name: str) -> None:
    """They go out from the optimizer's own value, as the parts after any other schedule."""
    values = deepcopy(default)
    values["optimizer"] |= {"lr": 0.4, "weight_decay": 0.4}
    up = single("LinearLR", start_factor=0.5, total_iters=2, length=5)
    parts = [ROUND | {"length": 20}, up, ROUND | {"length": 20}, COSINE]
    node = {"sequence": [x | {"hyperparameter": name} for x in parts]}
    assert not refusals(scheduled(values, node))
    table = assemble(scheduled(values, node), CPU).scheduler.table(63)[name][:, 0]  # type: ignore[union-attr]
    assert table[[0, 8, 20, 22, 25, 33, 45]].tolist() == pytest.approx([0, 0.4, 0.2, 0.4, 0, 0.4, 0.4])
    training = assemble(scheduled(values, node), CPU)
    for value in table.tolist():
        assert training.optimizer.param_groups[0][name] == pytest.approx(value, abs=1e-12)
        training.optimizer.step()
        training.scheduler.step()  # type: ignore[union-attr]


def test_a_constructor_is_told_by_the_key_of_its_part(default: dict[str, Any]) -> None:
    cycle = CYCLE | {"max_lr": [0.1, 0.2]}
    decay = WARMUP | {"length": 9, "hyperparameter": "weight_decay"}
    [found] = refusals(scheduled(default, {"sequence": [decay, {"chain": [cycle]}]}))
    assert found.key == "scheduler.sequence[1].chain[0]"
    assert "max_lr must have the same length" in found.what
    theirs = single("torch.optim.lr_scheduler.ReduceLROnPlateau")
    [found] = refusals(scheduled(default, {"chain": [theirs, COSINE], "metric": "val/loss"}))
    assert found.key == "scheduler"
    assert "use optim_cli.optim.lr_scheduler.ReduceLROnPlateau" in found.what


def test_lengths_and_milestones(seed: int) -> None:
    """Random parts, of which the open ones fill what is left."""
    generator = random.Random(seed)
    for _ in range(100):
        run = RunLength(generator.randint(500, 5000), generator.randint(5, 50))
        lengths: list[Any] = [
            generator.choice([9, "12 steps", "1.5 epochs", "7%"]) for _ in range(generator.randint(1, 5))
        ]
        parts = {f"part{i}": COSINE | {"length": x} for i, x in enumerate(lengths)} | {"last": COSINE}
        found = plan({"sequence": parts, "interval": "step"}, run)
        counts = [run.count(x) for x in lengths]
        assert found.milestones == list(accumulate(counts))
        assert [x.length for x in found.parts] == [*counts, None]
        totals = [x.values["T_max"] for _, x in found.singles()]
        assert totals == [*counts, run.steps - sum(counts)]
        expected = dict(zip([f"scheduler.sequence.part{i}.T_max" for i in range(9)], counts, strict=False))
        numbers = found.numbers()
        assert expected.items() <= numbers.items()
        assert numbers["scheduler.sequence.last.T_max"] == totals[-1]


@pytest.mark.parametrize("total", [{}, {"total_steps": None}])
def test_a_length_in_another_form_is_no_open_one(default: dict[str, Any], total: dict[str, Any]) -> None:
    cycle = single("OneCycleLR", max_lr=1.0, epochs=2, steps_per_epoch=5, **total)
    values = scheduled(default, cycle)
    assert not mistakes(values)
    assert not refusals(values)
    found = rates(assemble(values, CPU), 10)
    assert found[-1] == pytest.approx(1.0 / 25 / 1e4)
    assert found[-2] > 10 * found[-1]


def test_shares_of_a_hundred_fill_any_run(seed: int) -> None:
    """What rounding drops is the last part's, also inside a part."""
    generator = random.Random(seed)
    for _ in range(200):
        run = RunLength(generator.randint(20, 5000), 5)
        shares = [generator.choice([9, 12.5, 20]) for _ in range(generator.randint(1, 4))]
        parts = [COSINE | {"length": f"{x}%"} for x in (*shares, 100 - sum(shares))]
        found = plan({"sequence": parts}, run)
        assert [x.length for x in found.parts[:-1]] == [run.count(f"{x}%") for x in shares]
        assert sum(x.values["T_max"] for _, x in found.singles()) == run.steps
        half = {"length": "50%", "sequence": [COSINE | {"length": x} for x in ("30%", "20%")]}
        found = plan({"sequence": [half, half]}, run)
        assert sum(x.values["T_max"] for _, x in found.singles()) == run.steps


def rates(training: Training, steps: int) -> list[float]:
    """The rate of each step, with the scheduler stepped as in a run."""
    found = []
    assert training.scheduler is not None
    for step in range(1, steps + 1):
        found.append(float(training.optimizer.param_groups[0]["lr"]))
        training.optimizer.step()
        training.pace.after_step(training.scheduler, step, training.steps_per_epoch)
    return found


def test_built_as_by_hand(default: dict[str, Any]) -> None:
    """Nested, by name and as a list, of torch's classes too, in steps and in epochs."""
    step = single("StepLR", step_size=20)
    node = {
        "chain": {
            "whole": {"sequence": {"warmup": WARMUP | {"length": "10%"}, "rest": {"sequence": [
                single("ExponentialLR", gamma=0.9, length="1 epoch"), COSINE]}}},
            "step": step,
        }
    }  # fmt: skip
    values = scheduled(default, node)
    assert not mistakes(values)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], values["optimizer"]["lr"])
    parts: list[torchs.LRScheduler] = [
        torchs.LinearLR(optimizer, 0.1, total_iters=6),
        torchs.ExponentialLR(optimizer, 0.9),
        torchs.CosineAnnealingLR(optimizer, 63 - 6 - 21),
    ]
    sequence = torchs.SequentialLR(optimizer, parts, [6, 27])
    chain = torchs.ChainedScheduler([sequence, torchs.StepLR(optimizer, 20)], optimizer)
    expected = []
    for _ in range(63):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        chain.step()
    assert rates(assemble(values, CPU), 63) == pytest.approx(expected, abs=1e-14)

    theirs = single("torch.optim.lr_scheduler.StepLR", step_size=1)
    values = scheduled(default, {"sequence": [theirs | {"length": "2 epochs"}, COSINE]})
    by_epoch = rates(assemble(scheduled(values, values["scheduler"] | {"interval": "epoch"}), CPU), 63)
    start = values["optimizer"]["lr"]
    assert by_epoch == pytest.approx([start] * 21 + [start / 10] * 21 + [start] * 21)


def test_overridden_from_the_command_line() -> None:
    """A value of a part, a part of its own, and one that takes its floor from the optimizer."""
    last = f"{{_target_: {OURS}CosineAnnealingLR, eta_min: '${{optimizer.lr}}', T_max: null}}"
    config = config_of(
        *("optimizer=sgd", "scheduler=warmup_cosine", "trainer.epochs=3", "optimizer.lr=0.4"),
        *("scheduler.sequence.warmup.length=1 epochs", "+scheduler.sequence.cosine.length=50%"),
        f"+scheduler.sequence.last={last}",
    )
    training = assemble(resolve(config), CPU)
    assert isinstance(training.scheduler, SequentialLR)
    found = rates(training, 63)
    assert found[21] == pytest.approx(0.4)
    assert found[21 + 30] < 0.01
    assert found[21 + 31 :] == pytest.approx([0.4] * 11)
