"""Nobody gets in: what files of others may not say is refused before anything of it is imported or called.

`evil` is a module that leaves a file when it is imported, and whose functions do when they are called.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from optim_cli.config.check import mistakes
from tests.command_lines import experiment, own_main, told, write

EVIL = "open({canary!r}, 'a').close()\ndef call(*arguments, **options): open({canary!r}, 'a').close()\n"
ONLY = "only the command line and the main config may"
CALL = "{a: {_target_: evil.call}}"
LOGGED = "{version: 1, handlers: {h: {(): evil.call}}}"


@pytest.fixture(autouse=True)
def canary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that must not be there at the end."""
    where = tmp_path_factory.mktemp("evil")
    path = where / "canary"
    write(where, {"evil.py": EVIL.format(canary=str(path))})
    monkeypatch.syspath_prepend(where)
    yield path
    assert not path.exists()
    assert "evil" not in sys.modules


def test_the_canary_sings(canary: Path) -> None:
    """What the tests below rely on."""
    import evil  # type: ignore[import-not-found]

    evil.call()
    assert canary.exists()
    canary.unlink()
    del sys.modules["evil"]


# A recipe's text -> what is said of it.
RECIPES: dict[str, str] = {
    f"hydra: {{callbacks: {CALL}}}": f"hydra: {ONLY} set this",
    "hydra: {launcher: {_target_: evil.call}}": f"hydra: {ONLY} set this",
    "hydra: {sweeper: {_target_: hydra._internal.utils._locate, path: evil}}": f"hydra: {ONLY} set this",
    f"hydra: {{job_logging: {LOGGED}}}": f"hydra: {ONLY} set this",
    "hydra: {searchpath: ['pkg://evil']}": f"hydra: {ONLY} set this",
    "hydra: {job: {env_set: {LD_PRELOAD: evil}}}": f"hydra: {ONLY} set this",
    "hydra: {run: {dir: /}}": f"hydra: {ONLY} set this",
    "hydra: null": f"hydra: {ONLY} set this",
    "plugins: [evil]\nmodel: {_target_: evil.call}": f"plugins: {ONLY} set this",
    "resume: elsewhere": f"resume: {ONLY} set this",
    "rerun: elsewhere": f"rerun: {ONLY} set this",
    "defaults: [{override /hydra/launcher: evil}]": f"hydra/launcher: {ONLY} choose this",
    "defaults: [{override /hydra/launcher@hydra.launcher: evil}]": f"hydra/launcher: {ONLY} choose this",
    "defaults: [{/hydra/mine: evil}]": f"hydra/mine: {ONLY} choose this",
    "defaults: [/hydra/launcher/evil]": f"hydra/launcher/evil: {ONLY} choose this",
    "defaults: [hydra/launcher/evil]": "hydra/launcher/evil: only",
    "defaults: ['${oc.select:none,/hydra/launcher/evil}']": "is no choice",
    "defaults: [../hydra/launcher/evil]": "leaves the folder of its group",
    "defaults: [/./hydra/launcher/evil]": "leaves the folder of its group",
    "defaults: [{//hydra/launcher: evil}]": "hydra/launcher: only",
    "defaults: [/model/../hydra/launcher/evil]": "leaves the folder of its group",
    "defaults: [/../outside]": "leaves the folder of its group",
    "defaults: [{override /model: ../../outside}]": "leaves the folder of its group",
    "defaults: [{override /model: '${oc.env:CHOICE}'}]": "resolvers allowed in it: oc.select",
    "defaults: [x]": "leads back to itself",
    "defaults: [/config]": "leads back to itself",
}
# Where a file can be laid so that its keys `callbacks` and `job` are Hydra's.
PACKAGES = (
    *("hydra", "_global_.hydra", "[hydra]", "_global_.[hydra]", "hydra:x", "_global_._global_.hydra"),
    *(".hydra", "_here_.hydra", "_group_.hydra", "x._global_.hydra"),
)


