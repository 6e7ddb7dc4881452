"""What the command tells of a command line before anything runs, in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from optim_cli.config.experiment import Experiment
from optim_cli.config.search_path import register, search_path
from optim_cli.paths import folder
from optim_cli.preflight import all_mistakes


def experiment(
    *overrides: str, own: Path | None = None, main: Path | None = None, several: bool = False
) -> Experiment:
    """A command line.

    Args:
        own: what --config-dir says.
        main: what --config-path says.
        several: whether -m is there.
    """
    OmegaConf.register_new_resolver("run_id", lambda: "id", replace=True)
    main = main or folder("configs").resolve()
    register([x for x in (main, own) if x is not None])
    return Experiment(search_path(main, str(own) if own else None), "config", list(overrides), several)


def told(
    *overrides: str, own: Path | None = None, main: Path | None = None, several: bool = False
) -> list[str]:
    """The lines of the report on a command line; none where nothing is wrong."""
    return [str(x) for x in all_mistakes(experiment(*overrides, own=own, main=main, several=several))]


def write(where: Path, files: Mapping[str, str | bytes]) -> Path:
    """Files of a user's folder, by path."""
    for name, content in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return where


def own_main(where: Path, more: str = "") -> Path:
    """A user's main config: the groups that come with the program, and what is put before them."""
    text = (folder("configs") / "config.yaml").read_text(encoding="utf-8")
    write(where, {"config.yaml": f"{more}{text}"})
    for group in folder("configs").iterdir():
        if group.is_dir() and not (where / group.name).exists():
            (where / group.name).symlink_to(group.resolve())
    return where
