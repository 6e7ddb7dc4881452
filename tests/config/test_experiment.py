"""The jobs of a command line are those that Hydra runs; no command line makes the check fail."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser

from optim_cli.assemble import assemble
from optim_cli.errors import ConfigError
from optim_cli.paths import folder
from optim_cli.preflight import mistakes_of
from tests.command_lines import experiment, own_main, told, write

SWEEPS: list[list[str]] = [
    ["seed=1"],
    ["seed=1,2"],
    ["seed=range(5)"],
    ["seed=range(0,10,3)", "optimizer.lr=0.1,0.2"],
    ["optimizer=adamw,sgd", "seed=1,2"],
    ["optimizer=glob(*)"],
    ["optimizer=glob([a*,s*],exclude=adam)"],
    ["seed=shuffle(range(6))"],
    ["seed=choice(3,1,2)"],
    ["seed=sort(3,1,2)"],
    ["seed=sort(range(3),reverse=true)"],
    ["model.hidden=[1],[2,3]"],
    ["model.hidden=[1],[2]", "seed=5", "+model={dropout:0.1},{dropout:0.2}"],
    ["seed=1,1"],
    ["seed=1,2", "seed=3"],
    ["seed=3", "seed=1,2"],
    ["optimizer.lr=range(0.1,0.3,0.1)"],
    ["hydra.sweep.dir='a b'", "seed=1,2"],
    ["++seed=1,2", "~recipe"],
]
PARAMS: tuple[dict[str, str], ...] = (
    {},
    {"seed": "7,8"},
    {"optimizer": "adamw,sgd", "trainer.epochs": "range(1,3)"},
)


def jobs_of_hydra(params: dict[str, str], overrides: list[str]) -> list[list[str]]:
    """What Hydra's sweeper makes of the main config's sweep and the command line's."""
    loader = ConfigLoaderImpl(create_config_search_path(str(folder("configs").resolve())))
    own = [x for x in overrides if x.startswith("hydra.")]
    texts = [f"{x}={y}" for x, y in params.items()] + [x for x in overrides if x not in own]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(texts)
    [jobs] = BasicSweeper.split_arguments(parsed, None)
    return [[*own, *x] for x in jobs]


def main_with(where: Path, params: dict[str, str]) -> Path:
    main = own_main(where)
    values = yaml.safe_load((main / "config.yaml").read_text())
    values["hydra"]["sweeper"] = {"params": params}
    return write(main, {"config.yaml": yaml.safe_dump(values, sort_keys=False)})


def test_jobs_are_those_of_hydra(tmp_path: Path) -> None:
    for number, params in enumerate(PARAMS):
        main = main_with(tmp_path / str(number), params)
        for overrides in SWEEPS[: 3 if params else None]:
            line = experiment(*overrides, main=main, several=True)
            jobs = [[str(x.input_line) for x in job] for job in line.jobs]
            expected = jobs_of_hydra(params, overrides)
            if "shuffle" in str(overrides):
                jobs, expected = sorted(jobs), sorted(expected)
            assert jobs == expected
            assert not line.mistakes


def test_a_sweep_in_the_main_config_may_refer_to_keys(tmp_path: Path) -> None:
    main = main_with(tmp_path, {"seed": "${trainer.epochs},3"})
    jobs = experiment(main=main, several=True).jobs
    assert [[str(x.input_line) for x in job] for job in jobs] == [["seed=20"], ["seed=3"]]


def test_a_single_run_is_one_job() -> None:
    line = experiment("seed=1", "optimizer=sgd")
    assert [[str(x.input_line) for x in job] for job in line.jobs] == [["seed=1", "optimizer=sgd"]]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["seed=range(1,2,0)"], ["hydra.sweeper: range() arg 3 must not be zero"]),
        (["seed=range(0)"], ["hydra.sweeper: there is nothing to run"]),
        (["model=glob(zz*)"], ["hydra.sweeper: there is nothing to run"]),
        (["seed=interval(0,1)"], ["hydra.sweeper: BasicSweeper does not support"]),
        (["hydra.run.dir=a,b"], ["hydra.run.dir: several values; Hydra's own keys take one"]),
        (["model=cnn,nope"], ["model: 'nope' is no choice"]),
        (["model=mlp,cnn", "model.hidden=[3]"], ["model.hidden: unknown key (known: widths, structure)"]),
        (["seed=1,-2", "optimizer.lr=1,x"], ["optimizer.lr: 'x' is not", "seed: -2 is not allowed"]),
        (["+x=1,2"], ["x: unknown key", "x: unknown key"]),
        (["hydra.sweeper.params={seed: '1,-2'}"], ["hydra.sweeper.params: "]),
    ],
)
def test_mistakes_of_sweeps(overrides: list[str], says: list[str]) -> None:
    """Each once, in however many jobs it is."""
    found = told(*overrides, several=True)
    assert len(found) == len(says), found
    for line, part in zip(found, says, strict=True):
        assert line.startswith(part)


