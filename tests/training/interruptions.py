"""Runs in this process that are broken off where a test wants it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from optim_cli.training import loop
from optim_cli.training.progress import PlainDisplay
from optim_cli.training.stop import Stopped
from tests.experiments import train


class Killed(BaseException):
    """Ends a run without its doing, as nothing in it expects."""


def broken_off(directory: Path, *overrides: str, how: str, at: int, resume: bool = False) -> bool:
    """Run or resume; whether it was broken off, or came to its end before.

    Args:
        directory: of the run.
        overrides: of the default config.
        how: `stop` sends SIGINT in a step, `evaluation` while evaluating, `kill` raises.
        at: the step, or the first one whose evaluation may be the moment.
        resume: go on with the run of the directory.
    """

    def stepped(display: PlainDisplay, step: int, epoch: int) -> None:
        if step == at and how == "kill":
            raise Killed
        if step == at and how == "stop":
            signal.raise_signal(signal.SIGINT)

    original = loop.Training._metrics_on

    def metrics_on(training: loop.Training, *arguments: Any) -> Any:
        if training.step >= at and how == "evaluation":
            signal.raise_signal(signal.SIGINT)
        return original(training, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainDisplay, "stepped", stepped)
        patch.setattr(loop.Training, "_metrics_on", metrics_on)
        try:
            train(directory, *overrides, resume=resume)
        except (Killed, Stopped):
            return True
    return False
