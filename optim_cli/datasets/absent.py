"""The message for a dataset whose files are not there."""

from collections.abc import Sequence

from optim_cli.errors import ConfigError


def absent_files(dataset: str, expected: Sequence[str], failure: object = None) -> ConfigError:
    """Say which files were expected where, and how to provide them.

    Args:
        dataset: its name, for people.
        expected: absolute paths.
        failure: why a download did not provide them, if one was tried.
    """
    download = (
        f"Fetching them failed: {failure}"
        if failure
        else "Or have them fetched from the internet: dataset.download=true"
    )
    return ConfigError(
        "\n  ".join([f"{dataset}: files are missing. Expected:", *expected])
        + "\nSay where they are: dataset.root=PATH, or the environment variable OPTIM_DATA.\n"
        + download
    )
