"""What a result depends on besides its config."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from optim_cli.paths import PACKAGE

PACKAGES = ("optim-run", "torch", "torchvision", "triton", "hydra-core", "omegaconf", "numpy")


def describe(device: torch.device, choices: Mapping[str, str | None]) -> dict[str, Any]:
    """Versions, device, git commit, command line, and the choices that people know the run by."""
    return {
        "command": sys.argv,
        "choices": dict(choices),
        "directory": os.getcwd(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "git": _git(),
    }


def device_name(device: torch.device) -> str:
    """The device as people call it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may change the last bits of a result, where two descriptions differ in it."""
    pairs = [(x["python"], x["packages"]["torch"], x["device"]) for x in (before, now)]
    titles = ("Python", "torch", "device")
    return [
        f"{title} {new} instead of {old}"
        for title, old, new in zip(titles, *pairs, strict=True)
        if new != old
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of the program's checkout and whether files differ from it; None without one or without git."""

    def ask(*arguments: str) -> str:
        command = ("git", "-C", str(PACKAGE), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
