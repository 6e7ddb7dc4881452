"""Generated kernels, compiled and launched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from optim_cli.optim.execution.fused import cache, device_functions
from optim_cli.optim.execution.fused.printer import Form, Texts, print_norm
from optim_cli.optim.execution.translate import compile_source
from optim_cli.optim.execution.variant import Variant

# Whether Triton runs kernels in Python, on any device's tensors (TRITON_INTERPRET=1).
INTERPRETED = bool(triton.knobs.runtime.interpret)

SIGNATURE = ("*i64", "*i64", "i32", "i32")
WARPS = 4
DIVISIBLE = [["tt.divisibility", 16]]
NAMESPACE = {"triton": triton, "tl": tl, **{x: y for x, y in vars(device_functions).items() if x[0] != "_"}}


@dataclass(frozen=True)
class Words:
    """8-byte words on the device, or where the device can read them."""

    tensor: Tensor
    address: int

    @classmethod
    def of(cls, tensor: Tensor) -> Words:
        """A tensor of int64."""
        return cls(tensor, tensor.data_ptr())


Kernel = Callable[[int, int, Words, Words, int, int], None]
"""`kernel(programs, stream, source, table, n, extra)` launches it on a stream's handle."""


def compiled(text: str, name: str, target: GPUTarget) -> Any:
    """A kernel compiled for a target, which need not be there."""
    function = as_function(text, name)
    signature = dict(zip(function.arg_names, SIGNATURE, strict=True))
    source = ASTSource(function, signature, attrs={(0,): DIVISIBLE, (1,): DIVISIBLE})
    return cache.compiled(text, source, target, WARPS)


def as_function(text: str, name: str) -> Any:
    """Generated text as a function of Triton's."""
    return compile_source(text, name, NAMESPACE)


def kernel_for(text: str, name: str, device: torch.device) -> Kernel:
    """Compile a kernel for a device, or take it from Triton's cache on disk.

    Raises:
        Exception: whatever Triton, the assembler or the C compiler have to say.
    """
    if INTERPRETED:
        function = as_function(text, name)

        def interpret(programs: int, stream: int, source: Words, table: Words, n: int, extra: int) -> None:
            function[(programs,)](source.tensor, table.tensor, n, extra)

        return interpret
    with torch.cuda.device(device):
        kernel = compiled(text, name, _target(device))
        # The launcher of `kernel[grid]` asks for device, stream and hooks at every call.
        run, handle, metadata = kernel.run, kernel.function, kernel.packed_metadata

    def launch(programs: int, stream: int, source: Words, table: Words, n: int, extra: int) -> None:
        address = source.address, table.address
        run(programs, 1, 1, stream, handle, metadata, None, None, None, *address, n, extra)

    return launch


@functools.cache
def _target(device: torch.device) -> GPUTarget:
    major, minor = torch.cuda.get_device_capability(device)
    return GPUTarget("cuda", 10 * major + minor, 32)


class Kernels:
    """The compiled kernels of an algorithm variant in one form, on one device."""

    def __init__(self, variant: Variant, zero_dim: tuple[str, ...], form: Form, device: torch.device) -> None:
        self.texts = Texts(variant.program, variant.texts[0], zero_dim, form)
        self.device = device
        name = variant.program.name
        self.prologue = self._compiled(f"{name}_prologue", self.texts.prologue)
        self.update = self._compiled(f"{name}_update", self.texts.update)
        if form.normed:
            self.norm = self._compiled(f"{name}_norm", partial(print_norm, texts=self.texts))

    def _compiled(self, name: str, text: Callable[[str], str]) -> Kernel:
        return kernel_for(text(name), name, self.device)
