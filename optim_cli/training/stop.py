"""Stopping on Ctrl-C and SIGTERM: the first asks, the second stops at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal ended a run before its last step; its state is saved.

    Attributes:
        step, total: how far it is, in steps, and how far it was to go.
        signum: what asked for it.
    """

    def __init__(self, step: int, total: int, signum: signal.Signals) -> None:
        super().__init__(f"{signum.name}: stopped at step {step} of {total}")
        self.step = step
        self.total = total
        self.signum = signum


class StoppedAtOnce(SystemExit):
    """The process ends now, with nothing saved."""


@dataclass
class StopRequest:
    """What the loop looks at after every step.

    Attributes:
        signum: the signal that asks to stop; None as long as none does.
    """

    signum: signal.Signals | None = None


@contextmanager
def listening(request: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Note the first signal in `request`; the former handlers are back afterwards.

    Only the main thread can listen: elsewhere signals do what they did before. So do those that the
    process ignores, as the ones of a terminal in its background.

    Args:
        request: is filled in.
        say: is told at once that the first signal was heard.

    Raises:
        KeyboardInterrupt, StoppedAtOnce: inside the block, at the second signal.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signum is None:
            request.signum = signal.Signals(number)
            # A stream that the signal found in the middle of a write refuses another.
            with suppress(RuntimeError):
                say(f"{request.signum.name}: stopping after this step; a second one stops at once")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise StoppedAtOnce(128 + number)

    if current_thread() is not main_thread():
        yield
        return
    former = {x: signal.getsignal(x) for x in SIGNALS if signal.getsignal(x) != signal.SIG_IGN}
    for number in former:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
