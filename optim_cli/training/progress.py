"""What a run shows: a header, a live display on a terminal or plain lines elsewhere, a result table."""

from __future__ import annotations

import os
import sys
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from optim_cli.training.events import Metrics, Observer, Plan

REFRESH_SECONDS = 0.25


class PatientConsole(Console):
    """Standard output that goes quiet where nobody reads it any more, as in `optim-run | head`."""

    def on_broken_pipe(self) -> None:
        """Go on without it."""
        self.quiet = True
        # What Python still holds of the output goes nowhere when it is flushed at the end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def show(console: Console) -> Observer:
    """The display that fits the console."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class PlainDisplay(Observer):
    """One line an evaluation: for files, pipes and logs."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def started(self, plan: Plan) -> None:
        """The header."""
        self.plan = plan
        for name, value in _header(plan):
            self._line(f"{name}: {value}")
        for group in plan.groups:
            self._line(f"group {group}")
        if plan.start:
            self._line(f"resumed from step {plan.start}")

    def noted(self, text: str) -> None:
        """The line."""
        self._line(text)

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        """The line."""
        values = " ".join(f"{name} {_number(value)}" for name, value in metrics.items())
        self._line(f"epoch {epoch}/{self.plan.epochs} step {step}/{self.plan.steps} {values}")

    def finished(self, final: Metrics, best: Metrics) -> None:
        """The results."""
        for title, metrics in (("final", final), ("best", best)):
            self._line(f"{title}: " + " ".join(f"{x} {_number(y)}" for x, y in metrics.items()))

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveDisplay(Observer):
    """A line for each evaluation above a bar with step, loss, accuracy, rate, speed and time left.

    It is redrawn from the training thread, a few times a second: a thread of its own would take the
    interpreter from the loop at moments that nobody chose.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[measured]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            transient=True,
        )

    def started(self, plan: Plan) -> None:
        """The header and the empty bar."""
        self.plan = plan
        table = Table(show_header=False, box=None)
        table.add_column(style="bold cyan")
        for name, value in _header(plan):
            table.add_row(name, value)
        self.console.print(table)
        if plan.groups:
            self.console.print(_group_table(plan))
        if plan.start:
            self.noted(f"resumed from step {plan.start}")
        self.task = self.progress.add_task(
            "", total=plan.steps, completed=plan.start, epoch="", measured="", speed=""
        )
        self.progress.start()
        self.drawn, self.drawn_step = perf_counter(), plan.start

    def stepped(self, step: int, epoch: int) -> None:
        """Redraw if it is time."""
        now = perf_counter()
        elapsed = now - self.drawn
        if elapsed < REFRESH_SECONDS:
            return
        speed = (step - self.drawn_step) * self.plan.batch_size / elapsed
        self.drawn, self.drawn_step = now, step
        self.progress.update(
            self.task, completed=step, epoch=f"{epoch}/{self.plan.epochs}", speed=f"{speed:,.0f} samples/s"
        )
        self.progress.refresh()

    def measured(self, step: int, epoch: int, metrics: Metrics) -> None:
        """Shown at the next redraw."""
        # The rates of groups would fill the line.
        shown = {name.removeprefix("train/"): x for name, x in metrics.items() if not name.startswith("lr/")}
        text = "  ".join(f"{name} {_number(x)}" for name, x in shown.items())
        self.progress.update(self.task, measured=text)

    def evaluated(self, step: int, epoch: int, metrics: Metrics) -> None:
        """A line above the bar."""
        self.progress.update(self.task, completed=step, epoch=f"{epoch}/{self.plan.epochs}")
        values = "  ".join(f"{name} [bold]{_number(x)}[/]" for name, x in metrics.items())
        self.progress.console.print(f"epoch {epoch:>3}  {values}", highlight=False)

    def noted(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finished(self, final: Metrics, best: Metrics) -> None:
        """The results."""
        self.close()
        title = f"Results{' on synthetic data' if self.plan.synthetic else ''}"
        table = Table("metric", "final", "best on val", title=title, title_justify="left")
        for name in dict.fromkeys([*final, *best]):
            table.add_row(name, *(_number(x[name]) if name in x else "" for x in (final, best)))
        self.console.print(table)

    def close(self) -> None:
        """Give the terminal back, also when the run ends early."""
        self.progress.stop()


def _header(plan: Plan) -> list[tuple[str, str]]:
    averaging = "" if plan.averaging == "none" else f", averaging {plan.averaging}"
    return [
        ("device", plan.device),
        ("dataset", plan.dataset + (" (synthetic data)" if plan.synthetic else "")),
        ("model", f"{plan.model}, {plan.parameters:,} parameters"),
        ("optimizer", plan.optimizer),
        ("schedule", plan.schedule + averaging),
        ("length", f"{plan.epochs} epochs, {plan.steps:,} steps of {plan.batch_size} samples"),
    ]


def _group_table(plan: Plan) -> Table:
    table = Table("group", "takes", "values", title="Parameter groups", title_justify="left")
    for name in ("tensors", "parameters"):
        table.add_column(name, justify="right")
    for row in plan.groups:
        counts = str(row.tensors), f"{row.parameters:,}"
        table.add_row(*map(Text, (row.name, row.takes, row.values, *counts)))
    return table


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
