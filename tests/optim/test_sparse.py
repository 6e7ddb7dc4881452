"""Sparse gradients: SparseAdam, SGD and Adagrad against torch.optim and against the dense form."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optim_cli.optim import ALGORITHMS
from optim_cli.optim.elementwise import Elementwise
from tests.optim.oracle import Options, entries, ran, theirs_of

STEPS = 6
OPTIONS: dict[str, list[Options]] = {
    "SparseAdam": [
        {"lr": 0.1},  # the default moves no bfloat16 number above 0.5
        {"lr": 1.0, "maximize": True, "betas": (0.5, 0.9), "eps": 1e-3},
        {"lr": torch.tensor(0.1, dtype=torch.float64)},
    ],
    "SGD": [
        {"lr": 1.0},
        {"lr": torch.tensor(0.1), "maximize": True},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True},
    ],
    "Adagrad": [
        {"lr": 0.1},
        {"lr": 0.1, "lr_decay": 0.3, "initial_accumulator_value": 0.1, "eps": 1e-3, "maximize": True},
    ],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]
DTYPES = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-6), torch.bfloat16: (2**-4, 2**-5)}

cases = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """Sparse tensors are checked as they are made (torch warns where nobody has said whether to)."""
    with torch.sparse.check_sparse_tensor_invariants():
        yield


def parameters(generator: torch.Generator, dtype: torch.dtype) -> list[nn.Parameter]:
    """A table of vectors, one of matrices, one that is transposed in memory, one without rows."""
    values = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((7, 3), (5, 2, 2), (3, 6), (4, 0))
    ]
    values[2] = values[2].t()
    return [nn.Parameter(x) for x in values]


def gradients(
    params: Sequence[Tensor], generator: torch.Generator, sparse_dims: int = 1
) -> Iterator[list[Tensor]]:
    """Uncoalesced gradients: entries for few places, some twice; one in four has none."""
    for step in range(STEPS):
        found = []
        for index, p in enumerate(params):
            count = 0 if (step + index) % 4 == 3 or not p.numel() else 4
            shape = p.shape[:sparse_dims]
            where = torch.stack([torch.randint(max(n, 1), (count,), generator=generator) for n in shape])
            values = torch.randn((count, *p.shape[sparse_dims:]), generator=generator, dtype=torch.float64)
            found.append(torch.sparse_coo_tensor(where, values.to(p.dtype), p.shape))
        yield found


def twin(cls: Any, params: Sequence[Tensor], options: Options) -> torch.optim.Optimizer:
    mine = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer: torch.optim.Optimizer = cls(mine, **copy.deepcopy(options))
    return optimizer


def step(optimizer: torch.optim.Optimizer, grads: Sequence[Tensor]) -> None:
    for p, g in zip(optimizer.param_groups[0]["params"], grads, strict=True):
        p.grad = g.clone()
    optimizer.step()


def assert_same(
    ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, tolerance: tuple[float, float]
) -> None:
    mine, torchs = entries_of(ours), entries_of(theirs)
    assert {key: len(found) for key, found in mine.items()} == {key: len(x) for key, x in torchs.items()}
    for key, found in mine.items():
        for x, y in zip(found, torchs[key], strict=True):
            assert x.is_sparse == y.is_sparse, key
            x, y = (z.to_dense() if z.is_sparse else z for z in (x, y))
            assert torch.allclose(x, y, *tolerance), f"{key}: {x} instead of {y}"


def entries_of(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """Parameters and state entries by name; counts as they stand in a state_dict."""
    found = {"p": [p.detach() for p in optimizer.param_groups[0]["params"]]}
    for held in optimizer.state_dict()["state"].values():
        for name, value in held.items():
            found.setdefault(name, []).append(torch.as_tensor(value))
    return found


@pytest.mark.parametrize("implementation", ["auto", "for_loop", "foreach"])
@dtypes
@cases
def test_steps_are_those_of_torch(
    name: str, options: Options, dtype: torch.dtype, implementation: str, generator: torch.Generator
) -> None:
    params = parameters(generator, dtype)
    ours = twin(ALGORITHMS[name], params, options | {"implementation": implementation})
    theirs = twin(theirs_of(name), params, options)
    # In bfloat16, torch's buffers keep an entry for every gradient of a row, and round once for each.
    steps = 1 if dtype == torch.bfloat16 else STEPS
    for grads in islice(gradients(params, generator), steps):
        step(ours, grads)
        step(theirs, grads)
        held = [p.grad for p in ours.param_groups[0]["params"]]
        assert all(torch.equal(x.to_dense(), y.to_dense()) for x, y in zip(held, grads, strict=True))
        assert_same(ours, theirs, DTYPES[dtype])
    rule = "for_loop" if implementation == "for_loop" else "foreach"
    assert set(ran(ours)) == {rule, "sparse"}
    assert ran(ours)["sparse"] == steps
    assert not torch.equal(ours.param_groups[0]["params"][0], params[0])


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_a_sparse_gradient_does_what_the_dense_one_does(
    name: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    params = parameters(generator, dtype)
    for options in OPTIONS[name]:
        sparse, dense = (twin(ALGORITHMS[name], params, options) for _ in range(2))
        for grads in gradients(params, generator):
            step(sparse, grads)
            step(dense, [g.to_dense() for g in grads])
        for x, y in zip(entries_of(sparse)["p"], entries_of(dense)["p"], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
        assert ran(sparse)["sparse"] == STEPS
        assert "sparse" not in ran(dense)


@cases
def test_entries_of_single_elements(name: str, options: Options, generator: torch.Generator) -> None:
    """Every dimension may be sparse; torch's gradients then name elements, not rows."""
    params = [nn.Parameter(torch.randn((4, 5), generator=generator, dtype=torch.float64))]
    ours, theirs = (twin(cls, params, options) for cls in (ALGORITHMS[name], theirs_of(name)))
    for grads in gradients(params, generator, sparse_dims=2):
        step(ours, grads)
        step(theirs, grads)
    assert_same(ours, theirs, DTYPES[torch.float64])
    assert ran(ours)["sparse"] == STEPS


