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

How large the sketch's error is, and how many probes reach a wanted one: ``sketch_error`` and
``probes_for_error``. How far ``eᵀGe`` can be trusted: ``validity``. Token order: ``n·h·w + row·w + col``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geovq.errors import InputError
from geovq.geometry.decoder_checks import check_decoder, check_latents, device_of
from geovq.geometry.exact import exact_blocks, full_metric
from geovq.geometry.posterior import check_storage, posterior_metrics
from geovq.geometry.precision import Precision, runs_in_bf16
from geovq.geometry.probes import ProbeKind, check_probes, probe_signs
from geovq.geometry.sketch import sketch_blocks
from geovq.geometry.sketch_error import probes_for_error, sketch_error
from geovq.geometry.symmetric import pack_symmetric, packed_size
from geovq.progress import progress

__all__ = ["full_metric", "posterior_metrics", "probe_signs", "probes_for_error", "sketch_error", "token_metrics"]


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
) -> torch.Tensor:
    """Packed metric tensors ``JᵀJ`` of all tokens of ``latents``.

    ``sketch`` sums ``(Jᵀv)(Jᵀv)ᵀ`` over ``n_probes`` random images ``v``: one backward pass gives ``Jᵀv`` for
    every token of an image, and each diagonal block is unbiased (``geometry/probes.py``). The rank of an
    estimate is at most ``n_probes``. The signs of image ``n`` are bits at an address of a counter-based stream
    (Philox) that only ``seed`` and ``n`` determine: independent between images, so errors average out over a
    codebook cell, and the same for any batch size.

    ``exact`` takes ``d·h·w`` forward-mode derivatives per image, or one reverse pass per pixel if these are
    fewer. Zero and singular metrics are returned as they are: positive semi-definite to rounding.

    Args:
        decoder: maps ``(B, d, h, w)`` to images, usually ``(B, C, H, W)`` in [0, 1]; in eval mode.
        latents: ``(B, d, h, w)`` posterior means.
        method: ``"sketch"`` or ``"exact"``.
        n_probes: backward passes of the sketch; ignored by ``exact``.
        seed: of the probes; ignored by ``exact``.
        batch_size: images per pass (``exact`` takes fewer where memory asks for it). No influence on the
            result beyond rounding.
        device: where to compute; by default where the decoder's parameters are.
        probes: ``"lattice"``, or ``"independent"`` for signs whose error is exactly proportional to 1/√m.
        precision: of the sketch: ``"32"`` for the latents' own, ``"bf16"``, or ``"auto"``: bf16 for float32
            latents where the hardware multiplies in it. ``exact`` always takes the latents' own.
        dtype: of the result: float32, or bfloat16, which halves its memory and rounds each number by a relative
            2⁻⁸ at most.

    Returns:
        ``(B·h·w, d(d+1)/2)`` on the CPU, in squared pixel error per squared latent unit.

    Raises:
        InputError: a decoder in train mode, random, or with batch statistics, latents of a wrong shape or not
            finite, an unknown option, counts below 1, or a decoder whose derivatives are not finite.
    """
    if method not in ("sketch", "exact"):
        raise InputError(f"method is {method!r}; choose 'sketch' or 'exact'")
    check_probes(probes, n_probes)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    check_storage(dtype)
    check_latents(latents)
    device = torch.device(device) if device is not None else device_of(decoder)
    bf16 = runs_in_bf16(precision, device, latents.dtype)
    check_decoder(decoder, latents, device)
    n_images, d, h, w = latents.shape
    packed = torch.empty(n_images * h * w, packed_size(d), dtype=dtype)
    with progress("metric tensors", total=n_images) as advance:
        for start in range(0, n_images, batch_size):
            batch = latents[start : start + batch_size].detach().to(device)
            if method == "sketch":
                blocks = sketch_blocks(decoder, batch, n_probes, seed, start, probes, bf16)
            else:
                blocks = exact_blocks(decoder, batch)
            half = pack_symmetric(blocks)
            if not bool(torch.isfinite(half).all()):
                raise InputError(
                    f"the decoder's derivatives are not finite in images {start} to "
                    f"{start + len(batch) - 1}; check its weights and activations"
                )
            packed[start * h * w : (start + len(batch)) * h * w] = half.to(dtype).cpu()
            advance(len(batch))
    return packed
