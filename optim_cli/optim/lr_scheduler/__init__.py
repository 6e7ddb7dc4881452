"""Learning-rate schedules; every scheduler class found in this folder is an attribute of the package."""

from optim_cli.optim.discovery import discover
from optim_cli.optim.lr_scheduler.schedule import LRScheduler

SCHEDULERS = discover(__name__, __path__, LRScheduler)
globals().update(SCHEDULERS)
