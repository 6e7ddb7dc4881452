"""The command `optim-run`: Hydra's entry point; torch is imported only once a run starts."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from omegaconf import DictConfig

FAILED, WRONG_CONFIG, INTERRUPTED, TERMINATED = 1, 2, 130, 143


def main() -> None:
    """Run the command line; the exit code tells how it ended (0, 1, 2, 130, 143)."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _compose_and_run()
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)


def run_id() -> str:
    """A name for a run's folder: when it started, and letters that no other run gets."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid4().hex[:8]}"


def _compose_and_run() -> None:
    # Imported here, where an interrupt is answered.
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from optim_cli.paths import folder
    from optim_cli.search_path import register

    register()
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    # Hydra raises instead of printing and leaving with 1, so that a wrong config is told apart.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    configs = str(folder("configs").resolve())
    try:
        hydra.main(version_base="1.3", config_path=configs, config_name="config")(_job)()
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError, OSError) as error:
        # Hydra's own, while it composes and makes the folder: `_job` lets none of a run through.
        _say(str(error))
        sys.exit(WRONG_CONFIG)


def _job(config: DictConfig) -> float | None:
    """One job: a run, or one of a multirun; what it returns is a sweep's objective."""
    import logging

    from hydra.core.hydra_config import HydraConfig

    from optim_cli.assemble import resolve
    from optim_cli.errors import ConfigError
    from optim_cli.run import run
    from optim_cli.training.stop import Stopped

    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    # Hydra's own groups (hydra/launcher, ...) are of no interest to the run.
    choices = {x: y for x, y in hydra_config.runtime.choices.items() if "/" not in str(x)}
    try:
        results = run(resolve(config), directory, choices)
    except Stopped as stopped:
        _say(f"interrupted by {stopped.signum.name}")
        sys.exit(128 + stopped.signum)
    except ConfigError as error:
        _say(str(error))
        _remove_empty(directory)
        sys.exit(WRONG_CONFIG)
    except Exception as error:
        # What a worker process raised comes with its trace, the cause on the last line.
        cause = (str(error).strip().splitlines() or [""])[-1]
        _say(f"the run failed: {type(error).__name__}: {cause}")
        with suppress(OSError):  # of a log that cannot be written either
            logging.getLogger(__name__).exception("the run failed")
            _say(f"the full trace is in {directory / 'run.log'}")
        sys.exit(FAILED)
    return results.best.get("val/accuracy", results.final["test/accuracy"])


def _remove_empty(directory: Path) -> None:
    """Take back the folder that Hydra made for a run that never was, and the one around it."""
    for folder in (directory, directory.parent):
        try:
            folder.rmdir()
        except OSError:  # it holds something
            return


def _terminate(signum: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


def _say(text: str) -> None:
    print(f"optim-run: {text}", file=sys.stderr)
