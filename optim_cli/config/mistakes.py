"""What is wrong with a config, one mistake a key."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from optim_cli.errors import ConfigError


@dataclass(frozen=True)
class Mistake:
    """A line of the report.

    Attributes:
        key: where in the config, dotted, with [i] for entries of lists.
        what: the value given and what is allowed.
        origin: where the value comes from, once that is known.
    """

    key: str
    what: str
    origin: str = ""

    def __str__(self) -> str:
        key, origin = shortened(self.key or "''"), shortened(self.origin)
        first, *more = map(shortened, self.what.splitlines() or [""])
        return "\n".join([f"{key}: {first}" + (f" [{origin}]" if origin else ""), *more])


class Mistaken(ConfigError):
    """Mistakes that are known one by one."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = list(mistakes)
        super().__init__("\n".join(map(str, self.mistakes)))


def shortened(text: str, longest: int = 600) -> str:
    """A text that fits on a screen, without its middle if need be."""
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-longest // 2 :]}"


def unknown_key(key: str, known: Collection[str], elsewhere: Iterable[str] = ()) -> Mistake:
    """An unknown key, with the nearest right one.

    Args:
        key: the whole key.
        known: names that are right in its place.
        elsewhere: whole keys of other places.
    """
    prefix, dot, name = key.rpartition(".")
    near = [prefix + dot + x for x in get_close_matches(name, known, n=1)]
    elsewhere = list(elsewhere)
    near = near or [x for x in elsewhere if x.rpartition(".")[2] == name]
    # Keys beside it look like it for what they have in common, which is right.
    near = near or get_close_matches(key, [x for x in elsewhere if not f"{x}.".startswith(f"{prefix}.")], n=1)
    hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
    return Mistake(key, f"unknown key{hint} (known: {', '.join(known) or 'none'})")


def unknown_choice(group: str, choice: object, choices: Collection[str]) -> Mistake:
    """A choice that a group does not have, with those it has."""
    right = str(choice) in choices
    hint = f"; put it in quotes to mean {choice}" if right else did_you_mean(str(choice), choices)
    shown = "null" if choice is None else repr(choice)
    return Mistake(group, f"{shown} is no choice{hint} (choices: {', '.join(choices) or 'none'})")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """The nearest right name for a wrong one, as a part of a message; nothing where none is near."""
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_lines(error: BaseException) -> str:
    """What an error of Hydra says, without its hints on where to read more."""
    if isinstance(error, RecursionError):
        return "leads back to itself, or lists too much"
    lines = [x.strip() for x in str(error).splitlines()]
    hints = ("full_key:", "object_type=", "reference_type=", "See http")
    lines = [x for x in lines if x and not x.startswith(hints)]
    return "; ".join(lines[:2]) or type(error).__name__
