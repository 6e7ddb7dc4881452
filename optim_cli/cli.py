"""The command `optim-run`: Hydra's entry point; torch is imported only once a run starts."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from optim_cli.config.experiment import Experiment

FAILED, WRONG_CONFIG, INTERRUPTED, TERMINATED = 1, 2, 130, 143


def main() -> None:
    """Run the command line; the exit code tells how it ended (0, 1, 2, 130, 143)."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _compose_and_run()
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read has seen enough (`--cfg job | head`); Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def run_id() -> str:
    """A name for a run's folder: when it started, and letters that no other run gets."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid4().hex[:8]}"


def _compose_and_run() -> None:
    # Imported here, where an interrupt is answered.
    import logging

    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # Hydra raises instead of printing and leaving with 1, so that a wrong config is told apart.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = get_args_parser().parse_intermixed_args()
    if arguments.experimental_rerun is not None:
        _refuse(["--experimental-rerun reads a pickle, which may run anything; use rerun=DIR"])
    if arguments.shell_completion and any(x.startswith("query=") for x in arguments.overrides):
        from optim_cli.completion import complete

        complete(arguments, _hydra)
        return
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    try:
        _hydra(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError, OSError) as error:
        # Hydra's own, while it composes and makes the folder: `_job` lets none of a run through.
        _refuse([str(error)])


def _hydra(arguments: Namespace) -> None:
    """Check what is asked for, then let Hydra do it."""
    import hydra
    from omegaconf import OmegaConf

    from optim_cli.config.search_path import VERSION_BASE, register, search_path
    from optim_cli.paths import folder

    identity = run_id()
    OmegaConf.register_new_resolver("run_id", lambda: identity, replace=True)
    main, name = folder("configs").resolve(), arguments.config_name or "config"
    options = [x for x in sys.argv[1:] if x not in arguments.overrides]
    if arguments.config_path:
        # Meant from where the command is given, as every path in a shell; Hydra takes it from this file's.
        main = Path(arguments.config_path).resolve()
        options = [
            x.removesuffix(arguments.config_path) + str(main) if x.endswith(arguments.config_path) else x
            for x in options
        ]
    register([main, *(Path(x).resolve() for x in [arguments.config_dir] if x)])
    job: Callable[[DictConfig], float | None] = _nothing
    sweep = None
    if not (arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info):
        from optim_cli.config.experiment import Experiment

        several = arguments.multirun or "hydra.mode=MULTIRUN" in arguments.overrides
        where = search_path(main, arguments.config_dir)
        experiment = Experiment(where, name, arguments.overrides, several)
        _check(experiment, run=arguments.cfg is None)
        if arguments.cfg == "job" and experiment.saved:
            print(experiment.as_yaml(), end="")
            return
        sweep, arguments.overrides = experiment.sweep_directory(), experiment.for_hydra()
        job = partial(_job, experiment)
    sys.argv[1:] = [*options, *arguments.overrides]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(main), config_name=name)(job)()
    finally:
        all_done = sweep is None or _report(sweep)
    if not all_done:
        sys.exit(FAILED)


def _report(sweep: Path) -> bool:
    """Show what the jobs of a multirun came to, also when they were interrupted; whether all are done."""
    from rich.console import Console

    from optim_cli.sweep.report import report

    return not sweep.is_dir() or report(sweep, Console())


def _check(experiment: Experiment, run: bool) -> None:
    """End here if anything is wrong."""
    if run:
        from optim_cli.preflight import all_mistakes

        mistakes = all_mistakes(experiment)
    else:
        mistakes = experiment.mistakes_of_composition()
    if mistakes:
        _refuse(map(str, mistakes))


def _nothing(config: DictConfig) -> None:
    """The job of a command line that only asks."""


def _job(experiment: Experiment, config: DictConfig) -> float:
    """One job; what it returns is a sweep's objective."""
    from optim_cli.job import run_job

    return run_job(experiment, config)


def _terminate(signum: int, frame: FrameType | None) -> None:
    _say("terminated")
    sys.exit(TERMINATED)


def _refuse(mistakes: Iterable[str]) -> NoReturn:
    """Tell what is wrong and leave."""
    lines = list(mistakes)
    if len(lines) > 1:
        _say(f"{len(lines)} mistakes, so nothing was started")
    for line in lines:
        _say(line)
    sys.exit(WRONG_CONFIG)


def _say(text: str) -> None:
    print(f"optim-run: {text}", file=sys.stderr)
