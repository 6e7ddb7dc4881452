"""What a run has to say, in its log."""

from __future__ import annotations

import logging

from optim_cli.training.events import Observer

log = logging.getLogger(__name__)


class RunLog(Observer):
    """Logs what is noted; metrics have a file of their own."""

    def noted(self, text: str) -> None:
        """The line."""
        log.info(text)
