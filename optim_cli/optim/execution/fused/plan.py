"""The fused launches of a step, made once and repeated for as long as tensors stay where they are."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate, pairwise, repeat
from operator import attrgetter, getitem, is_, or_
from typing import Any

import torch
from torch import Tensor

from optim_cli.optim.execution.fused import layout
from optim_cli.optim.execution.fused.batch import Batch
from optim_cli.optim.execution.fused.guard import same_kind
from optim_cli.optim.execution.fused.kernels import INTERPRETED, Kernels, Words
from optim_cli.optim.execution.fused.printer import GRADIENT_FACTOR, Form
from optim_cli.optim.execution.pointers import ALIGNMENT, REAL, is_readable
from optim_cli.optim.execution.resolve import hyperparameters_of
from optim_cli.optim.execution.scalars import Values
from optim_cli.optim.execution.variant import Variant
from optim_cli.optim.execution.work import Work
from optim_cli.optim.execution.zero_dim import stored_dtype
from optim_cli.optim.swa_utils import Warmup

GRAD = attrgetter("grad")
ADDRESS = Tensor.data_ptr
NORM_PROGRAMS = 4096  # about two rounds of all multiprocessors of an H200

Group = dict[str, Any]
VariantOf = Callable[[Group], Variant | None]
KernelsFor = Callable[[Variant, Form, torch.device], Kernels]


@dataclass
class Around:
    """What a step does besides the rule, beyond the options of parameter groups.

    Attributes:
        max_norm: norm that all gradients together are scaled down to.
        values: numbers that texts take besides the groups' options.
        factor: of all gradients, a 0-d float64 tensor, where it is computed elsewhere.
        scale, found_inf: GradScaler's, 0-d float32.
        averages: of some parameters, by the parameter's identity.
        pairs: averages and what they are of, whether it steps or not.
        weight: of the newest parameters in their averages.
        warmup: which gives them more weight in the beginning.
        averaged: the count of averaged steps, on the device.
    """

    max_norm: float | None = None
    values: Values = field(default_factory=dict)
    factor: Tensor | None = None
    scale: Tensor | None = None
    found_inf: Tensor | None = None
    averages: Mapping[int, Tensor] = field(default_factory=dict)
    pairs: Sequence[tuple[Tensor, Tensor]] = ()
    weight: float = 1.0
    warmup: Warmup | None = None
    averaged: Tensor | None = None

    @property
    def lasts(self) -> bool:
        """Whether it holds no tensors, which may come to lie elsewhere."""
        return all(x is None for x in (self.found_inf, self.scale, self.averaged, self.factor))

    @property
    def kind(self) -> tuple[object, ...]:
        """What kernels, and the addresses in their headers, are made for."""
        return (
            self.max_norm is None,
            *self.values,
            None if self.factor is None else self.factor.data_ptr(),
            self.found_inf is None,
            self.scale is None,
            not self.averages,
            type(self.warmup),
        )


@dataclass
class _Row:
    """One tensor's place: where its hyperparameters are from, and what a kernel reads."""

    part: int
    first: bool
    tensors: list[Tensor]
    zero_dim: list[Tensor]


