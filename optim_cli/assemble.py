"""From a config to the parts of a run: the one place that instantiates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from optim_cli.check import hints_of, is_duration, locate, mistakes
from optim_cli.errors import ConfigError
from optim_cli.training.loop import Training


def resolve(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, checked.

    Raises:
        ConfigError: with every mistake in it.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error)) from error
    assert isinstance(values, dict)
    found = mistakes({str(key): value for key, value in values.items()})
    if found:
        raise ConfigError("\n".join(found))
    return {str(key): value for key, value in values.items()}


def assemble(values: Mapping[str, Any], device: torch.device) -> Training:
    """Instantiate a resolved config: dataset, model, optimizer, scheduler, averaging, training.

    Raises:
        ConfigError: a constructor refuses its values, or files are missing.
    """
    trainer = _make("trainer", values["trainer"])
    dataset = _make("dataset", values["dataset"])
    model = _make(
        "model", values["model"], input_shape=dataset.input_shape, num_classes=dataset.num_classes
    ).to(device)
    optimizer = _make("optimizer", values["optimizer"], params=model.named_parameters())
    scheduler = averaging = None
    if values["scheduler"]:
        steps = trainer.total_steps(dataset.train.num_batches(dataset.batch_size))
        scheduler = _make("scheduler", _of_run_length(values["scheduler"], steps), optimizer=optimizer)
    if values["averaging"]:
        averaging = _make("averaging", values["averaging"], model=model)
    return Training(trainer, dataset, model, optimizer, scheduler, averaging, device)


def _make(group: str, node: Mapping[str, Any], **supplied: Any) -> Any:
    try:
        return instantiate(node, _convert_="all", **supplied)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause from None
        # What a constructor refuses with these is a value; anything else is a defect of the program.
        if isinstance(cause, ValueError | TypeError | OverflowError):
            raise ConfigError(f"{group}: {cause}") from cause
        raise (cause or error) from None


def _of_run_length(node: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Lengths in steps that are left open become the length of the run."""
    hints = hints_of(locate(node["_target_"], "scheduler._target_"))
    return {
        key: steps if value is None and is_duration(hints.get(key)) else value for key, value in node.items()
    }
