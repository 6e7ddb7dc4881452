"""What a run has to say, in its log."""

from __future__ import annotations

import logging

from optim_cli.training.events import Observer, Plan

log = logging.getLogger(__name__)


class RunLog(Observer):
    """Logs what is noted, and how parameters are dealt out; metrics have a file of their own."""

    def started(self, plan: Plan) -> None:
        """The groups, a line each."""
        for group in plan.groups:
            log.info("group %s", group)

    def noted(self, text: str) -> None:
        """The line."""
        log.info(text)
