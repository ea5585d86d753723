"""Metric tensors of all tokens of an image from a few backward passes: unbiased, with random error.

One backward pass with an image ``v`` gives ``Jᵀv`` for every token at once, so the cost does not grow with the number
of tokens or of dimensions. A set of such probes ``v_1 … v_m`` with ``E[Σ v_k v_kᵀ] = I`` gives the unbiased estimate
``Σ (Jᵀv_k)(Jᵀv_k)ᵀ`` of ``JᵀJ``. All error comes from products ``J_p J_qᵀ`` of *different* pixels that a probe mixes.

- ``independent``: ``v_k = s_k/√m`` with independent random signs (Hutchinson 1990). Every pair of pixels is
  mixed, with variance 1/m; the error is exactly proportional to 1/√m.
- ``lattice``: pixels are split into m colours and probe ``k`` shows random signs on colour ``k`` alone (probing
  by colouring: Tang, Saad 2012). Only pixels of one colour are mixed, and a colour is a lattice, its pixels as
  far apart as they can be, where a token that moves one of them hardly moves the other. (Random colours would
  have the error of independent signs.) With as many colours as pixels the estimate is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch

from geovq.errors import InputError
from geovq.geometry.checks import check_choice
from geovq.geometry.computing import bf16_autocast

ProbeKind = Literal["lattice", "independent"]


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
        is_lattice = kind == "lattice"
        n_probes = min(n_probes, n_pixels) if is_lattice else n_probes
        n_signs = 1 if is_lattice else n_probes
        signs = torch.from_numpy(probe_signs(n_signs, n_pixels, seed, first_image, n_images)).to(z.device)
        colours = torch.from_numpy(lattice_colours(images.shape[1:], n_probes)).to(z.device) if is_lattice else None
        pulled = z.new_empty(n_images, h * w, d, n_probes)
        for index in range(n_probes):
            probe = signs[:, index % n_signs].to(images.dtype).mul_(2.0).sub_(1.0)
            if colours is not None:
                probe *= colours == index
            last = index == n_probes - 1
            (gradient,) = torch.autograd.grad(
                images, z, probe.view_as(images), retain_graph=not last, materialize_grads=True
            )
            pulled[..., index] = gradient.flatten(2).mT
    return pulled.detach(), 1.0 if is_lattice else 1.0 / n_probes


def check_probes(kind: str, n_probes: int) -> None:
    """Raise InputError for unknown probes, or fewer than one."""
    check_choice("probes", kind, get_args(ProbeKind))
    if n_probes < 1:
        raise InputError(f"n_probes is {n_probes}; it must be at least 1")


def probe_signs(n_probes: int, n_pixels: int, seed: int, first_image: int, n_images: int) -> np.ndarray:
    """Random bits ``(n_images, n_probes, n_pixels)``, uint8; those of image ``n`` follow from ``seed`` and ``n``."""
    # Philox yields four 64-bit words per counter step; each image owns a whole number of steps of the stream.
    steps = -(-n_probes * n_pixels // 256)
    generator = np.random.Philox(key=seed)
    generator.advance(first_image * steps)
    words = generator.random_raw(n_images * steps * 4)
    bits = np.unpackbits(words.view(np.uint8)).reshape(n_images, steps * 256)
    return bits[:, : n_probes * n_pixels].reshape(n_images, n_probes, n_pixels)


def lattice_colours(shape: Sequence[int], n_colours: int) -> np.ndarray:
    """Colours in ``[0, n_colours)`` of the pixels of an image, flattened: ``(a·row + column + b·channel) mod m``.

    ``a`` is prime to ``m``, so that m pixels in a row or in a column have m colours; among these it is the one
    with the largest smallest distance between pixels of one colour. ``b`` keeps the channels apart likewise.
    ``n_colours`` of at least the number of pixels gives each pixel its own.

    Args:
        shape: ``(C, H, W)``; missing leading dimensions count as 1, further ones as channels.
        n_colours: m, at least 1.
    """
    n_pixels = math.prod(shape)
    if n_colours >= n_pixels:
        return np.arange(n_pixels)
    height, width = (1, 1, *shape)[-2:]
    channels = n_pixels // (height * width)
    row_step = _row_step(n_colours)
    channel_step = _channel_step(n_colours, row_step, channels)
    channel, row, column = np.indices((channels, height, width))
    return ((row_step * row + column + channel_step * channel) % n_colours).reshape(-1)


@lru_cache
def _row_step(m: int) -> int:
    candidates = [a for a in range(1, m + 1) if math.gcd(a, m) == 1]
    return max(candidates, key=lambda a: (_smallest_distance(m, a, (0,), own=True), -a))


@lru_cache
def _channel_step(m: int, row_step: int, channels: int) -> int:
    if channels == 1:
        return 0
    # Neighbouring channels first: for many channels the same steps recur anyway.
    offsets = range(1, min(channels, 4))
    return max(
        range(m),
        key=lambda b: (_smallest_distance(m, row_step, tuple(b * step % m for step in offsets), own=False), -b),
    )


def _smallest_distance(m: int, row_step: int, offsets: tuple[int, ...], own: bool) -> int:
    """Smallest squared distance from a pixel to one of its colour: another of its ``own`` channel, or one of channels
    whose colours are shifted by ``offsets``.
    """
    # A lattice of m points per period has a neighbour within √(2m/√3).
    reach = math.isqrt(2 * m) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    distances = rows**2 + columns**2
    colours = (row_step * rows + columns) % m
    smallest = distances.max()
    for offset in offsets:
        same = (colours + offset) % m == 0
        if own:
            same &= distances > 0
        smallest = min(smallest, distances[same].min(initial=smallest))
    return int(smallest)
