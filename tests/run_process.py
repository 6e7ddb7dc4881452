"""Runs in processes of their own, forked from one that has imported everything: they start at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from optim_cli.assemble import resolve
from optim_cli.errors import ConfigError
from optim_cli.run import run
from optim_cli.training.stop import Stopped
from tests.experiments import CHOICES, config_of

PATIENCE = 120  # seconds that a loaded machine may take
AT_ONCE = 77  # exit code of this driver for a KeyboardInterrupt
CONTEXT = multiprocessing.get_context("forkserver")
# With what a run imports on its way.
CONTEXT.set_forkserver_preload(
    [
        *(__name__, "optim_cli.optim.lr_scheduler", "optim_cli.models.mlp", "matplotlib.figure"),
        *(
            "optim_cli.datasets.synthetic",
            "optim_cli.datasets.image_folder",
            "matplotlib.backends.backend_agg",
        ),
    ]
)


def output_of(directory: Path) -> Path:
    """Where a process of `started` writes what it shows."""
    return directory.with_name(f"{directory.name}.output")


def started(directory: Path, *overrides: str, resume: bool = False) -> ForkServerProcess:
    """Run or resume in a process, the leader of a group of its own."""
    process = CONTEXT.Process(target=_run, args=(resolve(config_of(*overrides)), directory, resume))
    process.start()
    return process


def ended(process: ForkServerProcess) -> int | None:
    """Its exit code; minus the signal that killed it."""
    process.join(PATIENCE)
    assert process.exitcode is not None, "it never ended"
    return process.exitcode


def wait_until(condition: Callable[[], Any], process: ForkServerProcess) -> None:
    """As soon as it holds, while the process runs."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "it never came"
        assert process.is_alive(), f"it ended before, with {process.exitcode}"
        time.sleep(0.001)


def _run(values: dict[str, Any], directory: Path, resume: bool) -> None:
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # of its own workers, as in the command
    sys.stdout = sys.stderr = output_of(directory).open("a", encoding="utf-8", buffering=1)
    logging.basicConfig(filename=directory.with_name(f"{directory.name}.log"), level=logging.INFO)
    torch.set_num_threads(1)
    try:
        run(values, directory, CHOICES, resume=resume)
    except ConfigError as error:
        print(error)
        sys.exit(2)
    except Stopped as stopped:
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        sys.exit(AT_ONCE)
