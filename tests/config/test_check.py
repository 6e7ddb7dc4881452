"""Every mistake in a config is told, all at once; nothing that a config holds makes the check fail."""

from __future__ import annotations

import random
from copy import deepcopy
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from optim_cli.assemble import assemble, refusals, resolve
from optim_cli.config.check import mistakes
from optim_cli.errors import ConfigError
from optim_cli.optim import ALGORITHMS
from tests.experiments import config_of, nested

CROP = {"_target_": "optim_cli.datasets.augmentation.CropFlip", "padding": 1, "flip": True}
OF_ANOTHER_KIND = {
    "_target_": "optim_cli.datasets.image_folder.ResizedCropFlip",
    "min_area": 0.5,
    "flip": True,
}


class _Deleted:
    def __repr__(self) -> str:
        return "deleted"


DELETED = _Deleted()
Place = tuple[str, ...]


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    """The default config with an average and an augmentation, as plain values."""
    values = resolve(config_of("averaging=ema"))
    values["dataset"]["augmentation"] = dict(CROP)
    assert not mistakes(values)
    return values


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with `a.b` keys set, or deleted."""
    values = deepcopy(values)
    for path, value in changes.items():
        *keys, last = path.split(".")
        if value is DELETED:
            del nested(values, keys)[last]
        else:
            nested(values, keys)[last] = value
    return values


# (key, value, what the line about it must say)
WRONG: list[tuple[str, Any, tuple[str, ...]]] = [
    # unknown keys
    ("optimizer.beta", [0.9, 0.999], ("unknown key", "did you mean optimizer.betas?", "known: lr, betas")),
    ("trainer.epoch", 3, ("unknown key", "did you mean trainer.epochs?")),
    ("model.zzz", 3, ("unknown key", "known: hidden, activation, dropout")),
    ("sed", 3, ("unknown key", "did you mean seed?")),
    ("dataset.augmentation.pading", 1, ("unknown key", "did you mean dataset.augmentation.padding?")),
    ("model.input_shape", [1, 8, 8], ("unknown key",)),
    ("optimizer.params", [], ("unknown key",)),
    ("optimizer._args_", [1], ("unknown key",)),
    ("optimizer._partial_", True, ("unknown key",)),
    # types
    ("optimizer.lr", "fast", ("'fast'", "allowed: a number")),
    ("optimizer.lr", "0.1", ("'0.1'", "allowed: a number")),
    ("optimizer.lr", True, ("true is not allowed", "allowed: a number")),
    ("optimizer.lr", None, ("null", "allowed: a number")),
    ("optimizer.lr", {}, ("{}", "allowed: a number")),
    ("optimizer.amsgrad", "yes", ("'yes'", "allowed: true or false")),
    ("optimizer.betas", 0.9, ("0.9", "allowed: a list of 2")),
    ("trainer.epochs", 5.0, ("5.0", "allowed: an integer")),
    ("trainer.epochs", "5", ("'5'", "allowed: an integer")),
    ("trainer.max_steps", 1e3, ("1000.0", "allowed: an integer")),
    ("model.hidden", 64, ("64", "allowed: a list")),
    ("seed", 0.5, ("0.5", "allowed: an integer")),
    ("dataset.augmentation", 3, ("3",)),
    ("dataset.augmentation", {"padding": 3}, ("padding",)),
    ("dataset.augmentation.flip", 1, ("1", "allowed: true or false")),
    # ranges
    ("optimizer.lr", -1e-3, ("-0.001", "greater than or equal to 0")),
    ("optimizer.lr", nan, ("nan", "greater than or equal to 0")),
    ("optimizer.betas[1]", 1.0, ("1.0", "less than 1")),
    ("model.hidden[1]", 0, ("0", "greater than or equal to 1")),
    ("model.dropout", 1, ("1", "less than 1")),
    ("dataset.batch_size", 0, ("0", "greater than or equal to 1")),
    ("dataset.test_fraction", 0.0, ("0.0", "greater than 0")),
    ("dataset.augmentation.padding", -1, ("-1", "greater than or equal to 0")),
    ("trainer.epochs", 0, ("0", "greater than or equal to 1")),
    ("trainer.max_steps", -5, ("-5", "greater than or equal to 1")),
    ("trainer.clip_norm", 0, ("0", "a number greater than 0 or null")),
    ("trainer.clip_value", True, ("true is not allowed", "a number greater than 0 or null")),
    ("scheduler.pct_start", 1.5, ("1.5", "less than or equal to 1")),
    ("scheduler.total_steps", 0, ("0", "greater than or equal to 1")),
    ("scheduler.total_steps", "0%", ("'0%'", "greater than or equal to 1")),
    (
        "scheduler.total_steps",
        "5 epocks",
        ("'5 epocks'", "a whole number", "or text such as '500 steps', '5 epochs', '10%'"),
    ),
    ("scheduler.pct_start", "10%", ("'10%'", "allowed: a number")),
    ("averaging.decay", 2, ("2", "less than or equal to 1")),
    ("seed", -1, ("-1", "greater than or equal to 0")),
    ("seed", 2**64, ("less than 9223372036854775808",)),
    # choices
    ("device", "tpu", ("'tpu'", "'auto' or 'cpu' or 'cuda'")),
    ("optimizer.implementation", "fuesd", ("'fuesd'", "'auto' or 'for_loop' or 'foreach' or 'fused'")),
    ("model.activation", "relo", ("'relo'", "'relu' or 'gelu' or 'silu' or 'tanh'")),
    ("scheduler.anneal_strategy", "step", ("'step'", "'cos' or 'linear'")),
    # what is called
    (
        "optimizer._target_",
        "os.system",
        ("'os.system' may not be called", "allowed: what makes torch's Optimizer"),
    ),
    ("optimizer._target_", "optim", ("'optim' may not be called",)),
    ("optimizer._target_", "torchrun.run", ("may not be called",)),
    ("optimizer._target_", None, ("None may not be called",)),
    ("optimizer._target_", 3, ("3 may not be called",)),
    ("optimizer._target_", DELETED, ("None may not be called",)),
    (
        "optimizer._target_",
        "optim_cli.optim.Adan",
        ("not to be found", f"optimizers: {', '.join(sorted(ALGORITHMS))}"),
    ),
    ("model._target_", "optim_cli.models.mpl.MLP", ("not to be found", "optim_cli.models.mpl")),
    ("model._target_", "torch", ("'torch' may not be called",)),
    ("model._target_", "optim_cli..x", ("not to be found",)),
    ("model._target_", "torch.pi", ("makes nothing that is allowed",)),
    ("model._target_", "torch.hub.load", ("makes nothing that is allowed",)),
    ("dataset.augmentation", OF_ANOTHER_KIND, ("ResizedCropFlip' makes nothing", "optim_cli's Augmentation")),
    ("model.dropout", OF_ANOTHER_KIND, ("ResizedCropFlip' makes nothing", "nothing may be called here")),
    ("optimizer.differentiable", True, ("unknown key",)),
    ("scheduler.last_epoch", 3, ("unknown key",)),
    ("dataset.augmentation._target_", "torch.utils.collect_env.run", ("makes nothing that is allowed",)),
    ("model._target_", "optim_cli.config.targets.import_module", ("makes nothing that is allowed",)),
    ("model._target_", "optim_cli.environment.subprocess", ("makes nothing that is allowed",)),
    ("model.hidden", [{"_target_": "optim_cli.models.mlp.MLP"}], ("nothing may be called",)),
    ("model.hidden", {"a": [{"_target_": "os.system"}]}, ("nothing may be called",)),
    ("dataset.augmentation._target_", "subprocess.run", ("may not be called",)),
    # what is missing
    ("model.hidden", DELETED, ("missing",)),
    ("dataset.augmentation.flip", DELETED, ("missing",)),
    ("trainer.epochs", DELETED, ("missing",)),
    ("seed", DELETED, ("missing",)),
    # groups
    ("model", None, ("null", "model=CHOICE")),
    ("model", {}, ("{}", "model=CHOICE")),
    ("model", "mlp", ("'mlp'", "model=CHOICE")),
    ("optimizer", [1], ("[1]", "optimizer=CHOICE")),
    ("trainer", DELETED, ("null", "trainer=CHOICE")),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG, ids=lambda x: str(x)[:40])
def test_each_kind_of_mistake(default: dict[str, Any], key: str, value: Any, says: tuple[str, ...]) -> None:
    if key.endswith("[1]"):
        entries = list(nested(default, key.removesuffix("[1]").split(".")))
        values = changed(default, {key.removesuffix("[1]"): [entries[0], value]})
    else:
        values = changed(default, {key: value})
    found = mistakes(values)
    assert found
    lines = [str(x) for x in found if x.key in (key, f"{key}._target_")]
    assert len(lines) == 1, found
    for part in says:
        assert part in lines[0]


def test_all_at_once(default: dict[str, Any], seed: int) -> None:
    """A sample of the mistakes that do not hide each other."""
    generator = random.Random(seed)
    leaves = [x for x in WRONG if "." in x[0] and "_target_" not in x[0] and not x[0].endswith("[1]")]
    leaves = [x for x in leaves if x[0] != "dataset.augmentation"]
    for _ in range(30):
        chosen = {key: value for key, value, _ in generator.sample(leaves, 8)}
        found = mistakes(changed(default, chosen))
        assert len(found) == len(chosen), found
        assert {x.key.removesuffix("._target_") for x in found} == chosen.keys()


def test_right_values_pass(default: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "optimizer.lr": 1,  # an integer is a number
        "optimizer.betas": [0, 0.5],
        "scheduler.total_steps": "99.5 %",
        "scheduler.max_lr": [0.1],
        "trainer.max_steps": None,
        "model.hidden": [],
        "dataset.augmentation": None,
        "dataset.val_fraction": 0,
        "averaging": {},
        "scheduler": {},
    }
    assert not mistakes(changed(default, right))
    for key, value in right.items():
        assert not mistakes(changed(default, {key: value}))


def test_resolve_tells_all() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(config_of("optimizer.lr=-1", "+model.hiden=[3]", "trainer.epochs=none", "device=gpu"))
    lines = str(caught.value).splitlines()
    assert [x.partition(":")[0] for x in lines] == [
        "device",
        "model.hiden",
        "optimizer.lr",
        "trainer.epochs",
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=${nope}", "nope"),
        ("optimizer.lr=???", "optimizer.lr"),
        ("~seed", "seed"),
        ("optimizer.lr=${oc.env:OPTIM_RUN_HAS_NO_SUCH_VARIABLE}", "OPTIM_RUN_HAS_NO_SUCH_VARIABLE"),
    ],
)
def test_what_does_not_resolve(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(config_of(override))


# Values that people and programs write where others are wanted; small enough for a part to be made of them.
ATOMS: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        7,
        2**31,
        2**63,
        2**70,
        -(2**70),
        0.0,
        -0.0,
        0.5,
        1.0,
        1e-12,
        1e30,
        nan,
        inf,
        -inf,
    ),
    *(
        "",
        "auto",
        "cpu",
        "5 epochs",
        "200%",
        "relu",
        "0.1",
        "nan",
        "_target_",
        "optim_cli.optim.SGD",
        "torch.nn.Linear",
        "é\n",
    ),
]
# Sizes of memory, where a large value is right and cannot be had.
BOUNDED = {"hidden", "num_samples", "input_shape", "num_classes", "padding"}


def places(values: dict[str, Any], prefix: Place = ()) -> list[Place]:
    """Paths of all keys, of groups too."""
    found: list[Place] = []
    for key, value in values.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += places(value, (*prefix, key))
    return found


def anything(generator: random.Random, depth: int = 0) -> Any:
    """An atom, or a list or mapping of things."""
    kind = generator.random()
    if kind < 0.6 or depth == 2:
        return generator.choice(ATOMS)
    if kind < 0.85:
        return [anything(generator, depth + 1) for _ in range(generator.randrange(4))]
    keys = ["_target_", "lr", "padding", "flip", "x", "1", ""]
    return {key: anything(generator, depth + 1) for key in generator.sample(keys, generator.randrange(4))}


def alike(generator: random.Random, value: Any) -> Any:
    """Something of a value's type."""
    if isinstance(value, list):
        return [alike(generator, x) for x in value]
    return generator.choice([x for x in ATOMS if type(x) is type(value)] or [value])


