"""`optim-run --groups`: every parameter with its group, and no run."""

from __future__ import annotations

import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from optim_cli.preview.groups import print_groups
from tests.command_lines import experiment, write
from tests.experiments import without_trace
from tests.test_ways_in import PATIENCE, environment, executed

PYTHON = (sys.executable, "-m", "optim_cli")


def printed(*words: str, several: bool = False) -> tuple[str, list[str]]:
    """What --groups prints, and the mistakes."""
    output = StringIO()
    mistakes = print_groups(experiment(*words, several=several), Console(file=output, width=30))
    return output.getvalue(), [str(x) for x in mistakes]


def test_every_parameter_is_printed_with_its_group() -> None:
    words = (
        "optimizer/param_groups=[no_decay_bias_norm,backbone_head]",
        "model.hidden=[8]",
        "scheduler=onecycle",
    )
    text, mistakes = printed(*words, "optimizer.param_groups.head.freeze=true")
    assert not mistakes
    assert [line.split("  ")[0] for line in text.splitlines()] == [
        *("parameter    ".strip(), "body.1.weight", "body.1.bias", "head.weight", "head.bias"),
    ]
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["body.1.weight", "8", "x", "64", "backbone", "0.0003", "0.01"]
    assert rows[2] == ["body.1.bias", "8", "no_decay", "0.003", "0"]
    assert rows[3] == ["head.weight", "10", "x", "8", "head", "frozen"]
    assert "\x1b" not in text
    text, mistakes = printed("model.hidden=[8]")
    assert text.count(" rest ") == 4


@pytest.mark.parametrize("scheduler", ["onecycle", "cyclic", "wsd"])
def test_values_are_those_that_are_given(scheduler: str) -> None:
    """Not those that a schedule begins with, of the run or of an entry."""
    cycle = "{_target_: optim_cli.optim.lr_scheduler.OneCycleLR, max_lr: 9, hyperparameter: weight_decay}"
    words = (f"scheduler={scheduler}", "optimizer/param_groups=[backbone_head]", "model.hidden=[8]")
    text, mistakes = printed(*words, f"optimizer.param_groups.head.scheduler={cycle}")
    assert not mistakes
    rows = [line.split() for line in text.splitlines()[1:]]
    assert [row[-3:] for row in rows] == [["backbone", "0.0003", "0.01"]] * 2 + [
        ["head", "0.003", "0.01"]
    ] * 2


class HalfFrozen(torch.nn.Module):
    """A model that does not train its first layer."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.first = torch.nn.Linear(64, 4).requires_grad_(False)
        self.last = torch.nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.first(images.flatten(1)))
        return logits


@pytest.mark.parametrize("entries", ["{}", "{bias: {kind: bias, freeze: true}}"])
def test_what_the_model_itself_freezes_is_in_no_group(tmp_path: Path, entries: str) -> None:
    own = write(tmp_path, {"model/half.yaml": "_target_: tests.preview.test_groups.HalfFrozen\n"})
    output = StringIO()
    line = experiment("model=half", "plugins=[tests]", f"++optimizer.param_groups={entries}", own=own)
    assert not print_groups(line, Console(file=output, width=30))
    rows = [row.split() for row in output.getvalue().splitlines()[1:]]
    assert rows[0] == ["first.weight", "4", "x", "64", "-", "by", "the", "model"]
    assert rows[1] == ["first.bias", "4", "-", "by", "the", "model"]
    assert rows[2] == ["last.weight", "10", "x", "4", "rest", "0.003", "0.01"]
    assert rows[3][2:] == (["rest", "0.003", "0.01"] if entries == "{}" else ["bias", "frozen"])


def test_mistakes_are_told_in_place_of_it() -> None:
    text, mistakes = printed("optimizer/param_groups=backbone_heat", "seed=-1")
    assert not text
    assert [x.partition(":")[0] for x in mistakes] == ["optimizer/param_groups", "seed"]
    [told] = printed("seed=1,2", several=True)[1]
    assert told == "--groups: is about one run; leave out -m and give one value to each key"


def test_the_command(tmp_path: Path) -> None:
    """As a process: the flag between overrides, plain text where nobody watches, and nothing is left."""
    done = executed([*PYTHON, "model.hidden=[8]", "--groups", "optimizer/param_groups=muon"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [x.split()[0] for x in done.stdout.splitlines()] == [
        *("parameter", "body.1.weight", "body.1.bias", "head.weight", "head.bias"),
    ]
    assert "matrices" in done.stdout.splitlines()[1]
    wrong = "+optimizer.param_groups.head={params: haed.*, lrr: 1}"
    done = executed([*PYTHON, "--groups", wrong, "seed=-1"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "2 mistakes" in done.stderr
    assert "did you mean optimizer.param_groups.head.lr?" in done.stderr
    assert without_trace(done.stderr)
    assert not list(tmp_path.iterdir())


def test_nobody_reads_it_any_more(tmp_path: Path) -> None:
    """It ends as `--cfg job` does, without a trace."""
    command = [*PYTHON, "--groups", "model.hidden=[8]"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
