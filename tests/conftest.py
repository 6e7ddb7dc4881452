"""Random seeds that a failure shows and `--seed` repeats."""

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="seed of randomised inputs (default: another one each time)")
    parser.addoption(
        "--all-combinations",
        action="store_true",
        help="compare every combination of options with torch.optim (default: some of each)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests wait for processes come first, so that no core is idle at the end."""
    items.sort(key=lambda item: "optim" in item.path.parts)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Another one each time; pytest shows the print with a failure."""
    given: int | None = request.config.getoption("--seed")
    value = random.SystemRandom().randrange(2**32) if given is None else given
    print(f"seed: {value}")
    return value
