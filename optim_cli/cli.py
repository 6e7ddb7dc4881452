"""The command `optim-run`: Hydra's entry point; torch is imported only once a run starts."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from functools import partial
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from optim_cli import __version__
from optim_cli.errors import FAILED, WRONG_CONFIG
from optim_cli.training.stop import StoppedAtOnce

if TYPE_CHECKING:
    from hydra.core.config_search_path import ConfigSearchPath
    from omegaconf import DictConfig

    from optim_cli.config.experiment import Experiment

INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command line; the exit code tells how it ended (0, 1, 2, 130, 143)."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _compose_and_run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read has seen enough (`--cfg job | head`); Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _compose_and_run() -> None:
    # Imported here, where an interrupt is answered.
    import logging

    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    # Hydra raises instead of printing and leaving with 1, so that a wrong config is told apart.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    parser = get_args_parser()
    arguments = _parsed(parser)
    try:
        if arguments.shell_completion and any(x.startswith("query=") for x in arguments.overrides):
            from optim_cli.completion import complete

            complete(arguments, partial(_hydra, parser))
        else:
            _hydra(parser, arguments)
    except BrokenPipeError:
        raise
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError, OSError) as error:
        # Hydra's own, while it composes and makes the folder: `run_job` lets none of a run through.
        _refuse([" ".join(str(error).split())])


def _parsed(parser: ArgumentParser) -> Namespace:
    """The command line; options and overrides in any order."""
    words = sys.argv[1:]
    parser.add_argument(
        "--schedule",
        nargs="?",
        const="",
        metavar="FILE",
        help="Draw what the schedule sets over the run, without running; in FILE (.png, .svg, .pdf) too",
    )
    parser.add_argument(
        "--groups", action="store_true", help="Print every parameter with its group, without running"
    )
    for action in parser._actions:
        if action.dest == "version":
            action.version = f"optim-run {__version__}, {action.version}"  # type: ignore[attr-defined]
        if action.dest == "info":
            # Without this, the parser takes an override behind it for what is to be shown.
            known = action.choices or ()
            words = [
                f"{x}=all" if x in action.option_strings and y not in known else x
                for x, y in zip_longest(words, words[1:])
            ]
        if action.dest == "schedule":
            words = [
                f"{x}=" if x in action.option_strings and not _is_file(y) else x
                for x, y in zip_longest(words, words[1:], fillvalue="")
            ]
    arguments = parser.parse_intermixed_args(words)
    if arguments.experimental_rerun is not None:
        _refuse(["--experimental-rerun reads a pickle, which may run anything; use rerun=DIR"])
    others = ("cfg", "info", "shell_completion")
    beside = [f"--{x.replace('_', '-')}" for x in others if getattr(arguments, x)]
    if _previews(arguments) and beside and not (arguments.help or arguments.hydra_help):
        _refuse([f"{_previews(arguments)[0]} and {beside[0]}: each shows something and ends; leave one out"])
    return arguments


def _is_file(word: str) -> bool:
    """Whether a word of the command line is neither an option nor an override."""
    return word != "" and not word.startswith("-") and "=" not in word and not word.startswith("~")


def _hydra(parser: ArgumentParser, arguments: Namespace) -> None:
    """Check what is asked for, then let Hydra do it."""
    from optim_cli.config.search_path import register, search_path
    from optim_cli.paths import folder

    # A folder is meant from where the command is given, as every path in a shell.
    main = Path(arguments.config_path or folder("configs")).resolve()
    arguments.config_path, arguments.config_name = str(main), arguments.config_name or "config"
    register([main, *(Path(x).resolve() for x in [arguments.config_dir] if x)])
    where = search_path(main, arguments.config_dir)
    helps = arguments.help or arguments.hydra_help
    if _previews(arguments) and not helps:
        _preview(arguments, where)
        return
    only_tells = helps or arguments.shell_completion or arguments.info
    if only_tells and (arguments.shell_completion or not arguments.overrides):
        _give_to_hydra(parser, arguments)
    else:
        _checked(parser, arguments, where, run=not only_tells and arguments.cfg is None)


def _previews(arguments: Namespace) -> list[str]:
    """The options that show something of a run, as they are written."""
    asked = {"--groups": arguments.groups, "--schedule": arguments.schedule is not None}
    return [option for option, is_there in asked.items() if is_there]


def _preview(arguments: Namespace, where: ConfigSearchPath) -> None:
    """Draw a schedule, print parameter groups, or tell what is wrong."""
    from optim_cli.config.experiment import Experiment
    from optim_cli.preview.command import draw
    from optim_cli.preview.groups import print_groups
    from optim_cli.preview.output import Output

    experiment = Experiment(where, arguments.config_name, arguments.overrides, arguments.multirun)
    mistakes = print_groups(experiment, Output()) if arguments.groups else []
    if arguments.schedule is not None and not mistakes:
        mistakes = draw(experiment, arguments.schedule, Output())
    if mistakes:
        _refuse(map(str, mistakes))


def _checked(parser: ArgumentParser, arguments: Namespace, where: ConfigSearchPath, run: bool) -> None:
    """Tell what is wrong, or go on.

    Args:
        run: whether jobs are to run; then everything is checked, else what takes no torch.
    """
    from optim_cli.config.experiment import Experiment

    name, overrides = arguments.config_name, arguments.overrides
    several = arguments.multirun or Experiment(where, name, overrides, several=True).is_multirun()
    experiment = Experiment(where, name, overrides, several)
    if run:
        from optim_cli.preflight import all_mistakes

        mistakes = all_mistakes(experiment)
    else:
        mistakes = experiment.mistakes_of_composition()
    if mistakes:
        _refuse(map(str, mistakes))
    if arguments.cfg == "job" and experiment.saved:
        print(experiment.as_yaml(), end="")
        return
    arguments.overrides = experiment.for_hydra()
    try:
        _give_to_hydra(parser, arguments, experiment)
    finally:
        all_done = not (run and several) or _report(experiment)
    if not all_done:
        sys.exit(FAILED)


def _give_to_hydra(
    parser: ArgumentParser, arguments: Namespace, experiment: Experiment | None = None
) -> None:
    import hydra

    from optim_cli.config.search_path import VERSION_BASE

    options = []
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        is_ours = action.dest in ("groups", "schedule")  # which Hydra does not know
        if action.option_strings and not is_ours and value not in (None, False):
            name = max(action.option_strings, key=len)
            options.append(name if value is True else f"{name}={value}")
    sys.argv[1:] = [*arguments.overrides, *options]
    main, name = arguments.config_path, arguments.config_name
    hydra.main(version_base=VERSION_BASE, config_path=main, config_name=name)(partial(_job, experiment))()


def _job(experiment: Experiment | None, config: DictConfig) -> float:
    """One job; what it returns is a sweep's objective."""
    from optim_cli.job import run_job

    assert experiment is not None, "Hydra runs a job though it was only asked something"
    return run_job(experiment, config)


def _report(experiment: Experiment) -> bool:
    """Show what the jobs of a multirun came to, also when they were interrupted; whether all are done."""
    from rich.console import Console

    from optim_cli.sweep.report import report

    sweep = experiment.directory()
    if sweep is None or not sweep.is_dir():
        return False
    try:
        return report(sweep, Console(), experiment.planned())
    except OSError as error:
        _say(f"the results of the sweep could not be written: {error}")
        return False


def _terminate(signum: int, frame: FrameType | None) -> None:
    _say("terminated")
    raise StoppedAtOnce(128 + signum)


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
