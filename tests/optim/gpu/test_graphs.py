"""CUDA graphs of fused steps: what changes between replays, and what a graph keeps for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS, fusing
from optim_cli.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.optim.gpu.device import (
    DEVICE,
    FUSED,
    ON_GPU,
    assert_close,
    assert_equal,
    drawn,
    held,
    made,
    names,
    reference,
    some_steps,
    step,
)
from tests.optim.oracle import Options, params_of, ran

pytestmark = ON_GPU

FLOAT64 = torch.float64
# 0-d states are float32, and some are in every number.
CLOSE = (1e-6, 1e-6)
DECAY = 0.9


class Model(nn.Module):
    """Layers to train, beside a frozen weight and a buffer that change otherwise."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("mean", torch.zeros(3))


class Averaging:
    """A model, its average, and an optimizer that clips and averages."""

    def __init__(self, model: nn.Module, name: str, **options: Any) -> None:
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer: Any = ALGORITHMS[name](trained, **options)
        self.optimizer.clip_gradients(max_norm=0.7, max_value=0.2)
        self.optimizer.average_into(self.averaged, model)

    def weights(self) -> dict[str, Tensor]:
        return {key: x.cpu() for key, x in self.averaged.state_dict().items()}


def set_gradients(optimizer: Any, gradients: Sequence[Tensor]) -> list[Tensor]:
    """New tensors, which the caller keeps for a graph."""
    alive = []
    for p, g in zip(params_of(optimizer), gradients, strict=True):
        p.grad = g.to(p.device, p.dtype, copy=True)
        alive.append(p.grad)
    return alive


