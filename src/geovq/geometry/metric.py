"""Pull-back metric tensors of a decoder, one per token, in the token's own image and position.

With ``D`` the decoder (after its output activation, pixels in [0, 1]) and ``J = ∂D(z)/∂z_token``, the metric
of a token is ``G = JᵀJ``: to first order a displacement ``e`` of the token changes the image by ``eᵀGe``
squared pixel error, summed over the image (Arvanitidis, Hansen, Hauberg 2018, "Latent space oddity", eq. 3).

| way | cost for an image of ``h·w`` tokens of ``d`` dimensions | error |
|---|---|---|
| ``exact`` | ``d·h·w`` forward-mode derivatives | rounding |
| ``sketch`` | one forward, ``n_probes`` backward passes for all tokens | falls as 1/√n_probes |
| ``posterior`` | nothing: read from the encoder's variances | a model, diagonal |

Token order: ``n·h·w + row·w + col``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.func import jvp, vmap

from geovq.errors import InputError
from geovq.geometry.symmetric import pack_symmetric, packed_size
from geovq.progress import progress

# Numbers held by one forward-mode pass, as multiples of the images it perturbs: keeps `exact` within about 1
# GB.
_EXACT_PIXELS = 8_000_000


def token_metrics(
    decoder: nn.Module,
    latents: torch.Tensor,
    method: Literal["sketch", "exact"] = "sketch",
    n_probes: int = 16,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Packed metric tensors ``JᵀJ`` of all tokens of ``latents``.

    ``sketch`` averages ``(Jᵀv)(Jᵀv)ᵀ`` over ``n_probes`` random ±1 images ``v`` (Hutchinson 1990): one
    backward pass gives ``Jᵀv`` for every token of an image, and ``E[vvᵀ] = I`` makes each diagonal block
    unbiased. The rank of an estimate is at most ``n_probes``. The probes of image ``n`` are bits at an
    address of a counter-based stream (Philox) that only ``seed`` and ``n`` determine: independent between
    images, so errors average out over a codebook cell, and the same for any batch size.

    ``exact`` perturbs one dimension of one token in every image per forward-mode derivative, ``d·h·w`` in
    all.

    Args:
        decoder: maps ``(B, d, h, w)`` to images ``(B, C, H, W)`` in [0, 1]; in eval mode.
        latents: ``(B, d, h, w)`` posterior means.
        method: ``"sketch"`` or ``"exact"``.
        n_probes: backward passes of the sketch; ignored by ``exact``.
        seed: of the probes; ignored by ``exact``.
        batch_size: images per pass (``exact`` takes fewer where memory asks for it). No influence on the
            result beyond rounding.
        device: where to compute; by default where the decoder's parameters are.

    Returns:
        ``(B·h·w, d(d+1)/2)`` float32 on the CPU, in squared pixel error per squared latent unit.

    Raises:
        InputError: a decoder in train mode or with batch statistics, latents of a wrong shape or not finite,
            an unknown method, counts below 1, or a decoder whose derivatives are not finite.
    """
    if method not in ("sketch", "exact"):
        raise InputError(f"method is {method!r}; choose 'sketch' or 'exact'")
    if n_probes < 1 or batch_size < 1:
        raise InputError(f"n_probes is {n_probes} and batch_size {batch_size}; both must be at least 1")
    _check_decoder(decoder)
    _check_latents(latents)
    n_images, d, h, w = latents.shape
    device = torch.device(device) if device is not None else _device_of(decoder)
    packed = torch.empty(n_images * h * w, packed_size(d), dtype=torch.float32)
    with progress("metric tensors", total=n_images) as advance:
        for start in range(0, n_images, batch_size):
            batch = latents[start : start + batch_size].detach().to(device)
            if method == "sketch":
                blocks = _sketch_blocks(decoder, batch, n_probes, seed, first_image=start)
            else:
                blocks = _exact_blocks(decoder, batch)
            half = pack_symmetric(blocks)
            if not bool(torch.isfinite(half).all()):
                raise InputError(
                    f"the decoder's derivatives are not finite in images {start} to "
                    f"{start + len(batch) - 1}; check its weights and activations"
                )
            packed[start * h * w : (start + len(batch)) * h * w] = half.float().cpu()
            advance(len(batch))
    return packed