class Plan:
    """One step of everything in an optimizer that runs fused.

    Args:
        parts: what steps now.
        zero_dim: names of the 0-d states.
        around: what is done besides the rule.
        kernels_for: compiles the kernels of a variant in a form, or has them.
        apart: a CUDA graph is being captured, to which the plan belongs.

    Attributes:
        params: in the order of the tables.
        only_averaged: averages, and what they are of: all that does not step.
        norm: of the last step's gradients, 0-d float64, overwritten by the next step; None where unmeasured.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        parts: Sequence[Work],
        zero_dim: Sequence[str],
        around: Around,
        kernels_for: KernelsFor,
        apart: bool,
    ) -> None:
        self.around = around
        self.variants = [part.variant for part in parts]
        self.readable = [_readable(part.values) for part in parts]
        self.held = frozenset(
            name for values in self.readable for name, x in values.items() if isinstance(x, Tensor)
        )
        self.batches: list[Batch] = []
        self.places: dict[tuple[int, bool], list[tuple[Batch, int]]] = {}
        rows = self._make(parts, zero_dim, kernels_for, apart)
        # Of other tensors than parameters only addresses are kept: they are somebody else's to free.
        self.params, grads = ([row.tensors[i] for row in rows] for i in range(2))
        # Where there are several, no tensor is shared by all.
        self.device = self.params[0].device
        self.ends = [0, *accumulate(batch.n for batch in self.batches)]
        self._same_kind = same_kind(grads)
        # A parameter may be transposed where it is.
        self.shaped = [p for p in self.params if p.dim() > 1]
        self._same_shaped = same_kind(self.shaped)
        stepping = {*map(id, self.params)}
        self.only_averaged = [(x, p) for x, p in around.pairs if id(p) not in stepping]
        self.known = [_Known.of(group, parts) for group in groups]
        self.absent = [p for group in groups for p in group["params"] if id(p) not in stepping]
        self.addresses = [*map(ADDRESS, self.params)]
        self._pack = struct.Struct(f"{len(grads)}q").pack
        self.grad_addresses = self._pack(*map(ADDRESS, grads))
        # Of what keeps no state, there are none.
        self.owners = [pair for part in parts for pair in zip(part.columns[0], part.states, strict=False)]
        kept = [
            (state, name)
            for part in parts
            for state in part.states
            for name in (*part.variant.states, *zero_dim)
        ]
        self.holders, self.names = [state for state, _ in kept], [name for _, name in kept]
        states = [*map(getitem, self.holders, self.names)]
        self.state_addresses = [*map(ADDRESS, states)]
        self._same_kind_of_states = same_kind(states)
        found = [around.averages.get(id(p)) for p in self.params] if around.averages else []
        self.averages = [x for x in found if x is not None]
        self.average_addresses = [*map(ADDRESS, self.averages)]
        self.header: tuple[float, ...] = ()
        self.headed: Around | None = None

    def _make(
        self, parts: Sequence[Work], zero_dim: Sequence[str], kernels_for: KernelsFor, apart: bool
    ) -> list[_Row]:
        alike: dict[tuple[Any, ...], list[_Row]] = {}
        for index, part in enumerate(parts):
            averages = [self.around.averages.get(id(p)) for p in part.columns[0]]
            columns = zip(*part.columns, strict=True)
            for i, (tensors, average) in enumerate(zip(columns, averages, strict=True)):
                row = _Row(index, part.firsts[i], [*tensors], [part.states[i][name] for name in zero_dim])
                if average is not None:
                    row.tensors.append(average)
                aligned = reduce(or_, map(ADDRESS, row.tensors)) % ALIGNMENT == 0
                dtypes = tuple(REAL.get(x.dtype, x.dtype) for x in row.tensors)
                key = (row.tensors[0].device, part.variant, dtypes, aligned, average is not None)
                alike.setdefault(key, []).append(row)
        for (device, variant, dtypes, aligned, averaged), rows in alike.items():
            form = Form(
                dtypes,
                stored_dtype(),
                self.held,
                aligned,
                skippable=self.around.found_inf is not None,
                unscaled=GRADIENT_FACTOR in variant.program.scalars and self.around.factor is None,
                normed=self.around.max_norm is not None,
                averaged=averaged,
                warmup=type(self.around.warmup) if averaged and self.around.warmup else None,
            )
            self._add(kernels_for(variant, form, device), rows, apart)
        self._reduce()
        return [row for rows in alike.values() for row in rows]

    def _add(self, kernels: Kernels, rows: Sequence[_Row], apart: bool) -> None:
        distinct = {key: i for i, key in enumerate(dict.fromkeys((row.part, row.first) for row in rows))}
        batch = Batch(
            kernels,
            [*zip(*(row.tensors for row in rows), strict=True)],
            [*zip(*(row.zero_dim for row in rows), strict=True)],
            [distinct[row.part, row.first] for row in rows],
            len(distinct),
            apart,
        )
        self.batches.append(batch)
        for key, index in distinct.items():
            self.places.setdefault(key, []).append((batch, index))
            self._set_cells(*key)

    def _set_cells(self, part: int, first: bool) -> None:
        known = self.readable[part] | self.around.values | {"first": float(first)}
        for batch, index in self.places.get((part, first), ()):
            batch.set_cell(index, [known[name] for name in batch.texts.cells])

    def _reduce(self) -> None:
        """Give the batches memory for the gradients' factor, and for the norm's sums."""
        self.programs = [min(batch.blocks, NORM_PROGRAMS) for batch in self.batches]
        self.programs_before = [0, *accumulate(self.programs)][:-1]
        self.norm: Tensor | None = None
        if self.around.factor is not None:
            for batch in self.batches:
                batch.set_header(layout.FACTOR, self.around.factor.data_ptr())
        if not any(batch.texts.form.unscaled for batch in self.batches):
            return
        words = torch.zeros(
            layout.PARTIALS + sum(self.programs), dtype=torch.int64, device=self.batches[0].device
        )
        self.reduction = Words.of(words)
        if self.around.max_norm is not None:
            self.norm = words[layout.NORM].view(torch.float64)
        for batch in self.batches:
            batch.set_header(layout.FACTOR, self.reduction.address + 8 * layout.REDUCED_FACTOR)
            batch.set_header(layout.PROGRAMS, sum(self.programs))

    def repeats(
        self,
        groups: Sequence[Group],
        states: Mapping[Any, Any] | None,
        variant_of: VariantOf,
        around: Around,
        launches: Counter[str],
    ) -> bool:
        """Whether the next step is this one but for gradients' addresses and numbers, which are taken over.

        The norm is launched already: it reads gradients alone, while the host looks at the rest.

        Args:
            groups: the optimizer's.
            states: the optimizer's, where somebody may have changed them.
            variant_of: what a group runs, None where it does not run fused.
            around: what is to be done besides the rule.
            launches: counted by kind.
        """
        if around is not self.around and around.kind != self.around.kind:
            return False
        if len(groups) != len(self.known):
            return False
        grads = [*map(GRAD, self.params)]
        if not self._same_kind(*grads) or not all(p.grad is None for p in self.absent):
            return False
        addresses = self._pack(*map(ADDRESS, grads))
        if addresses != self.grad_addresses and not self._take(addresses):
            return False
        if self.norm is not None:
            self._measure(launches)
        if not self._same_shaped(*self.shaped) or [*map(ADDRESS, self.params)] != self.addresses:
            return False
        if self.averages and (
            around.averages is not self.around.averages
            or [*map(ADDRESS, self.averages)] != self.average_addresses
        ):
            return False
        if states is not None and not self._are_states(states):
            return False
        self.around = around
        return all(map(self._is_group, groups, self.known, repeat(variant_of)))

    def _are_states(self, states: Mapping[Any, Any]) -> bool:
        return all(states.get(p) is state for p, state in self.owners) and self._has_states()

    def _has_states(self) -> bool:
        try:
            found = [*map(getitem, self.holders, self.names)]
        except KeyError:
            return False
        return self._same_kind_of_states(*found) and [*map(ADDRESS, found)] == self.state_addresses

    def is_in_place(self) -> bool:
        """Whether parameters and states are still where they were, whatever has a gradient now."""
        return [*map(ADDRESS, self.params)] == self.addresses and self._has_states()

    def _is_group(self, group: Group, known: _Known, variant_of: VariantOf) -> bool:
        if not known.has_same_parameters(group):
            return False
        if known.has_same_options(group):
            return True
        variant = variant_of(group)
        for index in known.parts:
            if variant is None or variant is not self.variants[index]:
                return False
            values = _readable(hyperparameters_of(group, variant))
            held = {name: x for name, x in values.items() if isinstance(x, Tensor)}
            if not (self.held >= held.keys() and all(map(is_readable, held.values(), repeat(self.device)))):
                return False
            self.readable[index] = values
            for first in (True, False):
                self._set_cells(index, first)
        known.options = [*group.values()]
        return True

    def _take(self, addresses: bytes) -> bool:
        """Take over the gradients' addresses, if they are aligned where they were."""
        aligned = all(
            batch.put_gradients(addresses[8 * start : 8 * end])
            for batch, (start, end) in zip(self.batches, pairwise(self.ends), strict=True)
        )
        self.grad_addresses = addresses if aligned else b""
        return aligned

    def launch(self, launches: Counter[str], measured: bool) -> None:
        """Launch the step, and count the launches by kind.

        Args:
            launches: the counts.
            measured: whether `repeats` has said so, and has launched the norm.
        """
        self._head()
        if self.norm is not None and not measured:
            self._measure(launches)
        for batch in self.batches:
            launches["prologue"] += _on_stream(batch.prepare, batch.device)
        for batch in self.batches:
            _on_stream(batch.run, batch.device)
        launches["update"] += len(self.batches)
        for part, first in [key for key in self.places if key[1]]:
            # From now on these are like those that have stepped before.
            self.places.setdefault((part, False), []).extend(self.places.pop((part, first)))
            self._set_cells(part, False)

    def _measure(self, launches: Counter[str]) -> None:
        for batch in self.batches:
            launches["table"] += _on_stream(batch.take_over, batch.device)
        for batch, programs, before in zip(self.batches, self.programs, self.programs_before, strict=True):
            _on_stream(batch.reduce, batch.device, programs, before, self.reduction)
        launches["norm"] += len(self.batches)

    def _head(self) -> None:
        """Bring the headers up to date."""
        around = self.around
        if around is self.headed:
            return
        self.headed = around if around.lasts else None
        scaler = (around.found_inf, around.scale)
        # Kept, where they are copies, until they are read.
        self.scaler = [x if x is None else x.to(self.device, torch.float32) for x in scaler]
        addresses = [0 if x is None else x.data_ptr() for x in (*self.scaler, around.averaged)]
        warmup = () if around.warmup is None else around.warmup.numbers
        header = (*addresses, around.max_norm or 0.0, around.weight, *warmup)
        if header == self.header:
            return
        self.header = header
        for batch in self.batches:
            words = zip((layout.FOUND_INF, layout.SCALE, layout.AVERAGED), addresses, strict=True)
            for word, address in words:
                batch.set_header(word, address)
            batch.set_header_number(layout.MAX_NORM, around.max_norm or 0.0)
            batch.set_header_number(layout.WEIGHT, around.weight)
            for i, number in enumerate(warmup):
                batch.set_header_number(layout.WARMUP + i, number)
        averaging = [batch for batch in self.batches if batch.texts.form.averaged]
        for batch in averaging[:1]:
            batch.set_header(layout.ADVANCED, addresses[-1])


