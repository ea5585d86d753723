"""The precision in which a decoder is differentiated for a sketch.

Rounding to bf16 moves a token's sketched metric by about 0.5 %, the sketch itself by tens of percent; where the
hardware multiplies in bf16 that halves the time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from geovq.errors import InputError

Precision = Literal["auto", "32", "bf16"]


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
    if precision not in ("auto", "32", "bf16"):
        raise InputError(f"precision is {precision!r}; choose 'auto', '32' or 'bf16'")
    if precision == "auto":
        return dtype == torch.float32 and has_bf16_hardware(device)
    return precision == "bf16"


def bf16_autocast(enabled: bool, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bf16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()
