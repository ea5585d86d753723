"""How wrong a sketch is, and how many probes reach a wanted error, without exact metrics to compare with.

Two sketches A and B with independent probes differ by ``E‖A − B‖_F² = 2 E‖Ĝ − G‖_F²``, and ``E⟨A, B⟩ = ‖G‖_F²``.
Both sides are unbiased, so their disagreement on a few images tells the error against the exact metrics.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from geovq.errors import InputError
from geovq.geometry.checks import check_decoder, check_latents, device_of
from geovq.geometry.computing import Precision, runs_in_bf16
from geovq.geometry.sketch import ProbeKind, check_probes, sketch_blocks

_IMAGES_PER_PASS = 64


def sketch_error(
    decoder: nn.Module,
    latents: torch.Tensor,
    n_probes: int,
    seed: int = 0,
    *,
    probes: ProbeKind = "lattice",
    precision: Precision = "auto",
) -> float:
    """Relative error of a token's sketched metric: ``√(E‖Ĝ − G‖_F² / E‖G‖_F²)`` over all tokens of ``latents``.

    With 32 images of the default VAE the estimate itself varies by 6 % (standard deviation). Zero for a decoder
    that ignores its latents, whose metrics are zero.

    Args:
        decoder: as in ``token_metrics``.
        latents: ``(B, d, h, w)``, a sample of images.
        n_probes: backward passes of the sketch in question; twice as many are made.
        seed: of the two sketches.
        probes: kind of probes.
        precision: as in ``token_metrics``.

    Raises:
        InputError: as ``token_metrics``.
    """
    check_probes(probes, n_probes)
    check_latents(latents)
    device = device_of(decoder)
    bf16 = runs_in_bf16(precision, device, latents.dtype)
    check_decoder(decoder, latents, device)
    return _disagreement(decoder, latents.detach().to(device), n_probes, seed, probes, bf16)


def probes_for_error(
    decoder: nn.Module,
    latents: torch.Tensor,
    target: float,
    seed: int = 0,
    *,
    n_images: int = 32,
    probes: ProbeKind = "lattice",
    precision: Precision = "auto",
) -> int:
    """Number of probes with which a token's sketched metric has about the relative error ``target``.

    A pilot on ``n_images`` images measures the error (``sketch_error``). Independent probes follow error = c/√m, so
    one measurement with 16 gives ``m = (c/target)²``. Lattice probes err less, and do not follow one law: the
    error is measured at doubled m until it is below the target, then in between by bisection.

    Args:
        decoder: as in ``token_metrics``.
        latents: ``(B, d, h, w)``.
        target: relative error, above 0. A mean over n metrics of different images has about the relative
            *sketch* error ``target/√n``.
        seed: of the choice of images and of the probes.
        n_images: images of the pilot.
        probes: kind of probes.
        precision: as in ``token_metrics``.

    Returns:
        At least 1; with lattice probes at most the number of pixels, where the sketch is exact.

    Raises:
        InputError: ``target`` not positive, ``n_images`` below 1, and as ``token_metrics``.
    """
    if not target > 0 or not math.isfinite(target):
        raise InputError(f"target is {target}; give a relative error above 0, such as 0.4")
    if n_images < 1:
        raise InputError(f"n_images is {n_images}; the pilot needs at least 1")
    check_probes(probes, 1)
    check_latents(latents)
    device = device_of(decoder)
    bf16 = runs_in_bf16(precision, device, latents.dtype)
    image_shape = check_decoder(decoder, latents, device)
    chosen = torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed))[:n_images]
    pilot = latents.detach()[chosen.to(latents.device)].to(device)

    def error(n_probes: int) -> float:
        return _disagreement(decoder, pilot, n_probes, seed, probes, bf16)

    if probes == "independent":
        return max(1, math.ceil(16 * (error(16) / target) ** 2))
    n_pixels = math.prod(image_shape)
    too_few, enough = 0, 1
    while enough < n_pixels and error(enough) > target:
        too_few, enough = enough, min(2 * enough, n_pixels)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if error(middle) > target:
            too_few = middle
        else:
            enough = middle
    return enough


def _disagreement(
    decoder: nn.Module, latents: torch.Tensor, n_probes: int, seed: int, probes: ProbeKind, bf16: bool
) -> float:
    squared_difference, squared_norm = 0.0, 0.0
    for start in range(0, len(latents), _IMAGES_PER_PASS):
        part = latents[start : start + _IMAGES_PER_PASS]
        # Two stretches of one stream of signs, as if of other images: independent, and reproducible by the seed.
        one = sketch_blocks(decoder, part, n_probes, seed, start, probes, bf16).double()
        other = sketch_blocks(decoder, part, n_probes, seed, len(latents) + start, probes, bf16).double()
        squared_difference += float((one - other).square().sum())
        squared_norm += float((one * other).sum())
    if squared_norm <= 0:
        return 0.0 if squared_difference == 0 else math.inf
    return math.sqrt(squared_difference / 2 / squared_norm)
