"""Where a preview is printed."""

from __future__ import annotations

from rich.console import Console


class Output(Console):
    """Standard output, which says where nobody reads it any more, as in `optim-run --groups | head`."""

    def on_broken_pipe(self) -> None:
        """Let the command end as it does elsewhere, in place of rich's exit code.

        Raises:
            BrokenPipeError: always.
        """
        self.quiet = True
        raise BrokenPipeError
