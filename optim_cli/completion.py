"""What Hydra's shell completion leaves out: folders of configs, options in any place, quiet."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from glob import glob
from io import StringIO

from hydra._internal.utils import get_args_parser

from optim_cli.config.files import NESTED


def complete(arguments: Namespace, ask: Callable[[Namespace], None]) -> None:
    """Print what may stand at the end of the line that the shell passes in COMP_LINE.

    Nothing is said of what is wrong with the line: it is not finished.

    Args:
        arguments: of the query; the folder that `--config-dir` names in the line is added.
        ask: lets Hydra answer.
    """
    *words, typed = (
        os.environ.get("COMP_LINE", "optim-run ").replace("--config-dir=", "--config-dir ").split(" ")
    )
    command, *words = filter(None, words)
    if words and words[-1] in ("--config-dir", "-cd"):
        print(*sorted(glob(f"{typed}*/")), sep="\n")
        return
    answer = StringIO()
    with redirect_stdout(answer), redirect_stderr(StringIO()), suppress(Exception, SystemExit):
        given = get_args_parser().parse_intermixed_args(words)
        # Hydra's parser wants options first, and takes from the line no folder.
        line = [command, *["-m"] * given.multirun, *given.overrides, typed]
        os.environ["COMP_LINE"] = " ".join(line)
        if given.config_dir:
            arguments.config_dir = given.config_dir
            sys.argv[1:1] = ["--config-dir", given.config_dir]
        ask(arguments)
    # Of a group that has another one in its folder, Hydra says neither what follows nor that both may.
    outer = NESTED.partition("/")[0]
    for word in answer.getvalue().split():
        print(*([f"{outer}/", f"{outer}="] if word == outer else [word]), sep="\n")
