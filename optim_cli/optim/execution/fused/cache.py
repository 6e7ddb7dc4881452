"""Compiled kernels on disk, in Triton's cache, under keys of our own.

Triton's own key hashes the whole of its library first, 460 MB, which takes most of a first step (0.4 s); ours
takes the library's size and time. What lies there is Triton's files, as it has written them.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from functools import cache
from typing import Any

import triton
from triton._C import libtriton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel
from triton.runtime.cache import get_cache_manager

from optim_cli.optim.execution.fused import device_functions

GROUP = "kernel.json"


def compiled(text: str, source: ASTSource, target: GPUTarget, warps: int) -> Any:
    """Compile a kernel, or take it from the disk.

    Args:
        text: the function's source, which may call `device_functions`.
        source: the function and its signature.
        target: what it is compiled for, which need not be there.
        warps: of 32 threads, to a program.
    """
    if triton.knobs.compilation.always_compile:
        return _compile(source, target, warps)
    parts = (_toolchain(), text, sorted(source.signature.items()), source.attrs, target, warps)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    manager = get_cache_manager(key)
    files = manager.get_group(GROUP)
    if files:
        return CompiledKernel(source, files, key)
    kernel = _compile(source, target, warps)
    manager.put_group(GROUP, kernel.metadata_group)
    return kernel


def _compile(source: ASTSource, target: GPUTarget, warps: int) -> Any:
    return triton.compile(source, target=target, options={"num_warps": warps})


@cache
def _toolchain() -> tuple[object, ...]:
    library = os.stat(libtriton.__file__)
    ptxas = triton.knobs.nvidia.ptxas.path
    return (
        triton.__version__,
        library.st_size,
        library.st_mtime_ns,
        ptxas,
        os.stat(ptxas).st_mtime_ns,
        inspect.getsource(device_functions),
    )
