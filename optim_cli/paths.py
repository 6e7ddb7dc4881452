"""Where configs and recipes lie: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `configs` or `recipes`."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