# What command lines are made of, at random: right, nearly right, and neither.
KEYS = (
    *(
        "seed",
        "device",
        "plugins",
        "resume",
        "rerun",
        "model",
        "dataset",
        "optimizer",
        "scheduler",
        "averaging",
    ),
    *(
        "trainer",
        "recipe",
        "optimizer.lr",
        "optimizer.betas",
        "optimizer.betas.0",
        "optimizer.amsgrad",
        "model.x",
    ),
    *(
        "model.hidden",
        "model.dropout",
        "model._target_",
        "dataset.augmentation",
        "dataset.batch_size",
        "a.b.c",
    ),
    *(
        "dataset.val_fraction",
        "trainer.epochs",
        "trainer.max_steps",
        "scheduler.max_lr",
        "hydra",
        "hydra.run.dir",
    ),
    *(
        "hydra.mode",
        "hydra.callbacks",
        "hydra.searchpath",
        "hydra.sweeper.params",
        "hydra.job.num",
        "hydra/launcher",
    ),
    *("hydra.job_logging", "optimizer@x", "lr", "", ".", "optimizer.", "[0]", "x y", "é", "$", "_target_"),
)
VALUES = (
    *(
        "0",
        "1",
        "-1",
        "0.5",
        "1e-3",
        "nan",
        "inf",
        "true",
        "null",
        "",
        "''",
        "???",
        "adamw",
        "sgd",
        "mlp",
        "cnn",
    ),
    *(
        "none",
        "ema",
        "cosine",
        "cpu",
        "relu",
        "[]",
        "[1]",
        "[0.9,0.99]",
        "[[1]]",
        "{}",
        "{a: 1}",
        "{lr: 0.1}",
    ),
    *(
        "1,2",
        "a,b",
        "range(2)",
        "glob(*)",
        "choice(1,2)",
        "interval(0,1)",
        "shuffle(1,2)",
        "tag(a,1)",
        "int(3.0)",
    ),
    *(
        "${seed}",
        "${optimizer.lr}",
        "${nope}",
        "${model}",
        "${oc.env:NO}",
        "${hydra:job.num}",
        "${",
        "'${'",
        "$",
    ),
    *(
        "{_target_: os.system}",
        "os.system",
        "torch.nn.Linear",
        "digits/sgd_cosine",
        "../x",
        "/",
        "'",
        '"',
        "\\",
    ),
    *(
        "9" * 30,
        "x" * 300,
        "é",
        "\n",
        "a=b",
        "a:b",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "1_000",
        "0x10",
        "1:30",
        "~",
        "@",
    ),
)
RIGHT = (
    *(
        "seed=3",
        "optimizer=sgd",
        "model=logistic",
        "scheduler=none",
        "averaging=ema",
        "optimizer.lr=0.1",
        "~recipe",
    ),
    *("model.hidden=[3]", "++model.hidden=[2,2]", "seed=1,2", "optimizer=glob(*)", "hydra.run.dir=${seed}"),
    *(
        "trainer.max_steps=5",
        "dataset.batch_size=9",
        "dataset=synthetic",
        "recipe=digits/sgd_cosine",
        "device=cpu",
    ),
)
PREFIXES = ("", "", "", "", "", "+", "++", "~")


def a_command_line(generator: random.Random) -> list[str]:
    overrides = []
    for _ in range(generator.randrange(1, 5)):
        if generator.random() < 0.6:
            overrides.append(generator.choice(RIGHT))
            continue
        text = generator.choice(PREFIXES) + generator.choice(KEYS)
        if generator.random() < 0.95:
            text += "=" + generator.choice(VALUES)
        if generator.random() < 0.1:
            at = generator.randrange(len(text) + 1)
            text = text[:at] + generator.choice(string.printable + "é\udc80") + text[at:]
        overrides.append(text)
    return overrides


