"""What several tests of datasets share: random seeds that a failure shows, and composed configs."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from optim_cli.datasets.dataset import Dataset

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"


@pytest.fixture
def seed() -> int:
    """Another one each time; pytest shows the print with a failure."""
    value = random.SystemRandom().randrange(2**32)
    print(f"seed: {value}")
    return value


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def build() -> Callable[..., Dataset]:
    """Instantiate configs/dataset/NAME.yaml with some keys replaced, as a run does."""

    def build(name: str, **overrides: Any) -> Dataset:
        values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        config = OmegaConf.create({"seed": 0, "dataset": {**values, **overrides}})
        try:
            dataset: Dataset = instantiate(config.dataset, _convert_="all")
        except InstantiationException as error:  # Hydra's wrapping of what the constructor raised
            raise error.__cause__ or error from None
        return dataset

    return build
