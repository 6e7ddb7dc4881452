"""The exception of the program for everything that its user can put right, and whose frames to show."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb, format_list


class ConfigError(Exception):
    """A user's mistake: its message says what was given, what is allowed and where to fix it.

    Shown without a traceback; the program ends with exit code 2.
    """


def user_frames(error: BaseException, plugins: Collection[str]) -> list[str]:
    """The part of a traceback that lies in the user's own packages, as lines.

    Args:
        plugins: names of the packages.
    """
    files = [spec.origin for spec in map(find_spec, plugins) if spec is not None and spec.origin]
    # A package is a folder, a module a file.
    places = [Path(x).parent if Path(x).name == "__init__.py" else Path(x) for x in files]
    inside = [
        frame
        for frame in extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(place) for place in places)
    ]
    return "".join(format_list(inside)).splitlines()
