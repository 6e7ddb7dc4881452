"""Means of loss and accuracy against float64 sums over samples."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from optim_cli.training.meter import EpochMeter, Meter, means

CPU = torch.device("cpu")


def test_against_float64(seed: int) -> None:
    """Batches of uneven sizes, cut into readings anywhere."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(30):
        sizes = torch.randint(1, 40, (12,), generator=generator).tolist()
        logits = [torch.randn(n, 5, generator=generator) * 3 for n in sizes]
        targets = [torch.randint(0, 5, (n,), generator=generator) for n in sizes]
        cuts = set(torch.randint(0, 12, (3,), generator=generator).tolist()) - {11}
        meter, readings = Meter(CPU), []
        for i, (x, y) in enumerate(zip(logits, targets, strict=True)):
            meter.update(cross_entropy(x, y), x, y)
            if i in cuts:
                readings.append(meter.take())
        readings.append(meter.take())
        assert sum(x.samples for x in readings) == sum(sizes)
        whole, labels = torch.cat(logits).double(), torch.cat(targets)
        expected = cross_entropy(whole, labels).item()
        found = means(readings, "train")
        assert found["train/loss"] == pytest.approx(expected, rel=1e-6)  # losses come in float32
        assert found["train/accuracy"] == pytest.approx(
            (whole.argmax(1) == labels).double().mean().item(), rel=1e-15
        )


def test_sums_are_float64() -> None:
    """A million samples do not round away what the next batch adds."""
    meter = Meter(CPU)
    logits, targets = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
    meter.update(torch.tensor(2.0**30), logits, targets)
    meter.update(torch.tensor(1.0), logits, targets)
    assert meter.take().sums() == (2, 2.0**30 + 1, 2.0)


def test_taking_starts_anew() -> None:
    meter = Meter(CPU)
    logits, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    meter.update(torch.tensor(0.5), logits, targets)
    first = meter.take()
    meter.update(torch.tensor(3.0), logits[:1], targets[:1])
    second = meter.take()
    assert first.ready()
    assert first.sums() == (2, 1.0, 1.0)
    assert second.sums() == (1, 3.0, 1.0)
    assert second.metrics("val") == {"val/loss": 3.0, "val/accuracy": 1.0}
    assert meter.take().samples == 0


def test_a_norm_is_told_as_it_is() -> None:
    """Of one step, beside means over several."""
    meter = Meter(CPU)
    meter.update(torch.tensor(0.5), torch.eye(2), torch.tensor([0, 1]))
    reading = meter.take(torch.tensor(0.25))
    assert reading.sums() == (2, 1.0, 2.0)
    assert reading.metrics("train") == {"train/loss": 0.5, "train/accuracy": 1.0, "train/grad_norm": 0.25}


def test_nan_is_told() -> None:
    meter = Meter(CPU)
    meter.update(torch.tensor(torch.nan), torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    loss = meter.take().metrics("x")["x/loss"]
    assert loss != loss
    meter.update(torch.tensor(1.0), torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))
    assert meter.take().metrics("x")["x/loss"] == 1.0, "the next measurement is its own"


def test_no_graph_is_kept() -> None:
    meter = Meter(CPU)
    logits = torch.zeros(2, 2, requires_grad=True)
    targets = torch.zeros(2, dtype=torch.int64)
    meter.update(cross_entropy(logits, targets), logits, targets)
    assert not meter._sums.requires_grad


def test_an_epoch_in_two_parts(seed: int) -> None:
    """Its mean has the same bits, wherever the sums went from one meter to another."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(7, 3, generator=generator) for _ in range(20)]
    targets = torch.randint(0, 3, (7,), generator=generator)

    def train(meter: EpochMeter, first: int, last: int) -> None:
        for step in range(first, last):
            meter.meter.update(cross_entropy(batches[step], targets), batches[step], targets)
            if step % 6 == 5:
                meter.measure(step, {"lr": 0.5})

    told: list[tuple[int, dict[str, float]]] = []
    whole = EpochMeter(CPU, lambda step, metrics: told.append((step, metrics)))
    train(whole, 0, 20)
    expected = list(told)
    assert [step for step, _ in told] == [5, 11, 17]
    for cut in range(21):
        told.clear()
        first = EpochMeter(CPU, lambda step, metrics: told.append((step, metrics)))
        train(first, 0, cut)
        second = EpochMeter(CPU, lambda step, metrics: told.append((step, metrics)), first.state())
        train(second, cut, 20)
        assert second.mean() == whole.mean()
        assert second.state() == whole.state()
        assert told == expected
