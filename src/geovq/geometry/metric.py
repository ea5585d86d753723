"""Pull-back metric tensors of a decoder, one per token, in the token's own image and position.

With ``D`` the decoder (after its output activation, pixels in [0, 1]) and ``J = ∂D(z)/∂z_token``, the metric
of a token is ``G = JᵀJ``: to first order a displacement ``e`` of the token changes the image by ``eᵀGe``
squared pixel error, summed over the image (Arvanitidis, Hansen, Hauberg 2018, "Latent space oddity", eq. 3).

Four ways, for ``B`` images of ``P`` pixels, ``T = h·w`` tokens each and ``p = d(d+1)/2`` numbers per tensor:

| way | function | time per image | memory beside the result ``B·T·p`` | error |
|---|---|---|---|---|
| exact | ``token_metrics``, ``exact`` | ``min(d·T, P)`` derivatives | a pass of a few images | rounding |
| sketch | ``token_metrics``, ``sketch`` | 1 forward, ``m`` backward passes | a batch's activations | random, unbiased |
| posterior | ``posterior_metrics`` | none: the encoder's variances | none | a model, diagonal |
| full | ``full_metric`` | ``d·T`` derivatives | ``(d·T)² + d·T·P`` | rounding |

How large the sketch's error is, how many probes reach a wanted one, and how far ``eᵀGe`` can be trusted is measured in
``benchmarks/``. Token order: ``n·h·w + row·w + col``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.func import jvp, vmap

from geovq import ranks
from geovq.errors import InputError
from geovq.geometry.checks import check_choice, check_decoder, check_latents, device_of, of_images
from geovq.geometry.computing import Precision, forward_mode, images_per_pass, runs_in_bf16
from geovq.geometry.sketch import ProbeKind, check_probes, sketch_blocks
from geovq.geometry.symmetric import pack_symmetric, packed_size
from geovq.progress import progress

# Output numbers of one vectorised forward-mode pass. Activations of this many stay in the processor's cache and in
# memory that the allocator keeps: measured 2.6 times faster than passes of 1 GB, whose memory is mapped anew each
# time.
_PIXELS_PER_PASS = {"cpu": 100_000, "cuda": 8_000_000}


def token_metrics(
    decoder: nn.Module,
    latents: torch.Tensor,
    method: Literal["sketch", "exact"] = "sketch",
    n_probes: int = 16,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    *,
    probes: ProbeKind = "lattice",
    precision: Precision = "auto",
    dtype: torch.dtype = torch.float32,
    result: torch.Tensor | None = None,
) -> torch.Tensor:
    """Packed metric tensors ``JᵀJ`` of all tokens of ``latents``.

    ``sketch`` sums ``(Jᵀv)(Jᵀv)ᵀ`` over ``n_probes`` random images ``v`` (``geovq.geometry.sketch``), so the rank of an
    estimate is at most ``n_probes``. The signs of image ``n`` are bits at an address of a counter-based stream (Philox)
    that only ``seed`` and ``n`` determine: independent between images, so errors average out over a codebook cell, and
    the same for any batch size. Zero and singular metrics are returned as they are: positive semi-definite to rounding.

    Args:
        decoder: maps ``(B, d, h, w)`` to images, usually ``(B, C, H, W)`` in [0, 1]; in eval mode.
        latents: ``(B, d, h, w)`` posterior means.
        method: ``"sketch"`` or ``"exact"``.
        n_probes: backward passes of the sketch; ignored by ``exact``.
        seed: of the probes; ignored by ``exact``.
        batch_size: images per pass at most, fewer where memory asks for it; changes rounding only.
        device: where to compute; by default where the decoder's parameters are.
        probes: ``"lattice"``, or ``"independent"`` for signs whose error is exactly proportional to 1/√m.
        precision: of the sketch: ``"32"`` for the latents' own, ``"bf16"``, or ``"auto"``: bf16 for float32
            latents where the hardware multiplies in it. ``exact`` always takes the latents' own.
        dtype: of the result: float32, or bfloat16, which halves its memory and rounds each number by a relative
            2⁻⁸ at most.
        result: where to write, such as a file that is mapped, in its own dtype; a new tensor by default.

    Returns:
        ``(B·h·w, d(d+1)/2)`` on the CPU, in squared pixel error per squared latent unit.

    Raises:
        InputError: a decoder in train mode, random, or with batch statistics, latents of a wrong shape or not
            finite, an unknown option, counts below 1, or a decoder whose derivatives are not finite.
    """
    check_choice("method", method, ("sketch", "exact"))
    check_probes(probes, n_probes)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    _check_storage(dtype if result is None else result.dtype)
    check_latents(latents)
    device = torch.device(device) if device is not None else device_of(decoder)
    bf16 = runs_in_bf16(precision, device, latents.dtype)
    check_decoder(decoder, latents, device)
    n_images, d, h, w = latents.shape
    packed = torch.empty(n_images * h * w, packed_size(d), dtype=dtype) if result is None else result
    if method == "sketch":
        batch_size = images_per_pass(decoder, latents[:1].detach().to(device), batch_size, backward=True, bf16=bf16)
    own = ranks.starts(n_images, batch_size)
    with progress("metric tensors", total=own.stop - own.start) as advance:
        for start in own:
            batch = latents[start : start + batch_size].detach().to(device)
            part = of_images(decoder, slice(start, start + batch_size))
            if method == "sketch":
                blocks = sketch_blocks(part, batch, n_probes, seed, start, probes, bf16)
            else:
                blocks = _exact_blocks(part, batch)
            half = pack_symmetric(blocks)
            if not bool(torch.isfinite(half).all()):
                raise InputError(
                    f"the decoder's derivatives are not finite in images {start} to "
                    f"{start + len(batch) - 1}; check its weights and activations"
                )
            packed[start * h * w : (start + len(batch)) * h * w] = half.to(packed.dtype).cpu()
            advance(len(batch))
    return ranks.complete_(packed, batch_size * h * w)


def posterior_metrics(log_variance: torch.Tensor, scale: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Diagonal metric tensors from posterior variances.

    Where the loss ``sse + λ·KL`` (squared pixel error summed over the image, KL in nats, λ in pixel² per nat) is
    stationary in ``σ_j``, ``E[sse]`` contributes ``G_jj σ_j²`` and KL contributes ``½(σ_j² − log σ_j²)``, hence
    ``G_jj = (λ/2)(σ_j⁻² − 1)`` (the argument of Rolinek, Zietlow, Martius 2019, eq. 12, for a diagonal posterior); 10⁻⁶
    stands for less than that in brackets, so that unused dimensions (σ ≥ 1) keep a positive length.

    Args:
        log_variance: ``(B, d, h, w)`` log σ².
        scale: λ/2. The unit of the result is that of ``scale``.
        dtype: of the result, float32 or bfloat16.

    Returns:
        ``(B·h·w, d(d+1)/2)`` packed, on the CPU, off-diagonal entries zero.

    Raises:
        InputError: a wrong shape or dtype, values that are not finite, or ``scale`` not positive.
    """
    check_latents(log_variance, "log variances")
    _check_storage(dtype)
    if not scale > 0 or not math.isfinite(scale):
        raise InputError(f"scale is {scale}; it is half the KL weight in pixel² per nat and must be positive")
    d = log_variance.shape[1]
    diagonal = (torch.expm1(-log_variance.detach().double()).clamp(min=1e-6) * scale).to(dtype).cpu()
    packed = torch.zeros(diagonal.numel() // d, packed_size(d), dtype=dtype)
    rows, columns = torch.triu_indices(d, d)
    packed[:, rows == columns] = diagonal.permute(0, 2, 3, 1).reshape(-1, d)
    return packed


def full_metric(decoder: nn.Module, latent: torch.Tensor) -> torch.Tensor:
    """The whole metric tensor ``(D, D)`` of one image, ``D = d·h·w``, blocks between tokens included.

    Token-major order: row ``(row·w + col)·d + j`` is dimension ``j`` of the token at ``(row, col)``, so the
    diagonal ``(d, d)`` blocks are the tokens' own metrics. Computed by ``D`` forward-mode derivatives in the
    dtype of ``latent``, which take ``D`` images of memory; no error but rounding.

    Raises:
        InputError: as ``token_metrics``; ``latent`` must be ``(d, h, w)``.
    """
    check_latents(latent[None])
    z = latent.detach().to(device_of(decoder))[None]
    check_decoder(decoder, z)
    rows = [_jacobian_columns(decoder, z, position)[:, 0] for position in range(math.prod(latent.shape[1:]))]
    jacobian = torch.cat(rows)  # (D, pixels), token-major
    return jacobian @ jacobian.T


def _exact_blocks(decoder: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Diagonal blocks of ``JᵀJ``, one per token.

    Forward mode takes ``d·h·w`` derivatives per image, ``d`` at a time for the tokens of all images at one
    position. Where images have fewer pixels than that, reverse mode takes one pass per pixel: a sketch whose
    probes are single pixels.

    Args:
        decoder: maps ``(B, d, h, w)`` to images; evaluation mode, checked by the caller.
        z: ``(B, d, h, w)`` on the decoder's device.

    Returns:
        ``(B·h·w, d, d)`` in the dtype of ``z``.
    """
    n_images, d, h, w = z.shape
    with torch.no_grad():
        pixels = of_images(decoder, slice(0, 1))(z[:1]).numel()
    if pixels < d * h * w:
        return sketch_blocks(decoder, z, pixels, seed=0, first_image=0)
    step = max(1, _PIXELS_PER_PASS.get(z.device.type, 100_000) // (pixels * d))
    blocks = torch.empty(n_images, h * w, d, d, dtype=z.dtype, device=z.device)
    for start in range(0, n_images, step):
        part, bound = z[start : start + step], of_images(decoder, slice(start, start + step))
        for position in range(h * w):
            columns = _jacobian_columns(bound, part, position).transpose(0, 1)  # (B, d, pixels)
            blocks[start : start + step, position] = columns @ columns.mT
    return blocks.view(n_images * h * w, d, d)


def _jacobian_columns(decoder: nn.Module, z: torch.Tensor, position: int) -> torch.Tensor:
    """Derivatives ``(d, B, pixels)`` with respect to the token at ``position`` of every image."""
    _, d, h, w = z.shape
    # Forward mode gives a view a tangent as large as the storage behind it: of a slice of a data set, all of that.
    z = z.detach().clone()
    directions = torch.zeros(d, d, h * w, dtype=z.dtype, device=z.device)
    directions[:, :, position] = torch.eye(d, dtype=z.dtype, device=z.device)

    def push(direction: torch.Tensor) -> torch.Tensor:
        return jvp(decoder, (z,), (direction.expand_as(z),))[1]

    with forward_mode():
        return vmap(push)(directions.view(d, d, h, w)).flatten(2)


def _check_storage(dtype: torch.dtype) -> None:
    """Raise InputError for dtypes that packed metrics are not stored in."""
    if dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"dtype is {dtype}; metrics are stored as torch.float32 or torch.bfloat16")