def posterior_metrics(log_variance: torch.Tensor, scale: float, floor: float = 1e-6) -> torch.Tensor:
    """Diagonal metric tensors read from the encoder's posterior variances; no decoder pass.

    Where the loss ``sse + λ·KL`` (squared pixel error summed over the image, KL in nats, λ in pixel² per nat)
    is stationary in ``σ_j``, ``E[sse]`` contributes ``G_jj σ_j²`` and KL contributes ``½(σ_j² − log σ_j²)``,
    hence ``G_jj = (λ/2)(σ_j⁻² − 1)`` (the argument of Rolinek, Zietlow, Martius 2019, eq. 12, for a diagonal
    posterior).

    Args:
        log_variance: ``(B, d, h, w)`` log σ².
        scale: λ/2. The unit of the result is that of ``scale``.
        floor: smallest value of ``σ_j⁻² − 1``, so that unused dimensions (σ ≥ 1) keep a positive length.

    Returns:
        ``(B·h·w, d(d+1)/2)`` float32 packed, off-diagonal entries zero.

    Raises:
        InputError: a wrong shape, values that are not finite, or ``scale`` not positive.
    """
    _check_latents(log_variance, "log variances")
    if not scale > 0 or not np.isfinite(scale):
        raise InputError(f"scale is {scale}; it is half the KL weight in pixel² per nat and must be positive")
    d = log_variance.shape[1]
    diagonal = (torch.expm1(-log_variance.detach().double()).clamp(min=floor) * scale).float().cpu()
    packed = torch.zeros(diagonal.numel() // d, packed_size(d), dtype=torch.float32)
    rows, columns = torch.triu_indices(d, d)
    packed[:, rows == columns] = diagonal.permute(0, 2, 3, 1).reshape(-1, d)
    return packed


def full_metric(decoder: nn.Module, latent: torch.Tensor) -> torch.Tensor:
    """The whole metric tensor ``(D, D)`` of one image, ``D = d·h·w``, blocks between tokens included.

    Token-major order: row ``(row·w + col)·d + j`` is dimension ``j`` of the token at ``(row, col)``, so the
    diagonal ``(d, d)`` blocks are the tokens' own metrics. Computed by ``D`` forward-mode derivatives in the
    dtype of ``latent``.

    Raises:
        InputError: as ``token_metrics``; ``latent`` must be ``(d, h, w)``.
    """
    _check_decoder(decoder)
    if latent.ndim != 3:
        raise InputError(f"latent has shape {tuple(latent.shape)}; give one image's (d, h, w)")
    _check_latents(latent[None])
    _, h, w = latent.shape
    z = latent.detach().to(_device_of(decoder))[None]
    rows = [_columns(decoder, z, _directions(z, position))[:, 0] for position in range(h * w)]
    jacobian = torch.cat(rows)  # (D, pixels), token-major
    return jacobian @ jacobian.T


def probe_signs(n_probes: int, n_pixels: int, seed: int, first_image: int, n_images: int) -> np.ndarray:
    """Random bits ``(n_images, n_probes, n_pixels)``, uint8; those of image ``n`` follow from ``seed`` and ``n``."""
    # Philox yields four 64-bit words per counter step; each image owns a whole number of steps of the stream.
    steps = -(-n_probes * n_pixels // 256)
    generator = np.random.Philox(key=seed)
    generator.advance(first_image * steps)
    words = generator.random_raw(n_images * steps * 4)
    bits = np.unpackbits(words.view(np.uint8)).reshape(n_images, steps * 256)
    return bits[:, : n_probes * n_pixels].reshape(n_images, n_probes, n_pixels)


def _sketch_blocks(decoder: nn.Module, z: torch.Tensor, n_probes: int, seed: int, first_image: int) -> torch.Tensor:
    """``(B·h·w, d, d)`` unbiased estimates of the diagonal blocks."""
    n_images, d, h, w = z.shape
    with torch.enable_grad():
        z = z.requires_grad_(True)
        images = decoder(z)
        bits = probe_signs(n_probes, images[0].numel(), seed, first_image, n_images)
        probes = torch.from_numpy(bits).to(z.device).view(n_images, n_probes, *images.shape[1:])
        pulled = []  # Jᵀv of every probe: n_probes x (B, d, h, w)
        for index in range(n_probes):
            signs = probes[:, index].to(images.dtype).mul_(2.0).sub_(1.0)
            keep = index < n_probes - 1
            pulled.append(torch.autograd.grad(images, z, signs, retain_graph=keep)[0])
    # (m, B, d, h, w) → (B·h·w, d, m)
    stacked = torch.stack(pulled).permute(1, 3, 4, 2, 0).reshape(n_images * h * w, d, n_probes)
    return (stacked @ stacked.mT) / n_probes


def _exact_blocks(decoder: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """``(B·h·w, d, d)`` diagonal blocks, one forward-mode pass of ``d`` directions per position."""
    n_images, d, h, w = z.shape
    with torch.no_grad():
        pixels = decoder(z[:1]).numel()
    step = max(1, _EXACT_PIXELS // (pixels * d))
    blocks = torch.empty(n_images, h * w, d, d, dtype=z.dtype, device=z.device)
    for start in range(0, n_images, step):
        part = z[start : start + step]
        for position in range(h * w):
            columns = _columns(decoder, part, _directions(part, position)).transpose(0, 1)  # (B, d, pixels)
            blocks[start : start + step, position] = columns @ columns.mT
    return blocks.view(n_images * h * w, d, d)


def _directions(z: torch.Tensor, position: int) -> torch.Tensor:
    """``(d, d, h, w)`` unit perturbations of the ``d`` dimensions of the token at ``position``."""
    _, d, h, w = z.shape
    directions = torch.zeros(d, d, h * w, dtype=z.dtype, device=z.device)
    directions[:, :, position] = torch.eye(d, dtype=z.dtype, device=z.device)
    return directions.view(d, d, h, w)


def _columns(decoder: nn.Module, z: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Jacobian columns ``(directions, B, pixels)``: the same direction in every image."""

    def push(direction: torch.Tensor) -> torch.Tensor:
        return jvp(decoder, (z,), (direction.expand_as(z),))[1]

    with torch.no_grad():
        return vmap(push)(directions).flatten(2)


def _device_of(decoder: nn.Module) -> torch.device:
    parameter = next(decoder.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _check_decoder(decoder: nn.Module) -> None:
    for name, module in decoder.named_modules():
        where = f"its layer {name} ({type(module).__name__})" if name else "the decoder"
        if module.training:
            raise InputError(f"{where} is in train mode; call decoder.eval() before computing metrics")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InputError(
                f"{where} uses the statistics of the batch even in eval mode (track_running_stats=False), "
                "which ties images together; use GroupNorm or running statistics"
            )


def _check_latents(latents: torch.Tensor, name: str = "latents") -> None:
    if latents.ndim != 4 or latents.numel() == 0:
        raise InputError(f"{name} have shape {tuple(latents.shape)}; give (B, d, h, w) with no empty dimension")
    if not latents.is_floating_point():
        raise InputError(f"{name} have dtype {latents.dtype}; give floating-point numbers")
    finite = torch.isfinite(latents).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise InputError(f"{name} hold NaN or infinity (first in image {bad}); mend the encoder first")
