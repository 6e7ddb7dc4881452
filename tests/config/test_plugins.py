"""A user's own package: what of it may be called, what is checked, and whose lines its failures show."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch

from optim_cli.assemble import assemble
from optim_cli.config.targets import hints_of, kind_of, locate, plugins_of
from optim_cli.errors import user_frames
from tests.command_lines import experiment, own_main, told, write

MODULE = """
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from optim_cli.datasets.dataset import Dataset
from optim_cli.datasets.digits import digits


class Model(torch.nn.Linear):
    def __init__(self, *, gain: Annotated[float, Ge(0)], input_shape: tuple[int, ...], num_classes: int):
        super().__init__(input_shape[1] * input_shape[2], num_classes)


def function(num_classes: int, gain: float = 1.0):
    return torch.nn.Linear(64, num_classes)


def not_a_model(num_classes: int):
    return "a text"


def data(*, batch_size: Annotated[int, Ge(1), Lt(1000)]) -> Dataset:
    rest = dict(test_fraction=0.2, val_fraction=0.1, seed=0, split_seed=0, augmentation=None)
    return digits(batch_size=batch_size, **rest)


class Optimizer(torch.optim.SGD):
    def __init__(self, params, lr: Annotated[float, Ge(0)], *, extra: int = 0) -> None:
        super().__init__(params, lr)


class Scheduler(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]


class ByZero(torch.nn.Module):
    def __init__(self) -> None:
        1 / 0


def half(step: int) -> float:
    return 0.5


class Refusing(torch.nn.Module):
    def __init__(self, size: int) -> None:
        self.check(size)

    def check(self, size: int) -> None:
        raise ValueError(f"size {size} is odd")
"""
FILES = {
    "__init__.py": "",
    "parts.py": MODULE,
    "failing.py": "def fail():\n    return 1 / 0\n\n\nfail()\n",
    "syntax.py": "x = 1\ny = = 2\n",
    "needing.py": "import a_package_that_nobody_has\n",
    "leaving.py": "import sys\n\nsys.exit(3)\n",
}
CHOICES = {
    "model/mine.yaml": "_target_: mine.parts.Model\ngain: 0.5\n",
    "model/function.yaml": "_target_: mine.parts.function\n",
    "model/text.yaml": "_target_: mine.parts.not_a_model\n",
    "model/refusing.yaml": "_target_: mine.parts.Refusing\nsize: 3\n",
    "model/zero.yaml": "_target_: mine.parts.ByZero\n",
    "dataset/mine.yaml": "_target_: mine.parts.data\nbatch_size: 64\n",
    "optimizer/mine.yaml": "_target_: mine.parts.Optimizer\nlr: 0.1\n",
    "scheduler/mine.yaml": "_target_: mine.parts.Scheduler\n",
    "model/resnet.yaml": "_target_: torchvision.models.resnet18\nnum_classes: 10\n",
    "optimizer/torchs.yaml": "_target_: torch.optim.AdamW\nlr: 0.1\n",
    **{f"model/{x}.yaml": f"_target_: mine.{x}.Model\n" for x in ("failing", "syntax", "needing", "leaving")},
}
MINE = ("model=mine", "dataset=mine", "optimizer=mine", "scheduler=mine")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of choices beside the package `mine`, in the current folder."""
    write(tmp_path, {f"mine/{x}": y for x, y in FILES.items()})
    write(tmp_path / "own", CHOICES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "own"
    for name in [x for x in sys.modules if x.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_named_on_the_command_line(own: Path) -> None:
    line = experiment(*MINE, "plugins=[mine]", own=own)
    job = line.job(line.jobs[0])
    assert not told(*MINE, "plugins=[mine]", own=own)
    assert job.values is not None
    training = assemble(job.values, torch.device("cpu"))
    assert type(training.model).__module__ == "mine.parts"
    assert type(training.optimizer).__module__ == "mine.parts"
    assert type(training.scheduler).__module__ == "mine.parts"
    assert training.dataset.batch_size == 64
    assert not told("model=function", "plugins=[mine]", own=own)


def test_named_in_ones_own_main_config(own: Path, tmp_path: Path) -> None:
    main = own_main(tmp_path / "main")
    text = (main / "config.yaml").read_text().replace("plugins: []", "plugins: [mine]")
    write(main, {"config.yaml": text})
    assert not told(*MINE, own=own, main=main)


def test_not_named(own: Path) -> None:
    report = told(*MINE, own=own)
    assert len(report) == 4
    for line in report:
        assert "'mine.parts." in line
        assert "may not be called" in line
        assert "; plugins=[mine] on the command line allows a package" in line
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["model=mine", "model.gain=-1"],
            "model.gain: -1 is not allowed; allowed: a number greater than or equal",
        ),
        (["model=mine", "+model.gian=1"], "model.gian: unknown key; did you mean model.gain?"),
        (["model=mine", "~model.gain"], "model.gain: missing; allowed: a number"),
        (["dataset=mine", "dataset.batch_size=1000"], "dataset.batch_size: 1000 is not allowed"),
        (
            ["optimizer=mine", "+optimizer.extra=x"],
            "optimizer.extra: 'x' is not allowed; allowed: an integer",
        ),
        (["model=text"], "model._target_: mine.parts.not_a_model made a str, not a Module"),
        (["model._target_=mine.parts.Optimizer"], "model._target_: 'mine.parts.Optimizer' makes nothing"),
        (["model._target_=mine.parts.torch.nn.Linear"], "is not to be found"),
        (["model._target_=mine.parts.Nothing"], "model._target_: 'mine.parts.Nothing' is not to be found"),
        (["model._target_=mine.nowhere.Model"], "model._target_: 'mine.nowhere.Model' is not to be found"),
        (["model._target_=mine._private.Model"], "model._target_: 'mine._private.Model' may not be called"),
    ],
)
def test_its_parameters_are_checked(own: Path, overrides: list[str], says: str) -> None:
    assert says in told(*overrides, "plugins=[mine]", own=own)[0]