def test_no_command_line_makes_the_check_fail(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told what is wrong, or everything can be made of it: there is no third way."""
    monkeypatch.chdir(tmp_path)
    generator = random.Random(seed)
    made, refused = 0, 0
    for _ in range(25):
        overrides, several = a_command_line(generator), generator.random() < 0.3
        print(overrides, several)
        line = experiment(*overrides, several=several)
        jobs = [line.job(x) for x in line.jobs[:3]]
        found = [*line.mistakes, *(x for job in jobs for x in job.told(mistakes_of(job)))]
        assert all(str(x) for x in found)
        refused += bool(found)
        for job in jobs if not found else ():
            assert job.values is not None
            assemble(job.values, torch.device("cpu"))
            made += 1
    assert refused > 5
    assert made
    assert not list(tmp_path.iterdir())


# A plugin that notes what its constructors get.
RECORDING = """
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt

got = []

class Model(torch.nn.Linear):
    def __init__(
        self,
        *,
        width: Annotated[int, Ge(1), Lt(100)],
        rate: Annotated[float, Gt(0), Le(1)] = 0.5,
        kind: Literal["a", "b"] = "a",
        flag: bool = False,
        pair: tuple[int, Annotated[float, Ge(0)]] = (1, 0.0),
        names: Sequence[str] = (),
        maybe: Annotated[int, Ge(0)] | None = None,
        inner: torch.nn.Module | None = None,
        input_shape: tuple[int, int, int],
        num_classes: int,
    ) -> None:
        got.append((width, rate, kind, flag, pair, names, maybe, inner))
        super().__init__(2, 2)
"""
ATOMS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 50, 100, 2**70, 0.0, 0.5, 1.0, -0.5, 1e300, float("nan"), float("inf")),
    *(
        "",
        "a",
        "c",
        "1",
        "é",
        [],
        ["a"],
        [1, 0.5],
        [1, -1.0],
        [0.5, 1],
        [1],
        [1, 2, 3],
        ["a", 1],
        {},
        {"a": 1},
    ),
    *(
        [["a"]],
        {"_target_": "torch.nn.Identity"},
        {"_target_": "torch.nn.Dropout", "p": 3},
        {"_target_": "os.system"},
    ),
)


def is_right(got: tuple[Any, ...]) -> bool:
    """Whether a constructor's values are what its parameters say."""
    width, rate, kind, flag, pair, names, maybe, inner = got
    return (
        (type(width) is int and 1 <= width < 100)
        and (type(rate) in (int, float) and 0 < rate <= 1)
        and kind in ("a", "b")
        and type(flag) is bool
        and (len(pair) == 2 and type(pair[0]) is int and type(pair[1]) in (int, float) and pair[1] >= 0)
        and (isinstance(names, list | tuple) and all(isinstance(x, str) for x in names))
        and (maybe is None or (type(maybe) is int and maybe >= 0))
        and (inner is None or isinstance(inner, torch.nn.Module))
    )


def test_no_wrong_value_reaches_a_constructor(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"recording_{seed}"
    write(tmp_path, {f"{name}.py": RECORDING})
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, {"model/mine.yaml": f"_target_: {name}.Model\nwidth: 3\n"})
    line = experiment("model=mine", f"plugins=[{name}]", "averaging=none", own=tmp_path)
    job = line.job(line.jobs[0])
    assert job.values is not None
    assert not mistakes_of(job)
    recording = __import__(name)
    assert recording.got == [(3, 0.5, "a", False, (1, 0.0), (), None, None)]
    generator = random.Random(seed)
    standard, refused = job.values, 0
    keys = ("width", "rate", "kind", "flag", "pair", "names", "maybe", "inner", "other", "_args_")
    for _ in range(400):
        recording.got.clear()
        changes = {x: generator.choice(ATOMS) for x in generator.sample(keys, generator.randrange(1, 3))}
        print(changes)
        job.values = {**standard, "model": {**standard["model"], **changes}}
        found = mistakes_of(job)
        refused += bool(found)
        assert all(map(is_right, recording.got))
        assert bool(recording.got) == (not [x for x in found if x.key.startswith("model")])
        if not found:
            try:
                assemble(job.values, torch.device("cpu"))
            except ConfigError:
                continue
    assert 50 < refused < 400