@dataclass
class _Known:
    """A parameter group as it was.

    Attributes:
        parts: indices of what of it steps.
        options: values, in order.
        constant: whether no value can change in place.
        params: all of its parameters.
        numbers: indices of those that have one element.
    """

    parts: list[int]
    options: list[Any]
    constant: bool
    params: list[Tensor]
    numbers: list[int]

    @classmethod
    def of(cls, group: Group, parts: Sequence[Work]) -> _Known:
        """Args: the group, and what steps of all groups."""
        values = [x for name, x in group.items() if name not in ("params", "param_names")]
        values += [x for several in values if isinstance(several, tuple) for x in several]
        return cls(
            [i for i, part in enumerate(parts) if part.group is group],
            [*group.values()],
            not any(isinstance(x, list | Tensor) for x in values),
            [*group["params"]],
            [i for i, p in enumerate(group["params"]) if p.numel() == 1],
        )

    def has_same_parameters(self, group: Group) -> bool:
        """Whether it has the same ones, in this order."""
        params, known = group["params"], self.params
        try:
            # Lists compare the same objects fast; two tensors of several elements have no truth.
            same = params == known
        except RuntimeError:
            return False
        return same and all(params[i] is known[i] for i in self.numbers)

    def has_same_options(self, group: Group) -> bool:
        """Whether every option is the very object that it was, and cannot have changed."""
        return (
            self.constant and len(group) == len(self.options) and all(map(is_, group.values(), self.options))
        )


def _readable(values: Values) -> Values:
    """Hyperparameters as numbers, but for those that lie where kernels read them."""
    return {name: x if isinstance(x, Tensor) and _is_held(x) else float(x) for name, x in values.items()}


def _is_held(x: Tensor) -> bool:
    return x.device.type != "cpu" or (INTERPRETED and is_readable(x, x.device))


def _on_stream(launch: Callable[..., int], device: torch.device, *arguments: Any) -> int:
    """Call it with the handle of the device's current stream, while the device is the current one."""
    if INTERPRETED:
        return launch(0, *arguments)
    if device.index == torch._C._cuda_getDevice():
        return launch(torch._C._cuda_getCurrentRawStream(device.index), *arguments)
    with torch.cuda.device(device):
        return launch(torch._C._cuda_getCurrentRawStream(device.index), *arguments)
