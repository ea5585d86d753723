"""Metric tensors without error: all derivatives of an image, in forward or in reverse mode, whichever are fewer."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn
from torch.func import jvp, vmap

from geovq.geometry.decoder_checks import check_decoder, check_latents, device_of
from geovq.geometry.sketch import sketch_blocks

# Output numbers of one vectorised forward-mode pass. Activations of this many stay in the processor's cache and in
# memory that the allocator keeps: measured 2.6 times faster than passes of 1 GB, whose memory is mapped anew each
# time.
_PIXELS_PER_PASS = {"cpu": 100_000, "cuda": 8_000_000}


def exact_blocks(decoder: nn.Module, z: torch.Tensor) -> torch.Tensor:
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
        pixels = decoder(z[:1]).numel()
    if pixels < d * h * w:
        return sketch_blocks(decoder, z, pixels, seed=0, first_image=0)
    step = max(1, _PIXELS_PER_PASS.get(z.device.type, 100_000) // (pixels * d))
    blocks = torch.empty(n_images, h * w, d, d, dtype=z.dtype, device=z.device)
    for start in range(0, n_images, step):
        part = z[start : start + step]
        for position in range(h * w):
            columns = jacobian_columns(decoder, part, position).transpose(0, 1)  # (B, d, pixels)
            blocks[start : start + step, position] = columns @ columns.mT
    return blocks.view(n_images * h * w, d, d)


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
    rows = [jacobian_columns(decoder, z, position)[:, 0] for position in range(math.prod(latent.shape[1:]))]
    jacobian = torch.cat(rows)  # (D, pixels), token-major
    return jacobian @ jacobian.T


def jacobian_columns(decoder: nn.Module, z: torch.Tensor, position: int) -> torch.Tensor:
    """Derivatives ``(d, B, pixels)`` with respect to the token at ``position`` of every image."""
    _, d, h, w = z.shape
    # Forward mode gives a view a tangent as large as the storage behind it: of a slice of a data set, all of that.
    z = z.detach().clone()
    directions = torch.zeros(d, d, h * w, dtype=z.dtype, device=z.device)
    directions[:, :, position] = torch.eye(d, dtype=z.dtype, device=z.device)

    def push(direction: torch.Tensor) -> torch.Tensor:
        return jvp(decoder, (z,), (direction.expand_as(z),))[1]

    with torch.no_grad(), warnings.catch_warnings():
        # At its first use forward mode compiles its own rules with a function that torch has deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        return vmap(push)(directions.view(d, d, h, w)).flatten(2)
