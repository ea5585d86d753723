"""What a codebook is like: use of its codes, rate, and distortion in the units every codebook is scored in.

The distortions are always the same four, since no two of them share a unit: squared latent distance, ``eᵀGe``
in squared pixel error, squared graph geodesic (``geodesic_distortion`` in its own module) and decoded pixel
MSE. A number from one says nothing about another.

Codes are integers in [0, K) of any shape whose first dimension is the image; tokens are the rows of (T, d) in
the same order, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.geometry.symmetric import quadratic_form

COUNTED_RATES = ("rate_unigram_bits_per_image", "rate_position_bits_per_image")
"""What :func:`rate` names the code lengths under distributions counted on training codes."""

_CHUNK_TOKENS = 262_144


def usage(codes: Tensor, n_codes: int) -> tuple[dict[str, float], Tensor]:
    """How evenly codes are used.

    Args:
        codes: (N, h, w) integers in [0, n_codes).
        n_codes: K.

    Returns:
        ``active_codes`` (used at least once), ``active_fraction`` (of K), ``entropy_bits_per_token`` (of the
        empirical distribution), ``perplexity`` (2 to that entropy, between 1 and K), ``perplexity_corrected`` (2 to
        an estimate of the entropy that few tokens do not bias, at most K); and the histogram, (K,) int64.

    Raises:
        InputError: no codes, or codes outside [0, n_codes).
    """
    check_codes(codes, n_codes)
    histogram = torch.bincount(codes.flatten().cpu(), minlength=n_codes)
    return usage_of_histogram(histogram), histogram


def usage_of_histogram(histogram: Tensor) -> dict[str, float]:
    """The metrics of ``usage`` from tokens per code, (K,), not all zero."""
    share = histogram.double() / histogram.sum()
    # cut below, since one code alone gives -0.0
    entropy = max(0.0, float(-torch.special.xlogy(share, share).sum()) / math.log(2))
    active = int((histogram > 0).sum())
    corrected = min(max(0.0, _entropy_corrected(histogram)), math.log2(len(histogram)))
    return {
        "active_codes": float(active),
        "active_fraction": active / len(histogram),
        "entropy_bits_per_token": entropy,
        "perplexity": 2.0**entropy,
        "perplexity_corrected": 2.0**corrected,
    }


def _entropy_corrected(histogram: Tensor) -> float:
    """Bits per token by Grassberger (2003, arXiv:physics/0307138): log T − Σ n·G(n)/T over T independent tokens.

    The empirical entropy lacks about (K − 1)/2T nats. Chosen by simulation over the estimators of Miller and Madow and
    of Chao and Shen (docs/metrics.md).
    """
    counts = histogram[histogram > 0].double()
    sign = 1 - 2 * (counts % 2)
    terms = torch.digamma(counts) + sign * (torch.digamma((counts + 1) / 2) - torch.digamma(counts / 2)) / 2
    total = float(counts.sum())
    return (math.log(total) - float((counts * terms).sum()) / total) / math.log(2)


def usage_of_streams(streams: Sequence[tuple[Tensor, int]]) -> tuple[dict[str, float], Tensor]:
    """``usage`` of codes that come as streams of one alphabet each (``Codec.streams``).

    Args:
        streams: ``(codes (N, n), size)`` each.

    Returns:
        As ``usage``: active codes are summed over the streams, entropies are means over all codes, each in its own
        alphabet; and the histograms in a row, (sum of sizes,) int64.
    """
    histograms = [usage(codes, size)[1] for codes, size in streams]
    parts = [usage_of_histogram(histogram) for histogram in histograms]
    counts = [int(histogram.sum()) for histogram in histograms]
    entropy, corrected = (
        sum(math.log2(part[name]) * n for part, n in zip(parts, counts, strict=True)) / sum(counts)
        for name in ("perplexity", "perplexity_corrected")
    )
    active = sum(part["active_codes"] for part in parts)
    metrics = {
        "active_codes": active,
        "active_fraction": active / sum(size for _, size in streams),
        "entropy_bits_per_token": entropy,
        "perplexity": 2.0**entropy,
        "perplexity_corrected": 2.0**corrected,
    }
    return metrics, torch.cat(histograms)


def rate_of_streams(
    train: Sequence[tuple[Tensor, int]], test: Sequence[tuple[Tensor, int]]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """``rate`` summed over streams of one alphabet each (``Codec.streams``)."""
    metrics: dict[str, float] = {}
    per_image: dict[str, Tensor] = {}
    for (train_codes, size), (test_codes, _) in zip(train, test, strict=True):
        values, bits = rate(train_codes, test_codes, size)
        metrics = {name: metrics.get(name, 0.0) + value for name, value in values.items()}
        per_image = {name: per_image.get(name, torch.zeros(())) + value for name, value in bits.items()}
    return metrics, per_image


def rate(codes_train: Tensor, codes_test: Tensor, n_codes: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Bits per image of the test codes under two entropy codes fitted on training codes.

    Both entropy codes count training codes plus one each (Laplace's rule), so no test code costs infinitely
    many bits: ``unigram`` has one distribution for all positions, ``position`` one for each.

    Args:
        codes_train: (N, h, w) integers in [0, n_codes).
        codes_test: (M, h, w), held out.
        n_codes: K.

    Returns:
        ``rate_unigram_bits_per_image`` and ``rate_position_bits_per_image``, means over test images; and the bits of
        each test image, (M,), under ``unigram`` and ``position``.

    Raises:
        InputError: no codes, codes outside [0, n_codes), or grids of different sizes.
    """
    check_codes(codes_train, n_codes)
    check_codes(codes_test, n_codes)
    if codes_train.shape[1:] != codes_test.shape[1:]:
        raise InputError(
            f"codes of shape {tuple(codes_train.shape)} and {tuple(codes_test.shape)}: grids must be equal"
        )
    train, test = codes_train.flatten(1).cpu(), codes_test.flatten(1).cpu()  # (N, h·w), (M, h·w)
    n_positions = test.shape[1]
    counts = torch.stack([torch.bincount(train[:, position], minlength=n_codes) for position in range(n_positions)])
    position_bits = _code_lengths(counts)  # (h·w, K)
    unigram_bits = _code_lengths(counts.sum(0))  # (K,)
    per_image = {"unigram": torch.zeros(len(test)).double(), "position": torch.zeros(len(test)).double()}
    for position in range(n_positions):
        per_image["unigram"] += unigram_bits[test[:, position]]
        per_image["position"] += position_bits[position, test[:, position]]
    metrics: dict[str, float] = {}
    metrics |= {f"rate_{name}_bits_per_image": float(bits.mean()) for name, bits in per_image.items()}
    return metrics, per_image