def captured(optimizer: Any, steps: int = 1) -> torch.cuda.CUDAGraph:
    """The graph of some steps, which do not run."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(steps):
            optimizer.step()
    return graph


def shapes_of(optimizer: Any) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in params_of(optimizer)]


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_everything_together_with_changing_numbers(name: str, generator: torch.Generator) -> None:
    """The step, clipping and averaging; rates, decay and betas in tensors."""
    model = Model().to(DEVICE, FLOAT64)
    copied = Model().to(FLOAT64)
    copied.load_state_dict(model.state_dict())
    start: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)}
    tensors = {key: torch.tensor(start[key], dtype=FLOAT64, device=DEVICE) for key in ("lr", "weight_decay")}
    betas = [torch.tensor(x, dtype=FLOAT64, device=DEVICE) for x in start["betas"]]
    ours = Averaging(model, name, **FUSED, **tensors, betas=tuple(betas), capturable=True)
    expected = Averaging(copied, name, **start, implementation="for_loop")
    shapes = shapes_of(ours.optimizer)
    gradients = drawn(generator, FLOAT64, shapes)
    for _ in range(2):
        for each in (ours, expected):
            step([each.optimizer], gradients)
    alive = set_gradients(ours.optimizer, gradients)
    launches = ours.optimizer.launches.copy()
    graph = captured(ours.optimizer)
    assert ours.optimizer.launches - launches == {
        "table": 1,
        "norm": 1,
        "prologue": 1,
        "update": 1,
    }
    for count in range(5):
        numbers: Options = {
            "lr": 0.02 / (count + 1),
            "weight_decay": 0.03 * count,
            "betas": (0.8 + 0.02 * count, 0.95),
        }
        expected.optimizer.param_groups[0].update(numbers)
        for key, tensor in tensors.items():
            tensor.fill_(numbers[key])
        for tensor, beta in zip(betas, numbers["betas"], strict=True):
            tensor.fill_(beta)
        gradients = [g / (count + 1) for g in drawn(generator, FLOAT64, shapes)]
        for g, new in zip(alive, gradients, strict=True):
            g.copy_(new)
        with torch.no_grad():
            for one in (model, copied):
                one.frozen.add_(count)
                one.mean.add_(1)
        graph.replay()
        step([expected.optimizer], gradients)
        assert_close(ours.optimizer, expected.optimizer, CLOSE, f"replay {count}:")
        torch.testing.assert_close(ours.optimizer.grad_norm.cpu(), expected.optimizer.grad_norm)
        found, wanted = ours.weights(), expected.weights()
        assert found["n_averaged"] == wanted["n_averaged"] == count + 3
        assert {int(state["step"]) for state in ours.optimizer.state.values()} == {count + 3}
        for key, x in wanted.items():
            torch.testing.assert_close(found[key], x, rtol=1e-6, atol=1e-6, msg=f"replay {count}: {key}")


@names
def test_eager_steps_leave_a_graph_alone(name: str, generator: torch.Generator) -> None:
    """They find gradients elsewhere; the graph goes on where its own are."""
    values = drawn(generator, FLOAT64)
    ours, expected = made(name, values, capturable=True), reference(name, values)
    step([ours, expected], drawn(generator, FLOAT64))
    alive = set_gradients(ours, values)
    graph = captured(ours)
    for count in range(4):
        others = drawn(generator, FLOAT64)
        step([ours, expected], others)
        assert_close(ours, expected, CLOSE, f"eager {count}:")
        gradients = drawn(generator, FLOAT64)
        for g, new in zip(alive, gradients, strict=True):
            g.copy_(new)
        graph.replay()
        step([expected], gradients)
        assert_close(ours, expected, CLOSE, f"replay {count}:")


@names
def test_two_graphs_of_one_optimizer(name: str, generator: torch.Generator) -> None:
    values = drawn(generator, FLOAT64)
    ours, expected = made(name, values, capturable=True), reference(name, values)
    step([ours, expected], drawn(generator, FLOAT64))
    gradients, graphs, alive = [], [], []
    for _ in range(2):
        gradients.append(drawn(generator, FLOAT64))
        alive.append(set_gradients(ours, gradients[-1]))
        graphs.append(captured(ours))
    for count in (0, 1, 1, 0):
        graphs[count].replay()
        step([expected], gradients[count])
        assert_close(ours, expected, CLOSE)


@names
def test_several_steps_in_one_graph(name: str, generator: torch.Generator) -> None:
    values, gradients = drawn(generator, FLOAT64), drawn(generator, FLOAT64)
    ours, expected = made(name, values, capturable=True), reference(name, values)
    step([ours, expected], gradients)
    graph = captured(ours, steps=3)
    for _ in range(2):
        graph.replay()
    for _ in range(6):
        step([expected], gradients)
    assert_close(ours, expected, CLOSE)


def test_a_graph_outlives_other_work_of_its_optimizer(generator: torch.Generator) -> None:
    """Checkpoints, other options and memory that is used again by somebody else."""
    values, gradients = drawn(generator, FLOAT64), drawn(generator, FLOAT64)
    ours, expected = made("AdamW", values, capturable=True), reference("AdamW", values)
    ours.clip_gradients(max_norm=0.5)
    expected.clip_gradients(max_norm=0.5)
    step([ours, expected], gradients)
    alive = set_gradients(ours, gradients)
    graph = captured(ours)
    ours.state_dict()
    for optimizer in (ours, expected):
        step([optimizer], [g * 2 for g in gradients])
        optimizer.param_groups[0]["maximize"] = True
        step([optimizer], gradients)
        optimizer.param_groups[0]["maximize"] = False
    torch.cuda.empty_cache()
    clutter = [torch.full((1000,), torch.nan, device=DEVICE) for _ in range(100)]
    for _ in range(3):
        graph.replay()
        step([expected], gradients)
    assert_close(ours, expected, CLOSE)
    assert len(clutter) > len(alive)


def test_a_first_compilation_in_a_capture_is_refused(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a checkpoint is loaded: there are states, but no kernels. Then nothing has happened."""
    values, gradients = drawn(generator, FLOAT64), drawn(generator, FLOAT64)
    ours, expected = made("Adam", values, capturable=True), reference("Adam", values)
    step([ours, expected], gradients)
    ours.load_state_dict(ours.state_dict())
    monkeypatch.setattr(fusing, "_kernels", {})
    set_gradients(ours, gradients)
    before = held(ours)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        params_of(ours)[0] * 2  # torch warns of a graph in which nothing was captured
        with pytest.raises(RuntimeError, match=r"while a CUDA graph is captured: take one step .* before"):
            ours.step()
    torch.cuda.synchronize()
    assert_equal(held(ours), before)
    step([ours, expected], gradients)
    graph = captured(ours)
    graph.replay()
    step([expected], gradients)
    assert_close(ours, expected, some_steps("Adam", FLOAT64))
    assert set(ran(ours)) == {"fused"}
