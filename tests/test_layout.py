"""The rooms of the repository: who may import whom, what things may be called, how long files get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.experiments import ENVIRONMENT, ROOT

PACKAGE = ROOT / "optim_cli"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TRACKED = ("optim_cli", "configs", "recipes", "tests", "benchmarks")

# Folder or file -> what it may import besides the standard library; the longest entry that fits counts.
# A trailing dot allows all below; otherwise the module itself.
DATA = {"torch.", "annotated_types", "optim_cli.errors", "optim_cli.datasets."}
ALLOWED: dict[str, set[str]] = {
    "optim": {"torch.", "triton.", "annotated_types", "optim_cli.optim."},
    "models": {"torch.", "torchvision.", "annotated_types", "optim_cli.models."},
    "datasets": DATA | {"numpy"},
    "datasets/mnist.py": DATA | {"torchvision."},
    "datasets/cifar.py": DATA | {"torchvision.", "numpy"},
    "datasets/image_folder.py": DATA | {"torchvision."},
    "datasets/file_split.py": DATA | {"torchvision."},
    "training": {
        "torch.",
        "annotated_types",
        "optim_cli.optim.",
        "optim_cli.datasets.",
        "optim_cli.training.",
        "optim_cli.whole_file",
    },
    "training/randomness.py": {"torch.", "numpy"},
    "training/stop.py": set(),
    "training/progress.py": {"rich.", "optim_cli.training.events"},
    "training/events.py": set(),
    "tracking": {
        "matplotlib.",
        "optim_cli.training.events",
        "optim_cli.tracking.",
        "optim_cli.whole_file",
    },
    "sweep": {"optim_cli.sweep.", "optim_cli.whole_file"},
    "sweep/table.py": {"rich."},
    "sweep/report.py": {"rich.", "optim_cli.sweep.", "optim_cli.whole_file"},
    "completion.py": {"hydra._internal.utils", "optim_cli.config.files"},
    "errors.py": set(),
    "paths.py": set(),
    "whole_file.py": set(),
    "run_folder.py": {"yaml", "optim_cli."},
    "resume.py": {"torch.", "optim_cli."},
    "environment.py": {"torch.", "optim_cli.paths"},
    "config": {"hydra.", "omegaconf.", "yaml", "optim_cli.config.", "optim_cli.paths"},
    "config/averages.py": {
        "optim_cli.config.groups",
        "optim_cli.config.mistakes",
        "optim_cli.training.averaging",
    },
    "config/check.py": {"annotated_types", "optim_cli.config."},
    "config/contradictions.py": {
        "torch.",
        "optim_cli.config.",
        "optim_cli.optim.lr_scheduler.momentum",
        "optim_cli.optim.lr_scheduler.onecycle",
        "optim_cli.optim.lr_scheduler.place",
        "optim_cli.optim.lr_scheduler.swa",
        "optim_cli.training.scheduling",
    },
    "config/gradients.py": {
        "torch.",
        "optim_cli.config.",
        "optim_cli.optim.composition",
        "optim_cli.optim.param_groups",
        "optim_cli.training.loop",
    },
    "config/groups.py": {
        "torch.",
        "optim_cli.config.",
        "optim_cli.optim.lr_scheduler.place",
        "optim_cli.optim.lr_scheduler.schedule",
        "optim_cli.optim.param_groups.",
    },
    "config/schedules.py": {"optim_cli.config.", "optim_cli.optim.lr_scheduler.schedule"},
    "config/describe.py": {"annotated_types", "optim_cli.config.durations"},
    "config/durations.py": {"optim_cli.optim.lr_scheduler.schedule"},
    "config/mistakes.py": {"optim_cli.errors"},
    "config/values.py": {"pydantic", "optim_cli.config.", "optim_cli.errors"},
    "config/targets.py": {"torchvision.models", "optim_cli.config."},
    "group_table.py": {"optim_cli."},
    "preview": {"torch.", "optim_cli."},
    "preview/terminal.py": {"plotille", "rich.", "optim_cli.preview."},
    "preview/picture.py": {"matplotlib.", "optim_cli.preview.", "optim_cli.whole_file"},
    "preview/output.py": {"rich.console"},
    "preview/command.py": {"torch.", "rich.", "optim_cli."},
    "preview/groups.py": {"torch.", "rich.", "optim_cli."},
    "preflight.py": {"omegaconf.errors", "optim_cli."},
    "job.py": {"hydra.", "omegaconf", "optim_cli."},
    "assemble.py": {"omegaconf.", "torch.", "optim_cli."},
    "run.py": {"torch.", "rich.", "optim_cli."},
    "cli.py": {"hydra.", "omegaconf.", "yaml", "rich.console", "optim_cli."},
    "__init__.py": set(),
    "__main__.py": {"optim_cli.cli"},
}
# Of torch.optim only the types that other libraries look for, and what keeps its protocol.
FROM_TORCH_OPTIM = {"Optimizer", "optimizer", "lr_scheduler.LRScheduler"}
FORBIDDEN_NAMES = {"utils", "helpers", "misc", "common", "stuff", "util", "helper"}


def room_of(path: Path) -> str:
    """The entry of ALLOWED for a source file."""
    place = path.relative_to(PACKAGE).as_posix()
    fitting = [room for room in ALLOWED if place == room or place.startswith(f"{room}/")]
    assert fitting, f"{place} is in no room of the table"
    return max(fitting, key=len)


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Imported modules, a name taken from a package as package.name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            module = node.module or ""
            for alias in node.names:
                below = PACKAGE.parent.joinpath(*module.split("."), alias.name)
                is_module = below.is_dir() or below.with_suffix(".py").is_file()
                yield (f"{module}.{alias.name}" if is_module else module), node.lineno


def may_import(module: str, allowed: set[str]) -> bool:
    """Whether the table lets a module in."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    return any(f"{module}.".startswith(x) if x.endswith(".") else module == x for x in allowed)


