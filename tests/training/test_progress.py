"""What a run shows: lines where nobody watches, a live bar on a terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from optim_cli.training import progress
from optim_cli.training.events import GroupRow, Plan
from optim_cli.training.progress import LiveDisplay, PlainDisplay, show

PLAN = Plan(
    device="cpu (1 threads)",
    model="mlp",
    parameters=51146,
    dataset="digits",
    synthetic=False,
    optimizer="AdamW, lr 0.003",
    schedule="OneCycleLR",
    averaging="EMA",
    epochs=3,
    steps=1200,
    batch_size=64,
)
METRICS = {"train/loss": 0.123456789, "val/accuracy": 1.0}
FINAL = {"train/loss": 0.1, "val/accuracy": 0.5, "test/accuracy": 0.25}
BEST = {"train/loss": 0.2, "val/accuracy": 0.75, "test/accuracy": 0.125}
HIDE, UNHIDE = "\x1b[?25l", "\x1b[?25h"


def terminal() -> tuple[Console, StringIO]:
    output = StringIO()
    return Console(file=output, force_terminal=True, width=150, height=40, _environ={}), output


def file() -> tuple[Console, StringIO]:
    output = StringIO()
    return Console(file=output, width=60, _environ={}), output


def plain_text(text: str) -> str:
    """Without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def tell(display: Any, plan: Plan = PLAN) -> None:
    """The events of a short run."""
    display.started(plan)
    for step in range(1, 5):
        display.stepped(step, 1)
        if step % 2 == 0:
            display.measured(step, 1, {"train/loss": 1 / step, "lr": 0.5})
    display.evaluated(4, 1, METRICS)
    display.stepped(5, 2)
    display.evaluated(5, 2, METRICS)
    display.finished(FINAL, BEST)
    display.close()


def test_the_display_fits_the_console() -> None:
    assert isinstance(show(terminal()[0]), LiveDisplay)
    assert isinstance(show(file()[0]), PlainDisplay)


def test_plain_lines() -> None:
    console, output = file()
    tell(PlainDisplay(console))
    assert output.getvalue().splitlines() == [
        "device: cpu (1 threads)",
        "dataset: digits",
        "model: mlp, 51,146 parameters",
        "optimizer: AdamW, lr 0.003",
        "schedule: OneCycleLR, averaging EMA",
        "length: 3 epochs, 1,200 steps of 64 samples",
        "epoch 1/3 step 4/1200 train/loss 0.1235 val/accuracy 1",
        "epoch 2/3 step 5/1200 train/loss 0.1235 val/accuracy 1",
        "final: train/loss 0.1 val/accuracy 0.5 test/accuracy 0.25",
        "best: train/loss 0.2 val/accuracy 0.75 test/accuracy 0.125",
    ]


def test_plain_lines_are_never_wrapped_or_marked_up() -> None:
    """However narrow the console and odd the names."""
    console, output = file()
    display = PlainDisplay(console)
    display.started(replace(PLAN, model="[bold]odd[/]" * 20))
    assert output.getvalue().splitlines()[2] == "model: " + "[bold]odd[/]" * 20 + ", 51,146 parameters"


def test_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    console, output = terminal()
    tell(LiveDisplay(console))
    shown = output.getvalue()
    text = plain_text(shown)
    assert re.search(r"dataset\s+digits", text)
    assert re.search(r"4/1200.*loss 0.25 +lr 0.5.*samples/s", text), "no bar"
    assert re.search(r"epoch +1 +train/loss 0.1235 +val/accuracy 1\b", text)
    assert "━" in text
    table = text[text.index("Results") :]
    assert re.search(r"metric\W+final\W+best on val", table)
    for name in FINAL:
        final, best = (re.escape(f"{x[name]:g}") for x in (FINAL, BEST))
        assert re.search(rf"{name}\W+{final}\W+{best}\b", table)
    assert shown.count(HIDE) == 1
    assert shown.count(UNHIDE) >= 1
    assert shown.rindex(UNHIDE) > shown.rindex(HIDE), "the cursor stays hidden"
    assert not table.strip().endswith("samples/s"), "the bar is left behind"


