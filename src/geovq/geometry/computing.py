"""How things are computed: in the threads that torch uses, within the memory, in bf16 where the hardware has it,
derivatives forwards.
"""

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

from geovq.geometry.checks import check_choice, of_images

Precision = Literal["auto", "32", "bf16"]
"""In which a decoder is differentiated. Rounding to bf16 moves a token's sketched metric by about 0.5 %, the sketch
itself by tens of percent; where the hardware multiplies in bf16 that halves the time."""

BYTES_PER_PASS = {"cpu": 2**29, "cuda": 2**34}
"""Of what a backward pass reads. A process on a CPU then stays below 4 GB, with gradients and the memory that is lost
between blocks. Networks of the size that is trained here fit as often as they are asked to.
"""
_LIVE_WITHOUT_GRADIENT = 0.25
"""Share of what a backward pass needs that is there at one time of a forward pass alone, from above."""


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
    """Whether to differentiate in bf16, as ``auto`` does for float32 latents on hardware that has it; or InputError."""
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


def images_per_pass(
    network: Callable[[torch.Tensor], torch.Tensor],
    examples: torch.Tensor,
    at_most: int,
    *,
    backward: bool,
    bf16: bool = False,
) -> int:
    """Images to give a network at a time, from 1 to ``at_most``.

    Args:
        network: of a batch, such as latents ``(B, d, h, w)`` to images; in evaluation mode.
        examples: one or more of what it takes; the first is tried.
        at_most: as many where they all fit.
        backward: whether what the backward pass needs is kept, or a forward pass is all.
        bf16: whether it is under autocast.
    """
    if at_most <= 1 or len(examples) == 0:
        return max(1, at_most)
    needed = saved_bytes(of_images(network, slice(0, 1)), examples[:1], bf16)
    needed = max(1, int(needed * (1.0 if backward else _LIVE_WITHOUT_GRADIENT)))
    return max(1, min(at_most, BYTES_PER_PASS.get(examples.device.type, BYTES_PER_PASS["cpu"]) // needed))


def saved_bytes(network: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor, bf16: bool = False) -> int:
    """Bytes that the backward pass of an example ``(1, …)`` reads, beside the weights: what autograd has stored."""
    module = getattr(network, "__self__", network)  # of a method, whose it is
    weights = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    own, shapes = {each.untyped_storage().data_ptr() for each in weights}, {each.shape for each in weights}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape not in shapes:  # autocast keeps weights in bf16 too
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    def same(tensor: Any) -> Any:
        return tensor

    with torch.inference_mode(False), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, same):
        example = example.detach().clone().requires_grad_(True)
        with bf16_autocast(bf16, example.device):
            # A copy may be changed in place. What comes of it is held until all is counted: no address is used twice.
            kept = network(example.clone())
    del kept
    return sum(found.values())
