"""The command `optim-run`: Hydra's entry point; torch is imported only once a run starts."""

from __future__ import annotations

import logging
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from uuid import uuid4

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.errors import ConfigError
from optim_cli.paths import folder
from optim_cli.search_path import register

DONE, FAILED, WRONG_CONFIG, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main() -> None:
    """Run the command line; the exit code tells how it ended (0, 1, 2, 130, 143)."""
    register()
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    signal.signal(signal.SIGTERM, _terminate)
    # Hydra raises instead of printing and leaving with 1, so that a wrong config is told apart.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(folder("configs").resolve()), config_name="config")(
            _job
        )()
    except (HydraException, OmegaConfBaseException, ValueError, TypeError, OSError) as error:
        # Hydra's own, while it composes and makes the folder: `_job` lets none of a run through.
        _say(str(error))
        sys.exit(WRONG_CONFIG)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)


def run_id() -> str:
    """A name for a run's folder: when it started, and letters that no other run gets."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{uuid4().hex[:8]}"


def _job(config: DictConfig) -> float | None:
    """One job: a run, or one of a multirun; what it returns is a sweep's objective."""
    from optim_cli.run import run

    hydra_config = HydraConfig.get()
    try:
        # Hydra's own groups (hydra/launcher, ...) are of no interest to the run.
        choices = {x: y for x, y in hydra_config.runtime.choices.items() if "/" not in str(x)}
        results = run(config, Path(hydra_config.runtime.output_dir), choices)
    except ConfigError as error:
        _say(str(error))
        sys.exit(WRONG_CONFIG)
    except Exception as error:
        logging.getLogger(__name__).exception("the run failed")
        _say(f"the run failed: {type(error).__name__}: {error}")
        _say(f"the full trace is in {os.path.join(hydra_config.runtime.output_dir, 'run.log')}")
        sys.exit(FAILED)
    return results.best.get("val/accuracy", results.final["test/accuracy"])


def _terminate(signum: int, frame: FrameType | None) -> None:
    sys.exit(TERMINATED)


def _say(text: str) -> None:
    print(f"optim-run: {text}", file=sys.stderr)
