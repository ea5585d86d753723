"""How things are computed: in the threads that torch uses, in bf16 where the hardware has it, derivatives forwards."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch

from geovq.geometry.checks import check_choice

Precision = Literal["auto", "32", "bf16"]
"""In which a decoder is differentiated. Rounding to bf16 moves a token's sketched metric by about 0.5 %, the sketch
itself by tens of percent; where the hardware multiplies in bf16 that halves the time."""


def in_threads(kernel: Callable[..., None], n_rows: int, *arguments: Any) -> None:
    """Call ``kernel(*arguments, first, last)`` on equal ranges of rows, one per thread.

    The kernel must release the interpreter's lock, and write rows ``first`` to ``last`` only: then the result does not
    depend on the number of threads.
    """
    n_threads = max(1, min(torch.get_num_threads(), n_rows))
    bounds = [int(bound) for bound in np.linspace(0, n_rows, n_threads + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for job in [pool.submit(kernel, *arguments, first, last) for first, last in pairwise(bounds)]:
            job.result()


_working_memory: float | None = None


def set_working_memory(gigabytes: float | None) -> None:
    """What ``working_memory`` says from now on, in GB of 10⁹ bytes; None for its default."""
    global _working_memory
    _working_memory = None if gigabytes is None else 1e9 * gigabytes


def working_memory() -> float:
    """Bytes that tables of metrics and features may take, before they are read in parts; a quarter of all by default.

    Tokens, codes and links are held whatever it says.
    """
    from geovq.data.limits import machine_memory

    return machine_memory() / 4 if _working_memory is None else _working_memory


def in_a_file(shape: tuple[int, ...], folder: Path | None = None) -> np.ndarray:
    """Float32 zeros in a file without a name, gone with the last view of them, in a folder or that of the system.

    Raises:
        OSError: the disk has no room for them.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        take_room(file.fileno(), 4 * prod(shape))
        return np.memmap(file, np.float32, "r+", shape=shape)


def take_room(descriptor: int, n_bytes: int) -> None:
    """Make a file so long, on the disk: a hole that cannot be filled later would kill the process, without a word.

    Raises:
        OSError: the disk has no room. Where the system cannot tell, there is a hole.
    """
    getattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))(descriptor, 0, n_bytes)


def faiss_in_threads() -> ModuleType:
    """The library faiss, imported where it is first needed, set to the number of threads that torch uses."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def has_bf16_hardware(device: torch.device) -> bool:
    """Whether the device multiplies in bf16 itself rather than by emulation.

    CUDA: ``torch.cuda.is_bf16_supported`` without emulation. CPU: oneDNN is built in and the processor reports
    AVX512-BF16 or AMX-BF16. (``torch.ops.mkldnn._is_mkldnn_bf16_supported`` is not asked: it is also true
    where AVX-512 emulates bf16, which is slower than fp32.)
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def runs_in_bf16(precision: Precision, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to differentiate in bf16; ``auto`` does for float32 latents where the hardware has it.

    Raises:
        InputError: an unknown precision.
    """
    check_choice("precision", precision, get_args(Precision))
    if precision == "auto":
        return dtype == torch.float32 and has_bf16_hardware(device)
    return precision == "bf16"


def bf16_autocast(enabled: bool, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bf16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions in all digits of float32, even where the process allows ten bits of them (TF32).

    Where large numbers are subtracted the last digits count: distances of near points, variances inside windows.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def forward_mode() -> Iterator[None]:
    """Around ``jvp``: no gradients, and no warning where it compiles its rules by what torch has deprecated."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script")
        yield