@pytest.mark.parametrize(
    ("choice", "says", "frames"),
    [
        (
            "failing",
            "importing 'mine.failing.Model' failed: ZeroDivisionError: division by zero",
            [("failing.py", 5, "fail()"), ("failing.py", 2, "return 1 / 0")],
        ),
        ("syntax", "failed: SyntaxError: invalid syntax", [("syntax.py", 2, "y = = 2")]),
        (
            "needing",
            "failed: ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
            [("needing.py", 1, "import a_package_that_nobody_has")],
        ),
        ("leaving", "failed: SystemExit: 3", [("leaving.py", 3, "sys.exit(3)")]),
        (
            "refusing",
            "model: size 3 is odd",
            [
                ("parts.py", 50, "self.check(size)"),
                ("parts.py", 53, 'raise ValueError(f"size {size} is odd")'),
            ],
        ),
    ],
)
def test_failures_show_the_users_lines(
    own: Path, choice: str, says: str, frames: list[tuple[str, int, str]]
) -> None:
    [report] = told(f"model={choice}", "plugins=[mine]", own=own)
    first, *lines = report.splitlines()
    assert says in first
    assert f"own/model/{choice}.yaml" in first
    places = [x.strip() for x in lines if x.lstrip().startswith("File ")]
    assert [x.partition(", in ")[0] for x in places] == [
        f'File "{own.parent / "mine" / name}", line {number}' for name, number, _ in frames
    ]
    for _, _, code in frames:
        assert code in [x.strip() for x in lines]
    assert "optim_cli" not in report
    assert "importlib" not in report


def test_functions(own: Path) -> None:
    """What is named in place of a function is of a plugin, and found before the run."""
    named = ("scheduler=lambda", "scheduler.lr_lambda=mine.parts.not_a_model")
    [report] = told(*named, own=own)
    assert report.startswith(
        "scheduler.lr_lambda: 'mine.parts.not_a_model' may not be called; allowed: the dotted"
    )
    assert "optim_cli.optim; plugins=[mine] on the command line allows a package" in report
    assert "mine" not in sys.modules
    for path, says in (
        ("mine.parts.nothing", "is not to be found"),
        ("mine.parts.torch", "is no function that may be called here"),
        ("mine.parts.digits", "is no function that may be called here"),
        ("mine.failing.half", "importing 'mine.failing.half' failed: ZeroDivisionError"),
    ):
        [report] = told(named[0], f"scheduler.lr_lambda={path}", "plugins=[mine]", own=own)
        assert says in report
    line = experiment("scheduler=lambda", "scheduler.lr_lambda=mine.parts.half", "plugins=[mine]", own=own)
    job = line.job(line.jobs[0])
    assert job.values is not None
    training = assemble(job.values, torch.device("cpu"))
    assert training.optimizer.param_groups[0]["lr"] == job.values["optimizer"]["lr"] / 2


def test_other_failures_are_left_to_the_run(own: Path) -> None:
    """They are no mistakes of a config: the run tells them, with the same lines."""
    line = experiment("model=zero", "plugins=[mine]", own=own)
    job = line.job(line.jobs[0])
    assert not told("model=zero", "plugins=[mine]", own=own)
    assert job.values is not None
    with pytest.raises(ZeroDivisionError) as caught:
        assemble(job.values, torch.device("cpu"))
    frames = user_frames(caught.value, ["mine"])
    assert "parts.py" in frames[0]
    assert "1 / 0" in [x.strip() for x in frames]
    assert not [x for x in frames if "optim_cli" in x]


def test_libraries_by_import_path(own: Path) -> None:
    line = experiment("model=resnet", "dataset=synthetic", "optimizer=torchs", own=own)
    job = line.job([*line.jobs[0]])
    line = experiment(
        *("model=resnet", "dataset=synthetic", "dataset.input_shape=[3,32,32]", "optimizer=torchs"), own=own
    )
    job = line.job(line.jobs[0])
    assert job.values is not None
    training = assemble(job.values, torch.device("cpu"))
    assert type(training.optimizer) is torch.optim.AdamW
    assert type(training.model).__name__ == "ResNet"
    images = torch.zeros(2, 3, 32, 32)
    assert training.model(images).shape == (2, 10)
    report = told("model=resnet", "+model.nothing=3", own=own)
    assert "model: " in report[0]
    assert "nothing" in report[0]


def test_what_has_no_file_has_no_frames() -> None:
    with pytest.raises(ValueError, match="unknown url") as caught:
        urlopen("nowhere")
    assert not user_frames(caught.value, ["__main__", "sys", "a_package_that_nobody_has", "math"])
    assert user_frames(caught.value, ["urllib"])


@pytest.mark.parametrize("plugins", [None, "x", 3, {}, [1], ["a.b"], [""], [[]], ["a", 1]])
def test_wrong_plugins_allow_nothing(plugins: object) -> None:
    assert plugins_of({"plugins": plugins}) == []
    assert plugins_of({}) == []


def test_names_of_modules_that_begin_alike(own: Path) -> None:
    """A module that is not there is told as such, whatever else begins with its name."""
    write(own.parent, {"mine/part.py": "import min\n"})
    with pytest.raises(ModuleNotFoundError):
        locate("mine.part.Model", (kind_of("model"),), ["mine"])


def test_annotations_that_cannot_be_read() -> None:
    def function(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Its annotation names nothing."""

    assert hints_of(function) == {}
