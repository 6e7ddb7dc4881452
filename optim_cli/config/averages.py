"""What is wrong with the averages of a run as a whole, though each of their values is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from optim_cli.config.groups import one_for_several
from optim_cli.config.mistakes import Mistake
from optim_cli.training.averaging import SWA, Average


def contradictions_of(
    averages: Mapping[str, Average], steps: int, rates: Mapping[str, float]
) -> list[Mistake]:
    """Averages that a run is too short for, learning rates that it does not come to, or two of them.

    One rate for parameter groups that have several is a mistake, too.

    Args:
        averages: those of the run, by their keys in the config.
        steps: of the optimizer, in the run.
        rates: of the parameter groups, as they are given.
    """
    beyond = [x for key, average in averages.items() for x in _beyond(key, average, steps)]
    wanted = {key: x.swa_lr for key, x in averages.items() if isinstance(x, SWA) and x.swa_lr is not None}
    levelling = [
        x for key, rate in wanted.items() for x in one_for_several(f"{key}.swa_lr", rate, "lr", rates)
    ]
    return [*beyond, *levelling, *_two_rates(wanted)]


def _beyond(key: str, average: Average, steps: int) -> Iterator[Mistake]:
    name = "start" if average.start else "every"
    if average.first > steps:
        what = f"the first weights would be averaged at step {average.first}, and the run has {steps} steps"
        yield Mistake(f"{key}.{name}", f"{what}; lower it")
    elif average.start == steps > 1:
        what = f"only the weights of step {steps} would be averaged, which are those that the run ends with"
        yield Mistake(f"{key}.start", f"{what}; lower it")
    elif isinstance(average, SWA) and average.swa_lr is not None and average.start + average.anneal > steps:
        what = (
            f"the rate would come to swa_lr at step {average.start + average.anneal}, and the run has {steps}"
        )
        yield Mistake(f"{key}.anneal", f"{what} steps; lower it or {key}.start")


def _two_rates(rates: Mapping[str, float | list[float]]) -> Iterator[Mistake]:
    for key, rate in rates.items():
        first = next(iter(rates))
        if rate != rates[first]:
            what = f"{rate} is another rate than the {rates[first]} of {first}; weights are trained with one"
            yield Mistake(f"{key}.swa_lr", what)