def latent_distortion(tokens: Tensor, quantized: Tensor) -> tuple[dict[str, float], Tensor]:
    """Squared Euclidean distance in latent units between tokens and their codewords.

    Args:
        tokens: (T, d) tokens, row-major over (image, row, column).
        quantized: (T, d) what their codes stand for.

    Returns:
        ``distortion_latent_l2_squared``, the mean over tokens; and the value of each token, (T,) float32.

    Raises:
        InputError: shapes that do not fit together.
    """
    _check_quantized(tokens, quantized)
    return _mean_of("distortion_latent_l2_squared", (tokens.float().cpu() - quantized.float().cpu()).square().sum(1))


def metric_distortion(tokens: Tensor, quantized: Tensor, packed_metrics: Tensor) -> tuple[dict[str, float], Tensor]:
    """Decoded error of quantization to first order: ``eᵀGe`` with e = token − codeword and G the token's
    metric.

    Args:
        tokens: (T, d) tokens, row-major over (image, row, column).
        quantized: (T, d) what their codes stand for.
        packed_metrics: (T, d(d+1)/2) pull-back metrics of the tokens, packed by rows of the upper half.

    Returns:
        ``distortion_pullback_pixel2``, the mean over tokens of squared pixel error summed over the image; and
        the value of each token, (T,) float32.

    Raises:
        InputError: shapes that do not fit together.
    """
    _check_quantized(tokens, quantized)
    if len(packed_metrics) != len(tokens):
        raise InputError(f"{len(packed_metrics)} metrics for {len(tokens)} tokens: each token needs its own")
    parts = []
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        part = slice(start, start + _CHUNK_TOKENS)
        delta = tokens[part].float().cpu() - quantized[part].float().cpu()
        parts.append(quadratic_form(packed_metrics[part].cpu(), delta))
    return _mean_of("distortion_pullback_pixel2", torch.cat(parts))


