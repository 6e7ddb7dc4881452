"""Every mistake of a command line is told, at once, and none hides another."""

from __future__ import annotations

from pathlib import Path

import pytest

from optim_cli.config.mistakes import shortened
from tests.command_lines import experiment, own_main, told, write

LOGISTIC = "_target_: optim_cli.models.logistic.Logistic\n"
# Command line -> the lines of the report, each as what must be in it.
WRONG: list[tuple[list[str], list[tuple[str, ...]]]] = [
    # choices
    (
        ["model=cnnn"],
        [("model: 'cnnn' is no choice; did you mean cnn? (choices: bag_of_words, cnn, logistic,",)],
    ),
    (["recipe=digits/sgd"], [("recipe: 'digits/sgd' is no choice; did you mean digits/sgd_cosine?",)]),
    (["recipe=digits"], [("recipe: 'digits' is no choice", "digits/adamw_onecycle, digits/muon_adamw")]),
    (["model=null"], [("model: null is no choice",)]),
    (["model="], [("model: '' is no choice",)]),
    (["model=3"], [("model: 3 is no choice",)]),
    (["model=true"], [("model: True is no choice",)]),
    (["model=[]"], [("model: [] is no choice",)]),
    (["model=[mlp,nope]"], [("model: 'nope' is no choice",)]),
    (["model=/mlp"], [("model: '/mlp' is no choice; did you mean mlp?",)]),
    (["model=../model/mlp"], [("model: '../model/mlp' is no choice",)]),
    (["model=mlp.yaml"], [("model: 'mlp.yaml' is no choice",)]),
    (["model=${optimizer}"], [("model: '${optimizer}' is no choice",)]),
    (["hydra/launcher=nope"], [("hydra/launcher: 'nope' is no choice (choices: basic)",)]),
    (["+optimizer=sgd"], [("optimizer: Multiple values for optimizer",)]),
    (["++optimizer=sgd"], [("optimizer: force-add of config groups is not supported",)]),
    (["optimizer@x=sgd"], [("optimizer: Could not override 'optimizer@x'",)]),
    (["+optimizer@x=sgd"], [("x: unknown key",)]),
    (["seed@x=3"], [("seed: ", "looks like a config group")]),
    # keys
    (["optimizer.lrr=1"], [("optimizer.lrr: unknown key; did you mean optimizer.lr? (known: lr, betas,",)]),
    (["optimzer.lr=1"], [("optimzer.lr: unknown key; did you mean optimizer? (known: seed,",)]),
    (["lr=1"], [("lr: unknown key; did you mean optimizer.lr?",)]),
    (["a.b.c=3"], [("a.b.c: unknown key",)]),
    (["+a.b.c=3"], [("a: unknown key", "[command line: +a.b.c=3]")]),
    (["+model.x=3"], [("model.x: unknown key (known: hidden, activation, dropout, bias, structure)",)]),
    (
        ["model.zzz=3"],
        [
            (
                "model.zzz: unknown key",
                "unknown key (known: hidden, activation, dropout, bias, structure); +model.zzz=3 adds a key",
            )
        ],
    ),
    (["+optimizer.__class__=3"], [("optimizer.__class__: unknown key",)]),
    (["optimizer.lr.x=3"], [("optimizer.lr.x: unknown key; optimizer.lr is no mapping",)]),
    (["optimizer.betas.7=3"], [("optimizer.betas.7: unknown key; optimizer.betas is no mapping",)]),
    (["hydra.nope=3"], [("hydra.nope: unknown key (known: run, sweep,",)]),
    (["hydra/nope=x"], [("hydra/nope: unknown key",)]),
    # values
    (["optimizer.lr=abc"], [("optimizer.lr: 'abc' is not allowed; allowed: a number greater",)]),
    (["+optimizer.lr.x=3"], [("optimizer.lr: {'x': 3} is not allowed", "[command line: +optimizer.lr.x=3]")]),
    (["optimizer.betas.0=3"], [("optimizer.betas[0]: 3 is not allowed", "optimizer.betas.0=3]")]),
    (["++optimizer.betas=[0.9]"], [("optimizer.betas: [0.9] is not allowed; allowed: a list of 2",)]),
    (["model.hidden={a: 1}"], [("model.hidden: Cannot merge DictConfig with ListConfig",)]),
    (["optimizer.lr=null"], [("optimizer.lr: null is not allowed",)]),
    (["seed=''"], [("seed: '' is not allowed",)]),
    (["optimizer.lr=???"], [("optimizer.lr: missing; give optimizer.lr=VALUE",)]),
    (["optimizer.lr={_target_: os.system}"], [("optimizer.lr._target_: 'os.system' may not be called",)]),
    (["hydra.run.dir=null"], [("hydra.run.dir: ", "not Optional")]),
    (["hydra.callbacks=3"], [("hydra.callbacks: Cannot assign int to Dict",)]),
    (["hydra.sweeper=null"], [("hydra.sweeper: null is no choice; choose one with hydra/sweeper=CHOICE",)]),
    (["hydra.searchpath=3"], [("hydra.searchpath: ", "[command line: hydra.searchpath=3]")] * 2),
    (["hydra.searchpath=[nowhere]"], [("hydra.searchpath: 'nowhere' is no folder",)]),
    (["hydra.searchpath=[x://y]"], [("hydra.searchpath: No config source registered for schema x",)]),
    (["hydra.job.env_copy=[NOPE]"], [("env_copy[0]: 'NOPE' is no variable of the environment",)]),
    (["plugins=3"], [("plugins: 3 is not allowed; allowed: a list, each the name of a package",)]),
    (["plugins=['a b',c]"], [("plugins[0]: 'a b' is not allowed; allowed: the name of a package",)]),
    (["plugins=[nowhere]"], [("plugins: 'nowhere' is no module or package that Python finds",)]),
    (["hydra.run.dir=" + "x" * 5000], [("hydra.run.dir: 'xxx", "File name too long")]),
    (["plugins=[${device}]"], [("plugins: may not refer to other keys",)]),
    # interpolations
    (["seed=${seed}"], [("seed: '${seed}' cannot be resolved",), ("dataset.seed: '${seed}'",)]),
    (["device=${model.name}"], [("device: '${model.name}' cannot be resolved: Interpolation key",)]),
    (["device=${oc.env:OPTIM_NO}"], [("device: '${oc.env:OPTIM_NO}' cannot be resolved", "not found")]),
    (["device=${hydra:runtime.choices.model}"], [("device: 'mlp' is not allowed",)]),
    (["device=${"], [("device: cannot be read",)]),
    (["device='${'"], [("device: no viable alternative",)]),
    # deletions
    (["~nope"], [("nope: unknown key",)]),
    (["~optimizer.lrr"], [("optimizer.lrr: unknown key; did you mean optimizer.lr?",)]),
    (["~optimizer=sgd"], [("optimizer: Could not delete 'optimizer=sgd'",)]),
    (["~seed"], [("seed: missing", "[command line: ~seed]")]),
    (["~seed=7"], [("seed: Could not delete from config. The value of 'seed' is 0 and not 7",)]),
    (["~optimizer", "scheduler=none"], [("optimizer: null is no choice", "[command line: ~optimizer]")]),
    (["~averaging"], [("averaging: null is no choice; choose one with averaging=CHOICE",)]),
    # sweeps without -m
    (["optimizer.lr=1,2"], [("optimizer.lr: several values; -m runs each of them",)]),
    (["optimizer=adamw,sgd"], [("optimizer: several values",)]),
    (["seed=range(3)"], [("seed: several values",)]),
    (["optimizer=glob(*)"], [("optimizer: several values",)]),
    (["seed=interval(0,1)"], [("seed: several values",)]),
    # long ones
    (["x" * 100_000 + "=3"], [("xxx ... xxx", "unknown key")]),
    (["model=" + "x" * 100_000], [("model: 'xxx", "is no choice")]),
    (["rerun=" + "x" * 100_000], [("rerun: ", "File name too long")]),
    # several
    (
        ["optimizer.lrr=1", "trainer.epochs=-3", "optimizer.betas=[0.9]"],
        [("optimizer.lrr: unknown key",), ("optimizer.betas: [0.9]",), ("trainer.epochs: -3",)],
    ),
    (["model=cnnn", "optimizer.lr=abc"], [("model: 'cnnn'",), ("optimizer.lr: 'abc'",)]),
    (
        ["model=cnnn", "model.hidden=3", "recipe=nope", "x", "a=b", "~c", "seed=1,2", "hydra.mode=x"],
        [
            ("x: cannot be read",),
            ("model: 'cnnn'",),
            ("recipe: 'nope'",),
            ("a: unknown key",),
            ("c: unknown key",),
            ("seed: several values",),
            ("hydra.mode: Invalid value 'x'",),
        ],
    ),
]
# What is no override -> what is said of it.
NONE: list[tuple[str, tuple[str, ...]]] = [
    ("", ("'': cannot be read as KEY=VALUE",)),
    ("x", ("x: cannot be read as KEY=VALUE",)),
    ("~", ("~: has no key; write KEY=VALUE",)),
    ("===", ("'===': cannot be read",)),
    ("a b=3", ("a b: cannot be read as KEY=VALUE: unexpected ' ' at character 2",)),
    ("optimizer.betas[0]=3", ("unexpected '[' at character 16",)),
    ("é=3", ("é: cannot be read as KEY=VALUE: unexpected 'é' at character 1",)),
    ("seed='abc", ("seed: cannot be read", "at character 6")),
    ("seed=\n", ("seed: cannot be read", r"unexpected '\n'")),
    ("seed=\udc80", ("seed: cannot be read",)),
    ("seed=foo(3)", ("seed: cannot be read", "Unknown function 'foo'")),
    ("seed=" + "9" * 5000, ("seed: cannot be read", "Exceeds the limit")),
    ("seed=" + "[" * 3000, ("seed: cannot be read",)),
    ("seed=" + "[" * 100 + "]" * 100, ("seed: nested deeper than 32",)),
]
RIGHT = [
    [],
    ["optimizer=sgd", "optimizer.momentum=0.5"],
    ["optimizer.momentum=0.5", "optimizer=sgd"],
    ["optimizer=[sgd]"],
    ["optimizer={lr: 0.1}"],
    ["~recipe"],
    ["+model.hidden=[3]"],
    ["++model.hidden=[3]"],
    ["optimizer.betas.0=0.5"],
    ["optimizer.lr=${optimizer.eps}"],
    ["+hydra.job.env_set.A=b"],
    ["hydra.job.num=3"],
    ["hydra.run.dir=a b/${now:%Y}"],
    ["recipe=digits/sgd_cosine", "optimizer.lr=7"],
    ["plugins=[json,__main__]"],
]


