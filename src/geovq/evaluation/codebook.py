"""What a codebook is like: use of its codes, rate, and distortion in the units every codebook is scored in.

The distortions are always the same four, since no two of them share a unit: squared latent distance, ``eᵀGe`` in
squared pixel error, squared graph geodesic (``geodesic.py``) and decoded pixel MSE. One says nothing about another.

Codes are integers in [0, K) of any shape whose first dimension is the image; tokens are the rows of (T, d) in the same
order, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.evaluator import CODEBOOK, HIGHER, LOWER, NEITHER, RATE, Measured, Score, evaluator
from geovq.evaluation.reconstruction import in_chunks
from geovq.geometry.symmetric import quadratic_form
from geovq.models.tokens import tokens_of

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

_CHUNK_TOKENS = 262_144


def usage_of_histogram(histogram: Tensor) -> dict[str, float]:
    """How evenly codes are used, from the number of tokens with each, (K,), not all zero.

    Returns:
        ``active_codes`` (used at least once), ``active_fraction`` (of K), ``entropy_bits_per_token`` (of the empirical
        distribution), ``perplexity`` (2 to that entropy, between 1 and K), ``perplexity_corrected`` (2 to an estimate
        of the entropy that few tokens do not bias, at most K).
    """
    share = histogram.double() / histogram.sum()
    # cut below, since one code alone gives -0.0
    entropy = max(0.0, float(-torch.special.xlogy(share, share).sum()) / math.log(2))
    corrected = min(max(0.0, _entropy_corrected(histogram)), math.log2(len(histogram)))
    return _usage(int((histogram > 0).sum()), len(histogram), entropy, corrected)


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
    """How evenly codes are used that come as streams of one alphabet each: ``(codes (N, …), size)``.

    Returns:
        As ``usage_of_histogram``: active codes are summed over the streams, entropies are means over all codes, each in
        its own alphabet; and the histograms in a row, (sum of sizes,) int64.

    Raises:
        InputError: no codes, or codes outside [0, size).
    """
    for codes, size in streams:
        check_codes(codes, size)
    histograms = [torch.bincount(codes.flatten().cpu(), minlength=size) for codes, size in streams]
    parts = [usage_of_histogram(histogram) for histogram in histograms]
    counts = [int(histogram.sum()) for histogram in histograms]
    entropy, corrected = (
        sum(math.log2(part[name]) * n for part, n in zip(parts, counts, strict=True)) / sum(counts)
        for name in ("perplexity", "perplexity_corrected")
    )
    active = int(sum(part["active_codes"] for part in parts))
    return _usage(active, sum(size for _, size in streams), entropy, corrected), torch.cat(histograms)


def _usage(active: int, n_codes: int, entropy: float, corrected: float) -> dict[str, float]:
    return {
        "active_codes": float(active),
        "active_fraction": active / n_codes,
        "entropy_bits_per_token": entropy,
        "perplexity": 2.0**entropy,
        "perplexity_corrected": 2.0**corrected,
    }


def rate_of_streams(train: Sequence[tuple[Tensor, int]], test: Sequence[tuple[Tensor, int]]) -> dict[str, float]:
    """``rate_unigram_bits_per_image`` and ``rate_position_bits_per_image``: means over test images of ``rate``, summed
    over streams of one alphabet each (``Codec.streams``).
    """
    total: dict[str, float] = {}
    for (train_codes, size), (test_codes, _) in zip(train, test, strict=True):
        for kind, bits in rate(train_codes, test_codes, size).items():
            name = f"rate_{kind}_bits_per_image"
            total[name] = total.get(name, 0.0) + float(bits.mean())
    return total


def rate(codes_train: Tensor, codes_test: Tensor, n_codes: int) -> dict[str, Tensor]:
    """Bits (M,) of test codes (M, h, w) under two entropy codes fitted on training codes (N, h, w), all in [0, K).

    Both count training codes plus one each (Laplace's rule), so no test code costs infinitely many bits: ``unigram``
    has one distribution for all positions, ``position`` one for each.

    Raises:
        InputError: no codes, codes outside [0, n_codes), or grids of different sizes.
    """
    check_codes(codes_train, n_codes)
    check_codes(codes_test, n_codes)
    if codes_train.shape[1:] != codes_test.shape[1:]:
        shapes = f"{tuple(codes_train.shape)} and {tuple(codes_test.shape)}"
        raise InputError(f"codes of shape {shapes}: grids must be equal")
    train, test = codes_train.flatten(1).cpu(), codes_test.flatten(1).cpu()  # (N, h·w), (M, h·w)
    n_positions = test.shape[1]
    counts = torch.stack([torch.bincount(train[:, position], minlength=n_codes) for position in range(n_positions)])
    position_bits = _code_lengths(counts)  # (h·w, K)
    unigram_bits = _code_lengths(counts.sum(0))  # (K,)
    per_image = {"unigram": torch.zeros(len(test)).double(), "position": torch.zeros(len(test)).double()}
    for position in range(n_positions):
        per_image["unigram"] += unigram_bits[test[:, position]]
        per_image["position"] += position_bits[position, test[:, position]]
    return per_image


def latent_distortion(tokens: Tensor, quantized: Tensor) -> Tensor:
    """Squared Euclidean distance (T,), in latent units, of tokens (T, d) and what their codes stand for (T, d).

    Raises:
        InputError: shapes that do not fit together.
    """
    _check_quantized(tokens, quantized)
    return (tokens.float().cpu() - quantized.float().cpu()).square().sum(1)


def metric_distortion(tokens: Tensor, quantized: Tensor, metric_tensors: Tensor) -> Tensor:
    """Decoded error (T,) of quantization to first order, squared pixel error summed over the image: ``eᵀGe`` with e the
    token (T, d) less what its code stands for (T, d), G its metric tensor, packed (T, d(d+1)/2).

    Raises:
        InputError: shapes that do not fit together.
    """
    _check_quantized(tokens, quantized)
    if len(metric_tensors) != len(tokens):
        raise InputError(f"{len(metric_tensors)} metric tensors for {len(tokens)} tokens: each token needs its own")
    parts = []
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        part = slice(start, start + _CHUNK_TOKENS)
        delta = tokens[part].float().cpu() - quantized[part].float().cpu()
        parts.append(quadratic_form(metric_tensors[part].cpu(), delta))
    return torch.cat(parts)


def decoded_distortion(decoded_mean: Tensor, decoded_codes: Tensor) -> Tensor:
    """Pixel error that quantization alone causes: MSE (N,) of D(μ) and D(q), both (N, C, H, W) in [0, 1].

    Times C·H·W it is in the unit of ``metric_distortion`` summed over the tokens of an image.
    """
    if decoded_mean.shape != decoded_codes.shape or len(decoded_mean) == 0:
        raise InputError(f"images of shape {tuple(decoded_mean.shape)} and {tuple(decoded_codes.shape)} must be equal")
    size = 12 * decoded_mean[0].numel()
    return in_chunks(lambda a, b: (a - b).square().flatten(1).mean(1), decoded_mean, decoded_codes, size)


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
        shapes = f"tokens {tuple(tokens.shape)} and codewords {tuple(codewords.shape)}"
        raise InputError(f"{shapes} must be (T, d) and (K, d)")
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


_bits = partial(Score, unit="bits/image", better=LOWER, form=".1f")


@evaluator(
    Score("active_codes", "codes in use", "codes", HIGHER, ".0f", "at least once by test tokens", True, CODEBOOK),
    Score("active_fraction", "codes in use", "share", HIGHER, ".3f", "of K"),
    Score("entropy_bits_per_token", "entropy", "bits/token", NEITHER, ".2f", "−Σ p log₂ p of the shares of codes"),
    Score("perplexity", "perplexity", "codes", HIGHER, ".1f", "2 to the entropy; low for few tokens", True, CODEBOOK),
    Score("perplexity_corrected", "perplexity, corrected", "codes", HIGHER, ".1f", "without that (Grassberger 2003)"),
    _bits("rate_nominal_bits_per_image", "nominal rate", description="log₂ of the number of codes", group=RATE),
)
def use_of_codes(run: EvaluatedRun) -> Measured:
    """How evenly test tokens use the codes; slots of a token count together where they have few enough values"""
    values, _ = usage_of_streams(run.codec.streams(run.codes))
    return Measured(values | {"rate_nominal_bits_per_image": run.codec.nominal_bits})


@evaluator(
    _bits("rate_unigram_bits_per_image", "unigram rate", description="one distribution for all", group=RATE),
    _bits("rate_position_bits_per_image", "position rate", description="one distribution per position"),
    needs=[needs.training_codes],
)
def counted_rates(run: EvaluatedRun) -> Measured:
    """Code lengths by counts of training codes plus one"""
    training, test = (run.codec.streams(run.codes_of(split)) for split in ("train", "test"))
    return Measured(rate_of_streams(training, test))


@evaluator(
    _bits("rate_prior_bits_per_image", "prior rate", description="class unknown; of prior=masked a bound", group=RATE),
    _bits("rate_prior_bits_per_image_given_class", "prior rate, class known", group=RATE),
    needs=[needs.prior],
)
def prior_rates(run: EvaluatedRun) -> Measured:
    """Code lengths under the prior"""
    assert run.prior is not None
    omitted = {
        "rate_prior_bits_per_image": "transformer.class_dropout=0: the prior never saw codes without their class",
        "rate_prior_bits_per_image_given_class": "the prior is not class-conditional",
    }
    bits = {name: run.prior[name.replace("rate_prior", "test")] for name in omitted}
    return Measured({name: value for name, value in bits.items() if value is not None}, omitted=omitted)


@evaluator(
    Score(
        *("encoding_milliseconds_per_image", "encoding", "ms/image", LOWER, ".2f", "test images, on that machine"),
        group=CODEBOOK,
    ),
    Score("search_gain_db", "gain of search", "dB", HIGHER, ".2f", "PSNR over the codes that each image started from"),
    Score("search_decodings_per_image", "decodings", "", LOWER, ".1f", "passes of the decoder, a backward one as two"),
)
def encoding(run: EvaluatedRun) -> Measured:
    """What assigning the codes took, and what a search gained"""
    values = dict(run.encoding)
    values["encoding_milliseconds_per_image"] = values.pop("milliseconds_per_image")
    return Measured(values, omitted=dict.fromkeys(encoding.names(run), "assign is not search"))


@evaluator(
    Score("distortion_latent_l2_squared", "latent L2²", "latent²", LOWER, ".4g", "‖token − codeword‖²"),
    Score(
        *("distortion_pullback_pixel2", "pull-back distortion", "pixel²", LOWER, ".4g", "eᵀGe, probes of its own"),
        group=CODEBOOK,
    ),
    Score("distortion_decoded_mse", "decoded MSE", "pixel²", LOWER, ".4g", "of D(μ) and D(q), as `mse_quantization`"),
    needs=[needs.points],
)
def distortions(run: EvaluatedRun) -> Measured:
    """Distortions; the fourth is the geodesic one"""
    tokens, quantized = run.tokens, tokens_of(run.codec.embed(run.codes))
    values = {
        "distortion_latent_l2_squared": latent_distortion(tokens, quantized),
        "distortion_pullback_pixel2": metric_distortion(tokens, quantized, run.metric_tensors),
        "distortion_decoded_mse": decoded_distortion(run.unquantized, run.quantized),
    }
    return Measured({name: float(each.double().mean()) for name, each in values.items()})
