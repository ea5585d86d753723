"""What a Gaussian source with the covariance of the images costs: a rate-distortion curve to set codes beside.

Reverse water-filling on the eigenvalues of the covariance (Cover, Thomas 2006, sec. 10.3.3). Of all sources with
this covariance the Gaussian is the hardest to describe, so the curve is no upper bound: it marks what second-order
statistics alone give, to a coder without limits on delay or complexity. Its distortion is a mean over images, so
it stands beside ``psnr_pooled``, never beside the mean of each image's PSNR.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation.reconstruction import psnr_of

_CHUNK_BYTES = 100 * 2**20
_RELATIVE_ZERO = 1e-12
"""Eigenvalues below this share of the largest are rounding errors of a singular covariance."""


def covariance_spectrum(images: Tensor) -> Tensor:
    """Eigenvalues of the covariance of the pixels of images.

    Args:
        images: (N, C, H, W), bytes or floats in [0, 1].

    Returns:
        (C·H·W,) float64 in pixel², largest first, none below zero. Their sum is the mean squared distance
        of an image to the mean image.

    Raises:
        InputError: another shape, or fewer than two images.
    """
    if images.ndim != 4 or len(images) < 2:
        raise InputError(f"images of shape {tuple(images.shape)}: a covariance needs (N, C, H, W) with N of 2 or more")
    n_pixels = images[0].numel()
    scale = 1.0 if images.is_floating_point() else 255.0
    if len(images) < n_pixels:  # as many eigenvalues as images, those of their inner products
        products = torch.zeros(len(images), len(images), dtype=torch.float64)
        for columns in images.flatten(1).split(max(1, _CHUNK_BYTES // (8 * len(images))), dim=1):
            centred = columns.double() / scale
            centred -= centred.mean(0)
            products.addmm_(centred, centred.T, alpha=1 / len(images))
        found = torch.linalg.eigvalsh(products).clamp(min=0).flip(0)
        return torch.cat([found, found.new_zeros(n_pixels - len(images))])
    chunk = max(1, _CHUNK_BYTES // (8 * n_pixels))
    mean = torch.zeros(n_pixels, dtype=torch.float64)
    for part in images.split(chunk):
        mean += part.flatten(1).double().sum(0) / scale / len(images)
    covariance = torch.zeros(n_pixels, n_pixels, dtype=torch.float64)
    for part in images.split(chunk):
        centred = part.flatten(1).double() / scale - mean
        covariance.addmm_(centred.T, centred, alpha=1 / len(images))
    return torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)


def water_level(eigenvalues: Tensor, bits: Tensor) -> Tensor:
    """Largest error variance that any coordinate keeps: θ with bits = sum over λ_i > θ of ½ log2(λ_i / θ)
    (Cover, Thomas 2006, theorem 10.3.3), solved exactly.

    Args:
        eigenvalues: (D,) of the covariance, none below zero, in any order.
        bits: (R,) bits per vector, none below zero.

    Returns:
        (R,) float64, in the unit of the eigenvalues; coordinate i keeps the error min(θ, λ_i).

    Raises:
        InputError: another shape, or negative or infinite values.
    """
    if eigenvalues.ndim != 1 or len(eigenvalues) == 0 or not _finite_and_not_negative(eigenvalues):
        raise InputError(f"eigenvalues of shape {tuple(eigenvalues.shape)}: give (D,) finite numbers, none below 0")
    if bits.ndim != 1 or not _finite_and_not_negative(bits):
        raise InputError(f"bits of shape {tuple(bits.shape)}: give (R,) finite numbers, none below 0")
    values = eigenvalues.detach().double().cpu().sort(descending=True).values
    values = values[values > _RELATIVE_ZERO * values[0]]
    rates = bits.detach().double().cpu()
    if len(values) == 0:
        return torch.zeros_like(rates)
    counts = torch.arange(1, len(values) + 1, dtype=torch.float64)
    log_sums = values.log2().cumsum(0)
    # Rate at which the water falls to the k-th eigenvalue: from there on k of them are described.
    entry = ((log_sums - counts * values.log2()) / 2).cummax(0).values
    described = torch.searchsorted(entry, rates, right=True).clamp(min=1)
    return ((log_sums[described - 1] - 2 * rates) / described).exp2()


def gaussian_distortion(eigenvalues: Tensor, bits: Tensor) -> Tensor:
    """Least mean squared error (R,) of a Gaussian vector at rates: sum over i of min(θ, λ_i), float64, in the unit of
    the eigenvalues; θ, arguments and errors are those of ``water_level``.
    """
    level = water_level(eigenvalues, bits)
    return torch.minimum(eigenvalues.detach().double().cpu(), level[:, None]).sum(1)


def gaussian_reference_psnr(eigenvalues: Tensor, bits: Tensor) -> Tensor:
    """PSNR (R,) in dB, at most ``GREATEST_PSNR_DB``, of a Gaussian source's pooled error at ``bits`` (R,) per image.

    ``eigenvalues`` (D,) are those of ``covariance_spectrum``, of D pixels per image in [0, 1].
    """
    return psnr_of(gaussian_distortion(eigenvalues, bits) / len(eigenvalues))


def _finite_and_not_negative(values: Tensor) -> bool:
    return bool((values.isfinite() & (values >= 0)).all())
