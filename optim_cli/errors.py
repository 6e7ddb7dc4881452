"""What the program ends with: exit codes, the exception for a user's mistake, whose frames to show."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb, format_list

FAILED, WRONG_CONFIG = 1, 2  # exit codes


class ConfigError(Exception):
    """A user's mistake: its message says what was given, what is allowed and where to fix it.

    Shown without a traceback; the program ends with exit code 2.
    """


def user_frames(error: BaseException, plugins: Collection[str]) -> list[str]:
    """The part of a traceback that lies in the user's own packages, as lines.

    Args:
        plugins: names of the packages.
    """
    places = [place for name in plugins for place in _places(name)]
    frames = [x for x in extract_tb(error.__traceback__) if _lies_in(x.filename, places)]
    lines = "".join(format_list(frames)).splitlines()
    if isinstance(error, SyntaxError) and error.filename and _lies_in(error.filename, places):
        # Nothing of that file ran, so no frame shows it.
        lines += [f'  File "{error.filename}", line {error.lineno}', f"    {(error.text or '').strip()}"]
    return lines


def _places(package: str) -> list[Path]:
    """The folder of a package, or the file of a module; none where there is none."""
    try:
        spec = find_spec(package)
    except ValueError:  # it is loaded and does not say from where, as `__main__`
        return []
    if spec is None:
        return []
    inside = [Path(x) for x in spec.submodule_search_locations or ()]
    return inside or [Path(spec.origin or "")]


def _lies_in(file: str, places: Collection[Path]) -> bool:
    return any(Path(file).is_relative_to(place) for place in places)
