"""Parameter groups by what parameters are called and what they are part of.

entries = {
    "no_decay": {"kind": ["bias", "norm"], "weight_decay": 0.0},
    "head": {"params": "head.*", "lr": 1e-2},
    "matrices": {"ndim": 2, "optimizer": partial(Muon, lr=0.02)},
}
optimizer = make_optimizer(split(model, entries), partial(AdamW, lr=1e-3))
"""

from optim_cli.optim.param_groups.conditions import KINDS, TAKING, Patterns, words_of
from optim_cli.optim.param_groups.depth import Structure
from optim_cli.optim.param_groups.entries import (
    BESIDE,
    REST,
    Entry,
    Group,
    WrongGroups,
    mistakes,
    split,
    wrong_structure,
)
from optim_cli.optim.param_groups.making import Make, make_optimizer
from optim_cli.optim.param_groups.scheduling import MakeSchedule, make_scheduler, scopes
from optim_cli.optim.param_groups.unfreezing import Unfreezing

__all__ = [
    "BESIDE",
    "KINDS",
    "REST",
    "TAKING",
    "Entry",
    "Group",
    "Make",
    "MakeSchedule",
    "Patterns",
    "Structure",
    "Unfreezing",
    "WrongGroups",
    "make_optimizer",
    "make_scheduler",
    "mistakes",
    "scopes",
    "split",
    "words_of",
    "wrong_structure",
]