def attributes_of(tree: ast.AST) -> Iterator[str]:
    """Dotted names in a file, such as torch.optim.Optimizer."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name):
                yield ".".join([inner.id, *reversed(parts)])


def calls_of(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls with the text of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def files() -> list[Path]:
    """Everything that people wrote in the repository's folders."""
    found = [x for name in TRACKED for x in (ROOT / name).rglob("*") if "__pycache__" not in x.parts]
    return [x for x in found if x.is_file() and x.suffix in (".py", ".yaml", ".md", ".toml")]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 30
    assert {room.partition("/")[0] for room in ALLOWED} == {
        x.name for x in PACKAGE.iterdir() if x.suffix == ".py" or (x.is_dir() and any(x.glob("*.py")))
    }, "the table and the package name different rooms"


def test_imports() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {room_of(path)} may not import {module}"
        for path in SOURCES
        for module, line in imports_of(parsed(path))
        if not may_import(module, ALLOWED[room_of(path)])
    ]
    assert not wrong, "\n".join(wrong)


def test_only_assemble_instantiates() -> None:
    """What `locate` finds is called in one place; Hydra's instantiate, which calls anything, nowhere."""
    users = {
        name: {
            path.relative_to(PACKAGE).as_posix()
            for path in SOURCES
            if any(called == name for called, _ in calls_of(parsed(path)))
        }
        for name in ("locate", "target")
    }
    assert users == {
        "locate": {"assemble.py", "config/values.py", "config/schedules.py"},
        "target": {"assemble.py"},
    }
    assert not [x for x in SOURCES if any(module == "hydra.utils" for module, _ in imports_of(parsed(x)))]


def test_torch_optim_is_left_to_the_tests() -> None:
    wrong: list[str] = []
    for path in SOURCES:
        tree = parsed(path)
        names = [x.removeprefix("torch.optim.") for x in attributes_of(tree) if x.startswith("torch.optim.")]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.optim"):
                inside = (node.module or "").removeprefix("torch.optim").lstrip(".")
                names += [f"{inside}.{x.name}".lstrip(".") for x in node.names]
        known = {f"{x}." for x in FROM_TORCH_OPTIM}
        wrong += [
            f"{path.relative_to(ROOT)}: torch.optim.{name}"
            for name in names
            if name != "lr_scheduler" and not any(f"{name}.".startswith(x) for x in known)
        ]
    assert not wrong, "\n".join(wrong)


def test_the_command_starts_without_torch() -> None:
    heavy = ("torch", "torchvision", "numpy", "matplotlib", "sklearn", "rich", "pydantic")
    program = f"import optim_cli.cli, sys; print([x for x in {heavy} if x in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT, cwd=ROOT
    )
    assert done.stdout == "[]\n"
    module_level = [x for x in parsed(PACKAGE / "cli.py").body if isinstance(x, ast.Import | ast.ImportFrom)]
    assert module_level
    assert not [x for node in module_level for x, _ in imports_of(node) if x.startswith("torch")]


def test_names_say_what_is_inside() -> None:
    places = {part for path in files() for part in path.relative_to(ROOT).parts}
    stems = {Path(x).stem.lower() for x in places}
    assert len(stems) > 50
    assert not stems & FORBIDDEN_NAMES


def test_lengths() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    too_long = [f"{x.relative_to(ROOT)}: {n} lines" for x, n in lengths.items() if n > 500]
    algorithms = [x for x in lengths if x.parent == PACKAGE / "optim" / "algorithms"]
    assert len(algorithms) > 1
    too_long += [f"{x.relative_to(ROOT)}: {lengths[x]} lines" for x in algorithms if lengths[x] > 120]
    assert not too_long, "\n".join(too_long)


def test_text_is_not_run() -> None:
    places = [
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        for name, _ in calls_of(parsed(path))
        if name in ("eval", "exec")
    ]
    assert places == ["optim/execution/translate.py"]


def test_checkpoints_are_read_as_data() -> None:
    loads = [
        call
        for path in SOURCES
        for name, call in calls_of(parsed(path))
        if name in ("torch.load", "load") or name.startswith("pickle.")
    ]
    assert loads
    for call in loads:
        assert any(
            x.arg == "weights_only" and isinstance(x.value, ast.Constant) and x.value.value is True
            for x in call.keywords
        ), ast.unparse(call)


def test_nothing_is_left_over() -> None:
    folders = [x for name in TRACKED for x in (ROOT / name).rglob("*") if x.is_dir()]
    empty = [x for x in folders if x.name != "__pycache__" and not any(x.iterdir())]
    assert not empty
    words = ("TO" + "DO", "FIX" + "ME", "X" * 3)
    marked = [str(x) for x in files() if any(word in x.read_text(encoding="utf-8") for word in words)]
    assert not marked


@pytest.mark.parametrize("folder", ["optim_cli", "configs", "recipes"])
def test_sources_hold_no_links(folder: str) -> None:
    """Builders of packages drop them."""
    entries = list((ROOT / folder).rglob("*"))
    assert entries
    assert not [x for x in entries if x.is_symlink()]


def test_named_tests_exist() -> None:
    """Every deviation from torch names its tests."""
    text = (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", text)
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert all("::" in row for row in rows)
    missing = [
        f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text("utf-8")
    ]
    assert not missing


def test_no_placeholders_in_texts() -> None:
    texts = list(ROOT.glob("*.md"))
    assert texts
    assert not [path.name for path in texts if re.search(r"@[A-Z]+@", path.read_text(encoding="utf-8"))]
