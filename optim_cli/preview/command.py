"""The command that draws a schedule: `optim-run --schedule`."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from optim_cli.assemble import assemble
from optim_cli.config.experiment import Experiment
from optim_cli.config.mistakes import Mistake
from optim_cli.preflight import mistakes_of
from optim_cli.preview.course import courses, follows_metric
from optim_cli.preview.picture import FORMATS, save
from optim_cli.preview.terminal import show


def draw(experiment: Experiment, picture: str, console: Console) -> list[Mistake]:
    """Draw what the config's schedule sets over the run, and write it as a picture if one is named.

    Args:
        picture: a file that is not there yet; empty for none.

    Returns:
        Mistakes, if there are any; then nothing is drawn.
    """
    if experiment.several:
        return [Mistake("--schedule", "draws one run; leave out -m and give one value to each key")]
    job = experiment.job(experiment.jobs[0])
    found = [*experiment.mistakes, *job.told(mistakes_of(job)), *_refused(picture)]
    if found or job.values is None:
        return list(dict.fromkeys(found))
    training = assemble(job.values, torch.device("cpu"))
    if training.scheduler is None:
        what = "there is none, so nothing is to be drawn; choose one with scheduler=CHOICE"
        return [Mistake("scheduler", what)]
    drawn = courses(training)
    show(drawn, console)
    if follows_metric(training.scheduler):
        console.print("what follows a metric is drawn as if it never acted")
    if picture:
        path = Path(picture)
        try:
            save(drawn, f"scheduler={job.choices['scheduler']}, optimizer={job.choices['optimizer']}", path)
        except OSError as error:
            return [Mistake("--schedule", f"{picture!r} cannot be written: {error.strerror or error}")]
        console.print(f"picture in {picture}", highlight=False, soft_wrap=True)
    return []


def _refused(picture: str) -> list[Mistake]:
    """Why a picture cannot be written to a file, as far as that is known before."""
    path = Path(picture)
    what = None
    if picture and path.suffix not in FORMATS:
        what = f"is no picture; the name ends with {', '.join(FORMATS)}"
    elif picture and path.exists():
        what = "is there already; name another file"
    elif picture and not path.absolute().parent.is_dir():
        what = f"there is no folder {str(path.parent)!r}"
    return [Mistake("--schedule", f"{picture!r}: {what}")] if what else []
