"""Metric tensors read from the encoder's posterior variances, without a decoder pass."""

from __future__ import annotations

import math

import torch

from geovq.errors import InputError
from geovq.geometry.decoder_checks import check_latents
from geovq.geometry.symmetric import packed_size


def posterior_metrics(
    log_variance: torch.Tensor, scale: float, floor: float = 1e-6, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Diagonal metric tensors from posterior variances.

    Where the loss ``sse + λ·KL`` (squared pixel error summed over the image, KL in nats, λ in pixel² per nat)
    is stationary in ``σ_j``, ``E[sse]`` contributes ``G_jj σ_j²`` and KL contributes ``½(σ_j² − log σ_j²)``,
    hence ``G_jj = (λ/2)(σ_j⁻² − 1)`` (the argument of Rolinek, Zietlow, Martius 2019, eq. 12, for a diagonal
    posterior).

    Args:
        log_variance: ``(B, d, h, w)`` log σ².
        scale: λ/2. The unit of the result is that of ``scale``.
        floor: smallest value of ``σ_j⁻² − 1``, so that unused dimensions (σ ≥ 1) keep a positive length.
        dtype: of the result, float32 or bfloat16.

    Returns:
        ``(B·h·w, d(d+1)/2)`` packed, on the CPU, off-diagonal entries zero.

    Raises:
        InputError: a wrong shape or dtype, values that are not finite, or ``scale`` not positive.
    """
    check_latents(log_variance, "log variances")
    check_storage(dtype)
    if not scale > 0 or not math.isfinite(scale):
        raise InputError(f"scale is {scale}; it is half the KL weight in pixel² per nat and must be positive")
    d = log_variance.shape[1]
    diagonal = (torch.expm1(-log_variance.detach().double()).clamp(min=floor) * scale).to(dtype).cpu()
    packed = torch.zeros(diagonal.numel() // d, packed_size(d), dtype=dtype)
    rows, columns = torch.triu_indices(d, d)
    packed[:, rows == columns] = diagonal.permute(0, 2, 3, 1).reshape(-1, d)
    return packed


def check_storage(dtype: torch.dtype) -> None:
    """Refuse dtypes that packed metrics are not stored in.

    Raises:
        InputError: neither float32 nor bfloat16.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"dtype is {dtype}; metrics are stored as torch.float32 or torch.bfloat16")