def decoded_distortion(decoded_mean: Tensor, decoded_codes: Tensor) -> tuple[dict[str, float], Tensor]:
    """Pixel error that quantization alone causes: mean squared difference of D(μ) and D(q).

    Args:
        decoded_mean: (N, C, H, W) in [0, 1].
        decoded_codes: the same shape and range.

    Returns:
        ``distortion_decoded_mse``, the mean over images, pixels and channels; and the MSE of each image, (N,)
        float32. Times C·H·W it is in the unit of ``distortion_pullback_pixel2`` summed over the tokens of an
        image.
    """
    if decoded_mean.shape != decoded_codes.shape or len(decoded_mean) == 0:
        raise InputError(f"images of shape {tuple(decoded_mean.shape)} and {tuple(decoded_codes.shape)} must be equal")
    chunk = max(1, 100 * 2**20 // (12 * decoded_mean[0].numel()))
    parts = [
        (first.float() - second.to(first.device).float()).square().flatten(1).mean(1).cpu()
        for first, second in zip(decoded_mean.split(chunk), decoded_codes.split(chunk), strict=True)
    ]
    return _mean_of("distortion_decoded_mse", torch.cat(parts))


def check_codes(codes: Tensor, n_codes: int) -> None:
    """Refuse codes that are no integers in [0, n_codes): every token is encoded, there is no −1.

    Raises:
        InputError: saying which and why.
    """
    if codes.is_floating_point() or codes.is_complex() or codes.numel() == 0:
        raise InputError(f"codes are {codes.dtype} of shape {tuple(codes.shape)}: give at least one integer code")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= n_codes:
        raise InputError(f"codes reach from {low} to {high}: with K = {n_codes} they must lie in [0, {n_codes})")


def check_assignment(tokens: Tensor, codewords: Tensor, codes: Tensor) -> Tensor:
    """Refuse tokens, codewords and codes that do not fit together; return the codes as (T,) int64 on the CPU.

    Raises:
        InputError: saying which and why.
    """
    if tokens.ndim != 2 or codewords.ndim != 2 or tokens.shape[1] != codewords.shape[1]:
        raise InputError(
            f"tokens {tuple(tokens.shape)} and codewords {tuple(codewords.shape)} must be (T, d) and (K, d)"
        )
    if codes.numel() != len(tokens):
        raise InputError(f"{codes.numel()} codes for {len(tokens)} tokens: each token needs exactly one")
    check_codes(codes, len(codewords))
    return codes.flatten().cpu().long()


def _code_lengths(counts: Tensor) -> Tensor:
    """Bits of each code, −log2 of its smoothed share along the last dimension."""
    smoothed = counts.double() + 1
    return -torch.log2(smoothed / smoothed.sum(-1, keepdim=True))


def _check_quantized(tokens: Tensor, quantized: Tensor) -> None:
    if tokens.ndim != 2 or tokens.shape != quantized.shape or len(tokens) == 0:
        raise InputError(f"tokens {tuple(tokens.shape)} and quantized {tuple(quantized.shape)} must both be (T, d)")


def _mean_of(name: str, values: Tensor) -> tuple[dict[str, float], Tensor]:
    return {name: float(values.double().mean())}, values
