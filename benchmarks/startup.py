"""Commands that run nothing, beside a bare Hydra application: wall time of the whole process.

    python benchmarks/startup.py

Both have the same groups and choices. They take turns (A B A B), so that a machine that slows down slows
both. Exit code 1 names the commands over LIMIT, and those that import torch.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import yaml

from optim_cli.paths import PACKAGE, folder

LIMIT = 0.2  # seconds, ours less the bare application's
COMMANDS = {
    "--help": ("--help",),
    "--cfg job": ("--cfg", "job"),
    "--info defaults": ("--info", "defaults"),
    "--info searchpath": ("--info", "searchpath"),
    "completion of optimizer=": ("--shell-completion", "query=bash"),
}
# COMP_LINE is the line that the shell wants completed; the name of the command in it is cut off.
ENVIRONMENT = {**os.environ, "COMP_LINE": "optim-run optimizer=", "PYTHONPATH": str(PACKAGE.parent)}
BARE = """
import hydra


@hydra.main(version_base="1.3", config_path="configs", config_name="config")
def main(config):
    pass


main()
"""


def bare_application(where: Path) -> Path:
    """The least that Hydra needs, with our groups and choices."""
    shutil.copytree(folder("configs"), where / "configs", ignore=shutil.ignore_patterns("hydra"))
    config = where / "configs" / "config.yaml"
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    groups = [x for x in values["defaults"] if x == "_self_" or (where / "configs" / next(iter(x))).is_dir()]
    config.write_text(
        yaml.safe_dump({"defaults": groups, "seed": values["seed"], "device": values["device"]})
    )
    program = where / "bare.py"
    program.write_text(BARE, encoding="utf-8")
    return program


def executed(command: list[str], where: Path) -> tuple[float, str]:
    """Seconds that a command takes, and what it writes to standard error.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    start = time.perf_counter()
    done = subprocess.run(command, cwd=where, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stderr


def imports_torch(program: list[str], arguments: tuple[str, ...], where: Path) -> bool:
    """Whether torch is among the modules that Python reports as imported."""
    _, report = executed([sys.executable, "-X", "importtime", *program, *arguments], where)
    modules = re.findall(r"\| +([\w.]+)$", report, flags=re.MULTILINE)
    assert "hydra" in modules, "Python reports no imports"
    return "torch" in modules


def main() -> int:
    """Print the table; the exit code says whether all rows are within the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=11, help="processes of each command and side")
    repeats: int = parser.parse_args().repeats

    print(f"Hydra {version('hydra-core')}, Python {platform.python_version()}, {repeats} repeats, medians")
    print(f"{'command':26} {'optim-run s':>11} {'bare Hydra s':>12} {'difference':>10} {'torch':>6}")
    offending = []
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        programs = (["-m", "optim_cli"], [str(bare_application(where))])
        for name, arguments in COMMANDS.items():
            times: tuple[list[float], list[float]] = ([], [])
            for repeat in range(-1, repeats):  # the first fills caches
                for program, taken in zip(programs, times, strict=True):
                    elapsed, _ = executed([sys.executable, *program, *arguments], where)
                    if repeat >= 0:
                        taken.append(elapsed)
            ours, theirs = map(statistics.median, times)
            torch = imports_torch(programs[0], arguments, where)
            print(
                f"{name:26} {ours:11.3f} {theirs:12.3f} {ours - theirs:10.3f} {'yes' if torch else 'no':>6}"
            )
            if ours - theirs > LIMIT or torch:
                offending.append(name)
    if offending:
        print(f"over {LIMIT} s or with torch: {', '.join(offending)}")
    return 1 if offending else 0


if __name__ == "__main__":
    sys.exit(main())