def test_live_display_is_not_redrawn_at_every_step() -> None:
    console, output = terminal()
    display = LiveDisplay(console)
    display.started(PLAN)
    before = len(output.getvalue())
    for step in range(1, 1000):
        display.stepped(step, 1)
    display.close()
    assert output.getvalue()[before:].count("samples/s") <= 3


def test_closing_early_and_twice() -> None:
    console, output = terminal()
    display = LiveDisplay(console)
    display.started(PLAN)
    display.stepped(1, 1)
    assert HIDE in output.getvalue()
    assert UNHIDE not in output.getvalue()
    display.close()
    shown = output.getvalue()
    assert UNHIDE in shown
    display.close()
    assert output.getvalue() == shown
    LiveDisplay(terminal()[0]).close()  # before it was started
    PlainDisplay(file()[0]).close()


def test_an_average_and_synthetic_data_are_said() -> None:
    for make, console in ((PlainDisplay, file), (LiveDisplay, terminal)):
        target, output = console()
        tell(make(target), replace(PLAN, synthetic=True, averaging="none"))
        text = plain_text(output.getvalue())
        assert "digits (synthetic data)" in text
        assert "averaging" not in text
    assert "Results on synthetic data" in text


def test_a_resumed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so, and its bar starts there."""
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    for make, console in ((PlainDisplay, file), (LiveDisplay, terminal)):
        target, output = console()
        display = make(target)
        display.noted("warning: [odd] " + "x" * 200)  # before the start too
        display.started(replace(PLAN, start=600))
        display.stepped(601, 2)
        display.close()
        text = plain_text(output.getvalue())
        assert text.startswith("warning: [odd] " + "x" * 200 + "\n")
        assert "resumed from step 600\n" in text.replace("\r", "")
    assert "600/1200" in text
    assert "601/1200" in text
    target, output = file()
    PlainDisplay(target).started(PLAN)
    assert "resumed" not in output.getvalue()


def test_metrics_that_only_the_best_has() -> None:
    console, output = terminal()
    display = LiveDisplay(console)
    display.started(PLAN)
    display.finished({"a": 1.0}, {"b": 2})
    assert re.search(r"\ba\W+1\b", plain_text(output.getvalue()))
    assert re.search(r"\bb\W+2\b", plain_text(output.getvalue()))


GROUPS = (
    GroupRow("no_decay", "kind bias or norm", 3, 394, "weight_decay 0.0"),
    GroupRow("rest", "what no entry takes", 1, 50_432, ""),
)


def test_groups_as_lines() -> None:
    console, output = file()
    PlainDisplay(console).started(replace(PLAN, groups=GROUPS))
    assert output.getvalue().splitlines()[-2:] == [
        "group no_decay: kind bias or norm; 3 tensors, 394 parameters; weight_decay 0.0",
        "group rest: what no entry takes; 1 tensor, 50,432 parameters",
    ]


def test_groups_as_a_table() -> None:
    """Their rates leave the line of the bar alone."""
    console, output = terminal()
    display = LiveDisplay(console)
    display.started(replace(PLAN, groups=GROUPS))
    display.measured(1, 1, {"train/loss": 0.5, "lr": 0.25, "lr/no_decay": 0.125})
    display.drawn = 0.0
    display.stepped(2, 1)
    display.close()
    text = plain_text(output.getvalue())
    assert re.search(r"no_decay +│ kind bias or norm +│ weight_decay 0.0 +│ +3 │ +394 │", text)
    assert re.search(r"rest +│ what no entry takes +│ +│ +1 │ +50,432 │", text)
    assert "lr 0.25" in text
    assert "0.125" not in text