@pytest.mark.parametrize(
    ("overrides", "lines"), WRONG, ids=[" ".join(ascii(y)[1:-1][:30] for y in x[0]) for x in WRONG]
)
def test_wrong(overrides: list[str], lines: list[tuple[str, ...]], tmp_path: Path) -> None:
    found = told(*overrides)
    assert len(found) == len(lines), found
    for line, parts in zip(found, lines, strict=True):
        assert all(x in line for x in parts), line
        assert "[" in line
        assert len(line) < 2500
    assert not list(tmp_path.iterdir())


def test_no_overrides() -> None:
    """Each line by itself, and the others are told all the same."""
    found = told(*(x for x, _ in NONE), "trainer.epochs=-1")
    assert len(found) == len(NONE) + 1
    for line, (text, parts) in zip(found, NONE, strict=False):
        assert all(x in line for x in parts), line
        assert shortened(f"command line: {text}") in line
    assert found[-1].startswith("trainer.epochs: -1 is not allowed")


def test_right() -> None:
    assert {str(x): told(*x) for x in RIGHT} == {str(x): [] for x in RIGHT}


def test_what_is_checked_is_composed_as_hydra_does(tmp_path: Path) -> None:
    """The rules of one version of Hydra: others read other files for the same name."""
    own = write(tmp_path, {"model/x.yml": LOGISTIC, "model/x.yml.yaml": "_target_: os.system\n"})
    [line] = told("model=x.yml", own=own)
    assert "'os.system' may not be called" in line


