"""Every YAML in configs/dataset agrees with the constructor that it names."""

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "dataset").glob("*.yaml"))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_yaml_sets_every_argument_and_no_other(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    constructor = get_object(values.pop("_target_"))
    assert set(values) == set(inspect.signature(constructor).parameters)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_yaml_has_the_common_keys_and_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")
    values = yaml.safe_load(path.read_text())
    assert {"batch_size", "val_fraction", "split_seed"} <= set(values)
    # Images can be augmented, texts (whose words are in buckets) cannot.
    assert len({"augmentation", "buckets"} & set(values)) == 1
    assert values["seed"] == "${seed}"
    if "root" in values:
        assert values["root"] == "${oc.env:OPTIM_DATA,data}"
