"""The first signal asks, the second stops at once; afterwards everything is as it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from threading import Thread

import pytest

from optim_cli.training.stop import SIGNALS, Stopped, StopRequest, listening


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Whatever a test leaves."""
    former = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_asks(number: signal.Signals) -> None:
    request, said = StopRequest(), list[str]()
    with listening(request, said.append):
        assert request.signum is None
        signal.raise_signal(number)
        assert request.signum is number
        assert said == [f"{number.name}: stopping after this step; a second one stops at once"]


@pytest.mark.parametrize("first", SIGNALS)
def test_the_second_stops_at_once(first: signal.Signals) -> None:
    for second, ends in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
        request, said = StopRequest(), list[str]()
        with listening(request, said.append):
            signal.raise_signal(first)
            with pytest.raises(ends) as error:
                signal.raise_signal(second)
        assert request.signum is first
        assert len(said) == 1
        assert ends is KeyboardInterrupt or error.value.code == 143  # type: ignore[attr-defined]


def test_the_former_handlers_are_back() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with pytest.raises(ZeroDivisionError), listening(StopRequest(), print):
        raise ZeroDivisionError
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_so() -> None:
    """A shell starts what is in its background so, and Ctrl-C is for the foreground."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest()
    with listening(request, print):
        signal.raise_signal(signal.SIGINT)
        assert request.signum is None
        signal.raise_signal(signal.SIGTERM)
        assert request.signum is signal.SIGTERM


def test_other_threads_cannot_listen() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work() -> None:
        with listening(StopRequest(), print):
            seen.append([signal.getsignal(number) for number in SIGNALS])

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stream_in_the_middle_of_a_write() -> None:
    """It refuses the message, which is no reason to fail."""

    def refuse(text: str) -> None:
        raise RuntimeError("reentrant call")

    request = StopRequest()
    with listening(request, refuse):
        signal.raise_signal(signal.SIGINT)
    assert request.signum is signal.SIGINT


def test_stopped_says_how_far() -> None:
    stopped = Stopped(7, 30, signal.SIGTERM)
    assert str(stopped) == "SIGTERM: stopped at step 7 of 30"
    assert (stopped.step, stopped.total, stopped.signum) == (7, 30, 15)