def test_names_of_choices(tmp_path: Path) -> None:
    names = ["a b", "é", "x,y", "a=b", "deep/er/one", "${seed}", "dot.ted", "-", "'"]
    own = write(tmp_path, {f"model/{x}.yaml": LOGISTIC for x in names})
    for name in names[:5] + names[6:8]:
        assert not told(f"model='{name}'", own=own), name
    assert "'${seed}' is no choice" not in told("model='${seed}'", own=own)


def test_links_have_an_end(tmp_path: Path) -> None:
    write(tmp_path, {"model/one.yaml": LOGISTIC})
    for name in "abc":
        (tmp_path / "model" / name).symlink_to(tmp_path)
    (tmp_path / "model" / "circle.yaml").symlink_to(tmp_path / "model" / "circle.yaml")
    (tmp_path / "model" / "zero.yaml").symlink_to("/dev/zero")
    assert not told("model=one", own=tmp_path)
    for name in ("circle", "zero", "a", "nope"):
        assert f"model: '{name}' is no choice" in told(f"model={name}", own=tmp_path)[0]


def test_own_folders_add_choices(tmp_path: Path) -> None:
    """By --config-dir, by a main config of one's own, and by Hydra's search path."""
    files = {"model/mine.yaml": LOGISTIC, "recipe/deep/mine.yaml": "seed: 5\n"}
    own = write(tmp_path / "own", files)
    [job] = [(x := experiment("model=mine", "recipe=deep/mine", own=own)).job(x.jobs[0])]
    assert job.values is not None
    assert job.values["model"] == {"_target_": "optim_cli.models.logistic.Logistic"}
    assert job.values["seed"] == 5
    assert not told("model=mine", f"hydra.searchpath=[{own}]")
    assert "did you mean" not in told("model=mine")[0]
    main = own_main(write(tmp_path / "main", {"recipe/mine.yaml": "seed: 5\n"}))
    assert not told("recipe=mine", "optimizer=sgd", main=main)
    assert not told("recipe=digits/sgd_cosine", main=main)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ["seed: missing", "device: missing", "model: null is no choice"]),
        ("- 1\n", ["must be a DictConfig", "In 'config'"]),
        ("hydra: null\n", ["hydra: null is not allowed"]),
        ("hydra: 3\n", ["In 'config'"]),
        ("hydra: [1]\n", ["hydra.searchpath", "In 'config'"]),
        ("a: [\n", ["config.yaml:2: no YAML"]),
        ("defaults: 3\n", ["config.yaml: cannot be read: Invalid defaults list"]),
        ("defaults: [{model: nope}, _self_]\n", ["model: 'nope' is no choice", "config.yaml:1]"]),
        ("defaults: [config, _self_]\n", ["config: leads back to itself"]),
    ],
)
def test_broken_main_config(tmp_path: Path, text: str, says: list[str]) -> None:
    report = "\n".join(told(main=write(tmp_path, {"config.yaml": text})))
    for part in says:
        assert part in report


def test_no_main_config(tmp_path: Path) -> None:
    assert told(main=tmp_path)
    assert told(main=tmp_path / "nowhere")