@pytest.mark.parametrize("text", RECIPES)
def test_recipes(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHOICE", "cnn")
    write(tmp_path / "own", {"recipe/x.yaml": text, "hydra/launcher/evil.yaml": "_target_: evil.call\n"})
    write(tmp_path / "own", {"hydra/mine/evil.yaml": "a: 1\n", "recipe/hydra/launcher/evil.yaml": "a: 1\n"})
    write(tmp_path, {"outside.yaml": "seed: 1\n"})
    report = "\n".join(told("recipe=x", own=tmp_path / "own"))
    if "recipe/hydra" in report or text == "defaults: [hydra/launcher/evil]":
        assert "unknown key" in report or "only" in report  # a folder of recipes that is called so
    else:
        assert RECIPES[text] in report


def test_packages(tmp_path: Path) -> None:
    """Wherever a file says that it lies, by a header or by who lists it."""
    hydra = f"callbacks: {CALL}\n"
    for number, package in enumerate(PACKAGES):
        headed = {"model/evil.yaml": f"# @package {package}\n{hydra}"}
        listed = {"recipe/x.yaml": f"defaults: ['/bits/evil@{package}']\n", "bits/evil.yaml": hydra}
        for name, files in (("model=evil", headed), ("recipe=x", listed)):
            own = write(tmp_path / f"{number}-{name}", files)
            report = "\n".join(told(name, own=own))
            assert f"hydra: {ONLY} set this" in report or "unknown key" in report, (package, files)


def test_group_files(tmp_path: Path) -> None:
    """What --config-dir adds may not set them either."""
    files = {
        "model/evil.yaml": f"# @package _global_\nhydra: {{callbacks: {CALL}}}\nplugins: [evil]\n",
        "recipe/x.yaml": "defaults: [{/model@_global_.plugins: list}]\n",
        "model/list.yaml": "- evil\n",
    }
    own = write(tmp_path, files)
    report = "\n".join(told("model=evil", own=own))
    assert f"hydra: {ONLY} set this" in report
    assert "evil.yaml:2]" in report
    assert f"plugins: {ONLY} set this" in report
    assert f"plugins: {ONLY} set this" in "\n".join(told("recipe=x", own=own))


RESOLVED = (
    *("${oc.env:HOME}", "a${oc.env:HOME}b", "$${oc.env:HOME}", "${ oc.env : HOME }", "[${oc.env:HOME}]"),
    *("${${device}:HOME}", "${oc.${device}:HOME}", "${oc.decode:${oc.env:HOME}}", "${oc.create:'${x}'}"),
    *(
        "${oc.select:no,${oc.env:HOME}}",
        "${oc.select:no,'${oc.env:HOME}'}",
        "${oc.select:no,[${oc.env:HOME}]}",
    ),
    *("${oc.select:'no${oc.env:HOME}'}", "${oc.dict.values:model}", "${oc.dict.keys:model}"),
    *("${hydra:runtime.cwd}", "${now:%Y}", "${run_id:}", "${python_version:}"),
)


def test_resolvers_in_recipes(tmp_path: Path) -> None:
    quoted = [json.dumps(x) for x in RESOLVED]
    texts = [f"device: {x}" for x in quoted]
    texts += [f"model: {{hidden: [1, {{a: {x}}}]}}" for x in quoted[:1]]
    texts += ["defaults: [/bits/env@_global_]"]
    own = write(tmp_path, {f"recipe/r{number}.yaml": f"{x}\n" for number, x in enumerate(texts)})
    write(own, {"bits/env.yaml": f"device: {quoted[0]}\n"})
    report = told(f"recipe=[{','.join(f'r{x}' for x in range(len(texts)))}]", own=own)
    refused = [x for x in report if "resolvers allowed in it: oc.select" in x]
    assert len(refused) == len(texts)
    for number in range(len(texts) - 1):
        assert [x for x in refused if f"/r{number}.yaml:1]" in x], texts[number]
    assert "/bits/env.yaml:1]" in refused[-1]


def test_a_recipe_may_refer_to_keys(tmp_path: Path) -> None:
    text = "optimizer: {lr: '${oc.select:none,0.5}', eps: '${.lr}'}\nscheduler: {max_lr: '${optimizer.lr}'}\n"
    assert not told("recipe=x", own=write(tmp_path, {"recipe/x.yaml": text}))


@pytest.mark.parametrize(
    "text",
    [
        r"device: \${oc.env:HOME}",
        r"{device: '${oc.select:no,''\${oc.env:HOME}''}'}",
        r"{dataset: {x: '\${oc.env:HOME}'}, device: '${dataset.x}'}",
    ],
)
def test_what_is_escaped_is_resolved_no_second_time(tmp_path: Path, text: str) -> None:
    report = "\n".join(told("recipe=x", own=write(tmp_path, {"recipe/x.yaml": text})))
    assert "device: '${oc.env:HOME}' is not allowed" in report


# What is put in a user's main config before the rest, and a recipe beside it -> what is said.
MAINS: list[tuple[str, str, str]] = [
    ("x: [evil]\nplugins: ${x}\n", "model: {_target_: evil.call}", "x: unknown key"),
    ("plugins: ['${device}']\n", "{device: evil, model: {_target_: evil.call}}", "plugins: may not refer to"),
    (f"hydra: {{callbacks: {CALL}}}\n", "", "callbacks.a._target_: 'evil.call' may not be called"),
    ("hydra: {callbacks: '${x}'}\n", f"x: {CALL}", "callbacks.a._target_: 'evil.call' may not be called"),
    ("hydra: {callbacks: {b: '${x.a}'}}\n", f"x: {CALL}", "callbacks.b._target_: 'evil.call' may not"),
    ("hydra: {callbacks: {b: '${x}'}}\n", "", "'${x}' cannot be resolved yet"),
    ("hydra: {callbacks: {b: {_target_: '${x}'}}}\n", "x: evil.call", "b._target_: 'evil.call' may not be"),
    ("x: {y: '${hydra.callbacks}'}\nhydra: {callbacks: {b: '${x}'}}\n", "", "hydra: refers to itself"),
    ("hydra: {callbacks: {b: {_target_: optim_cli.__main__.main}}}\n", "", "may not be called"),
    ("hydra: {callbacks: {b: {_target_: [evil.call]}}}\n", "", "'evil.call' may not be called"),
    ("hydra: {callbacks: {b: {_target_: hydra.utils.instantiate}}}\n", "", "may not be called"),
    ("hydra: {launcher: {_target_: evil.call}}\n", "", "launcher._target_: 'evil.call' may not be called"),
    ("hydra: {sweeper: {_target_: hydra_plugins.evil.X}}\n", "", "may not be called"),
    ("hydra: {sweeper: {params: {x: {_target_: evil.call}}}}\n", "", "hydra.sweeper"),
    *(
        (f"hydra: {{{group}: {{version: 1, {text}}}}}\n", "", "may not be called")
        for group, text in zip(
            ("job_logging", "hydra_logging") * 4,
            (
                "handlers: {h: {(): evil.call}}",
                "handlers: {h: {(): [evil.call]}}",
                "handlers: {h: {class: logging.os.system}}",
                "handlers: {h: {class: logging.StreamHandler, stream: 'ext://evil.call'}}",
                "handlers: {h: {class: logging.handlers.QueueHandler, queue: evil.call}}",
                "handlers: {h: {class: logging.handlers.QueueHandler, listener: evil.call}}",
                "formatters: {f: {class: evil.call}}",
                "filters: {f: {(): evil.call}}",
            ),
            strict=True,
        )
    ),
]


@pytest.mark.parametrize(("text", "recipe", "says"), MAINS, ids=[x[0][:70].strip() for x in MAINS])
def test_main_config(tmp_path: Path, text: str, recipe: str, says: str) -> None:
    """A user's own may call what Hydra brings along, and no recipe can make it call something else."""
    main = own_main(tmp_path)
    values = yaml.safe_load((main / "config.yaml").read_text())
    mine = yaml.safe_load(text)
    hydra = values["hydra"] | mine.pop("hydra", {})
    write(main, {"config.yaml": yaml.safe_dump(values | mine | {"hydra": hydra}, sort_keys=False)})
    write(main, {"recipe/x.yaml": f"{recipe}\n"})
    report = "\n".join(told("recipe=x", main=main))
    assert says in report


def test_the_users_own_hydra(tmp_path: Path) -> None:
    callback = "{_target_: hydra.experimental.callbacks.LogJobReturnCallback}"
    assert not told(
        f"+hydra.callbacks.mine={callback}", "hydra/job_logging=none", "hydra/hydra_logging=disabled"
    )
    assert not told(f"+hydra.callbacks={{mine: {callback}}}", "plugins=[evil]")
    assert not told("+hydra.callbacks={mine: {_target_: evil.call}}", "plugins=[evil]")
    assert told("+hydra.callbacks={mine: {_target_: evil.call}}")
    own = write(tmp_path, {"hydra/job_logging/mine.yaml": LOGGED})
    assert "'evil.call' may not be called" in told("hydra/job_logging=mine", own=own)[0]


# What a model, an augmentation and a value may not be.
TARGETS = (
    *("evil.call", "os.system", "subprocess.run", "builtins.eval", "hydra.utils.instantiate"),
    *("torch.utils.collect_env.run", "torch.hub.load", "torch.load", "torch.jit.load", "torch.compile"),
    *("torch.package.PackageImporter", "torch.utils.data.TensorDataset", "torch.os.system", "torch.cuda"),
    *("torch.distributed.run.main", "torch.testing._internal.common_utils.TestCase", "torch._C._jit_init"),
    *("torchvision.models.get_model", "torchvision.datasets.MNIST", "torchvision.io.read_image"),
    *("torchvision.models.detection.fasterrcnn_resnet50_fpn", "torchvision.models.quantization.resnet18"),
    *("torchvision.models.segmentation.deeplabv3_resnet50", "torchvision.transforms.Lambda"),
    *("optim_cli.__main__.main", "optim_cli.cli.main", "optim_cli.run.run", "optim_cli.run_folder.RunFolder"),
    *("optim_cli.config.targets.import_module", "optim_cli.environment.subprocess.run"),
    *("optim_cli.datasets.mnist.mnist.__globals__", "optim_cli.assemble.assemble", "optim_cli.optim.SGD"),
    *("", " ", ".", "torch", "torch.", ".evil.call", "..evil.call", "torch..nn.Linear", "torch/nn.Linear"),
    *("torch.nn.Linear ", "torch.nn.Linear\n", "evil", "torch.nn.Linear.__init__", "TORCH.nn.Linear"),
)


def test_targets(tmp_path: Path) -> None:
    """Whatever a model is said to be, in a choice, in a value, and in an earlier run."""
    job = experiment().job([])
    assert job.values is not None
    for target in TARGETS:
        [mistake] = [x for x in mistakes({**job.values, "model": {"_target_": target}}) if "model" in x.key]
        assert mistake.key == "model._target_", target
    for number, target in enumerate(("evil.call", "torch.hub.load")):
        own = write(tmp_path / str(number), {"model/evil.yaml": f"_target_: {target}\n"})
        assert "model._target_: " in "\n".join(told("model=evil", own=own))
        call = {"_target_": target}
        for key, value in (("dropout", call), ("hidden", [call]), ("activation", {"a": [call]})):
            values = {**job.values, "model": {**job.values["model"], key: value}}
            folder = write(tmp_path / f"{key}{number}", {"config.yaml": yaml.safe_dump(values)})
            for command in ("resume", "rerun"):
                assert f"model.{key}" in "\n".join(told(f"{command}={folder}"))


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_", "__class__", "__init__"])
def test_keywords_of_hydra_are_unknown_keys(key: str) -> None:
    for where in ("model", "dataset", "optimizer", "scheduler", "trainer"):
        assert f"{where}.{key}: unknown key" in told(f"+{where}.{key}=[evil]")[0]


def test_calls_in_what_torchvision_passes_on(tmp_path: Path) -> None:
    write(tmp_path, {"model/v.yaml": "_target_: torchvision.models.resnet18\nnum_classes: 10\n"})
    for value, says in (
        ("+model.norm_layer={_target_: evil.call}", "nothing may be called here"),
        ("+model.norm_layer=[{_target_: evil.call}]", "nothing may be called here"),
        ("+model.pretrained=true", "weights are not fetched"),
        ("+model.weights=DEFAULT", "'DEFAULT' is not allowed"),
        ("+model.weights={_target_: evil.call}", "may not be called"),
    ):
        assert says in told("model=v", value, own=tmp_path)[0]


def test_a_plugin_named_like_ours_or_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the current folder hides nothing."""
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path, {"torchvision/__init__.py": "import evil\n", "json.py": "import evil\n", "torch.py": "x\n"}
    )
    write(tmp_path, {"model/v.yaml": "_target_: torchvision.models.resnet18\nnum_classes: 10\n"})
    assert not told("model=v", "dataset=synthetic", "plugins=[torchvision,json]", own=tmp_path)
    assert "'json.call'" in told("model._target_=json.call", "plugins=[json]")[0]


def test_interpolated_targets(tmp_path: Path) -> None:
    """What counts is what a reference leads to."""
    recipe = "dataset: {x: evil.call}\nmodel: {_target_: '${dataset.x}'}\n"
    report = "\n".join(told("recipe=x", own=write(tmp_path, {"recipe/x.yaml": recipe})))
    assert "'evil.call' may not be called" in report