def test_momentum_through_dense_and_sparse_gradients(generator: torch.Generator) -> None:
    """What sparse steps leave behind goes on under dense gradients, and the other way round."""
    params = parameters(generator, torch.float64)
    mixed, dense = (twin(ALGORITHMS["SGD"], params, {"lr": 0.1, "momentum": 0.9}) for _ in range(2))
    for index, grads in enumerate(gradients(params, generator)):
        step(mixed, grads if index % 3 else [g.to_dense() for g in grads])
        step(dense, [g.to_dense() for g in grads])
    for x, y in zip(entries_of(mixed)["p"], entries_of(dense)["p"], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_dense_and_sparse_parameters_in_one_group(generator: torch.Generator) -> None:
    shapes = ((6, 2), (6, 2))
    params = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]
    for name in ("SGD", "Adagrad"):
        ours, theirs = (twin(cls, params, {"lr": 0.1}) for cls in (ALGORITHMS[name], theirs_of(name)))
        for first, second in gradients(params, generator):
            step(ours, [first, second.to_dense()])
            step(theirs, [first, second.to_dense()])
        assert_same(ours, theirs, DTYPES[torch.float64])
        assert ran(ours)["sparse"] == STEPS


@cases
def test_state_goes_both_ways_with_torch(name: str, options: Options, generator: torch.Generator) -> None:
    params = parameters(generator, torch.float64)
    ours, theirs = (twin(cls, params, options) for cls in (ALGORITHMS[name], theirs_of(name)))
    for index, grads in enumerate(gradients(params, generator)):
        step(ours, grads)
        step(theirs, grads)
        if index == 2:
            saved = [through_a_file(x.state_dict()) for x in (theirs, ours)]
            assert shape_of(saved[0]) == shape_of(saved[1])
            for optimizer, state in zip((ours, theirs), saved, strict=True):
                optimizer.load_state_dict(state)
    assert_same(ours, theirs, DTYPES[torch.float64])


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def shape_of(state: dict[str, Any]) -> Any:
    """Keys, types and layouts of what a state_dict holds."""
    return {
        index: {
            key: (type(x), x.layout, x.dtype, x.shape) if isinstance(x, Tensor) else type(x)
            for key, x in held.items()
        }
        for index, held in state["state"].items()
    }, [sorted(group) for group in state["param_groups"]]


REFUSED: list[tuple[str, Options, str]] = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}, "weight_decay option is not compatible with sparse gradients"),
    ("Adagrad", {"weight_decay": 0.1}, "weight_decay option is not compatible with sparse gradients"),
    ("SGD", {"differentiable": True}, "not compatible with sparse"),
    *(
        (name, {}, "does not support sparse gradients, please consider SparseAdam")
        for name, cls in ALGORITHMS.items()
        if issubclass(cls, Elementwise) and cls.sparse_gradients == "refused"
    ),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=str)
def test_what_has_no_meaning_is_refused_and_changes_nothing(
    name: str, options: Options, message: str, generator: torch.Generator
) -> None:
    params = parameters(generator, torch.float32)
    ours = twin(ALGORITHMS[name], params, options)
    before = {key: [x.clone() for x in found] for key, found in entries(ours).items()}
    (grads, *_) = gradients(params, generator)
    with pytest.raises(RuntimeError, match=message):
        step(ours, grads)
    after = entries(ours)
    assert before.keys() == after.keys()
    assert all(torch.equal(x, y) for key in before for x, y in zip(before[key], after[key], strict=True))


def test_sparse_adam_refuses_what_torchs_refuses() -> None:
    dense = torch.ones(2, 2, requires_grad=True)
    sparse = torch.sparse_coo_tensor(torch.tensor([[0], [1]]), [1.0], (2, 2))
    plain = torch.zeros(3, dtype=torch.complex64)
    for cls in (ALGORITHMS["SparseAdam"], theirs_of("SparseAdam")):
        with pytest.raises(
            ValueError, match=r"Sparse params at indices \[\[0, 0\]\]: SparseAdam requires dense"
        ):
            cls([{"params": [sparse]}])
        with pytest.raises(ValueError, match=r"Complex params at indices \[\[0, 1\]\]"):
            cls([dense, plain])
        optimizer = cls([dense])
        dense.grad = torch.ones(2, 2)
        with pytest.raises(RuntimeError, match="does not support dense gradients, please consider Adam"):
            optimizer.step()
        for options in ({"lr": 0.0}, {"eps": 0.0}, {"betas": (1.0, 0.0)}, {"lr": torch.ones(2)}):
            with pytest.raises(ValueError, match=r"Invalid|Tensor lr"):
                cls([dense], **options)


def test_sparse_adam_says_which_executions_it_has() -> None:
    with pytest.raises(ValueError, match=r"no fused execution, since rows .* may be auto, for_loop, foreach"):
        ALGORITHMS["SparseAdam"]([torch.ones(1)], implementation="fused")


def test_a_duplicate_index_is_updated_once(generator: torch.Generator) -> None:
    """The update is not linear: two entries of one row are one gradient, their sum."""
    p, q = (nn.Parameter(torch.zeros(3, 1)) for _ in range(2))
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), [[2.0], [3.0]], (3, 1))
    q.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), [[5.0]], (3, 1))
    for x in (p, q):
        ALGORITHMS["SparseAdam"]([x]).step()
    assert torch.equal(p, q)
    assert p[1] != 0
