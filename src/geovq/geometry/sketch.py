"""Metric tensors of all tokens of an image from a few backward passes: unbiased, with random error.

One backward pass with an image ``v`` gives ``Jᵀv`` for every token at once, so the cost does not grow with the
number of tokens or of dimensions; see ``probes`` for which images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from geovq.geometry.precision import bf16_autocast
from geovq.geometry.probes import ProbeKind, lattice_colours, probe_signs


def sketch_blocks(
    decoder: Callable[[torch.Tensor], torch.Tensor],
    z: torch.Tensor,
    n_probes: int,
    seed: int,
    first_image: int,
    kind: ProbeKind = "lattice",
    bf16: bool = False,
) -> torch.Tensor:
    """Unbiased estimates ``Σ_k (Jᵀv_k)(Jᵀv_k)ᵀ`` of the diagonal blocks of ``JᵀJ``, one per token.

    Args:
        decoder: maps ``(B, d, h, w)`` to images; evaluation mode, checked by the caller.
        z: ``(B, d, h, w)`` on the decoder's device.
        n_probes: backward passes. More than pixels are never made with ``lattice``: these are exact.
        seed: of the probes.
        first_image: number of ``z[0]`` in its data set, which addresses its probes.
        kind: ``lattice`` or ``independent``.
        bf16: forward and backward under autocast; sums of products stay in the dtype of ``z``.

    Returns:
        ``(B·h·w, d, d)`` in the dtype of ``z``.
    """
    pulled, scale = pulled_probes(decoder, z, n_probes, seed, first_image, kind, bf16)
    stacked = pulled.flatten(0, 1)
    return (stacked @ stacked.mT) * scale


def sketch_factor(
    decoder: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor, n_probes: int, seed: int, first_image: int
) -> torch.Tensor:
    """Factors ``F`` with ``E[FFᵀ] = JᵀJ`` of whole images, blocks between tokens included, from lattice probes.

    Always in the precision of ``z``, not in bf16.

    Returns:
        ``(B, h·w·d, m)``, token-major rows: row ``t·d + j`` is dimension ``j`` of token ``t``.
    """
    pulled, scale = pulled_probes(decoder, z, n_probes, seed, first_image, "lattice", bf16=False)
    return pulled.flatten(1, 2) * math.sqrt(scale)


def pulled_probes(
    decoder: Callable[[torch.Tensor], torch.Tensor],
    z: torch.Tensor,
    n_probes: int,
    seed: int,
    first_image: int,
    kind: ProbeKind,
    bf16: bool,
) -> tuple[torch.Tensor, float]:
    """``Jᵀv_k`` for every token, ``(B, h·w, d, m)``, and the factor that makes sums of their squares unbiased."""
    n_images, d, h, w = z.shape
    # Gradients are wanted whatever mode the caller is in, and of the latents only.
    with torch.inference_mode(False), torch.enable_grad():
        z = z.clone().requires_grad_(True)
        with bf16_autocast(bf16, z.device):
            images = decoder(z)
        n_pixels = images[0].numel()
        if not images.requires_grad:  # a decoder that ignores its input
            return z.new_zeros(n_images, h * w, d, n_probes), 1.0
        if kind == "lattice":
            n_probes = min(n_probes, n_pixels)
        signs, colours, scale = _probes(kind, n_probes, tuple(images.shape[1:]), seed, first_image, n_images)
        pixel_signs = torch.from_numpy(signs).to(z.device)
        pixel_colours = torch.from_numpy(colours).to(z.device)
        pulled = z.new_empty(n_images, h * w, d, n_probes)
        for index in range(n_probes):
            probe = pixel_signs[:, index % signs.shape[1]].to(images.dtype).mul_(2.0).sub_(1.0)
            if kind == "lattice":
                probe *= pixel_colours == index
            last = index == n_probes - 1
            (gradient,) = torch.autograd.grad(
                images, z, probe.view_as(images), retain_graph=not last, materialize_grads=True
            )
            pulled[..., index] = gradient.flatten(2).mT
    return pulled.detach(), scale


def _probes(
    kind: ProbeKind, n_probes: int, shape: tuple[int, ...], seed: int, first_image: int, n_images: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Sign bits ``(B, 1 or m, pixels)``, colours ``(pixels,)`` and the factor that makes the estimate unbiased."""
    n_pixels = math.prod(shape)
    if kind == "lattice":
        return probe_signs(1, n_pixels, seed, first_image, n_images), lattice_colours(shape, n_probes), 1.0
    signs = probe_signs(n_probes, n_pixels, seed, first_image, n_images)
    return signs, np.zeros(n_pixels, dtype=np.int64), 1.0 / n_probes