def large(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(large, value))
    return isinstance(value, int) and value > 1000


def test_any_value_anywhere(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config is refused with ConfigError or makes a run's parts: there is no third way."""
    monkeypatch.chdir(tmp_path)
    generator = random.Random(seed)
    defaults = [
        OmegaConf.to_container(config_of(*x), resolve=True)
        for x in (
            ("averaging=ema", "+dataset.augmentation={_target_:optim_cli.datasets.augmentation.CropFlip,"
             "padding:1,flip:true}"),
            ("optimizer=sgd", "scheduler=warmup_cosine", "dataset=synthetic", "dataset.num_samples=200"),
            ("scheduler=plateau", "model=logistic"),
            ("dataset=mnist", "model=logistic", "scheduler=none"),
            ("optimizer/param_groups=[muon,backbone_head]", "+optimizer.strict=true",
             "+scheduler@optimizer.param_groups.head.scheduler=cosine",
             "optimizer.param_groups.backbone.unfreeze_at=5", "optimizer.param_groups.head.lr=0.1"),
        )
    ]  # fmt: skip
    messages, made = [], 0
    for _ in range(120):
        values: Any = deepcopy(generator.choice(defaults))
        told = []
        for _ in range(generator.randrange(1, 3)):
            *keys, last = generator.choice(places(values))
            old = nested(values, [*keys, last])
            value = anything(generator) if generator.random() < 0.5 else alike(generator, old)
            if (last in BOUNDED and large(value)) or (last == "download" and value is True):
                continue
            told.append((".".join([*keys, last]), value))
            if generator.random() < 0.1:
                del nested(values, keys)[last]
            else:
                nested(values, keys)[last] = value
        print(told)
        try:
            resolved = resolve(DictConfig(values))
            refusals(resolved)
            assemble(resolved, torch.device("cpu"))
        except ConfigError as error:
            messages.append(str(error))
        else:
            made += 1
    assert len(messages) > 30
    assert all(messages)
    assert made > 3
