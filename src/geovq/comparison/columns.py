"""The columns of the table: what a metric is called, its unit, which way is better, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geovq.comparison.runs import ComparedRun

HIGHER, LOWER, NEITHER = "↑", "↓", ""

OPTIONAL = ("psnr_validation", "search_gain_db", "encoding_milliseconds_per_image")
"""Metrics that older runs lack without a reason of their own; where no run has one, there is no column for it."""


@dataclass(frozen=True)
class Column:
    """How a metric is shown; ``unit`` is empty for numbers without one."""

    metric: str
    title: str
    unit: str
    better: str
    form: str


_KNOWN = {
    column.metric: column
    for column in (
        Column("psnr", "PSNR", "dB", HIGHER, ".2f"),
        Column("psnr_pooled", "pooled PSNR", "dB", HIGHER, ".2f"),
        Column("psnr_validation", "validation PSNR", "dB", HIGHER, ".2f"),
        Column("psnr_quantization", "PSNR to D(μ)", "dB", HIGHER, ".2f"),
        Column("search_gain_db", "gain of search", "dB", HIGHER, ".2f"),
        Column("mse", "MSE", "pixel²", LOWER, ".5f"),
        Column("ssim", "SSIM", "", HIGHER, ".4f"),
        Column("lpips", "LPIPS", "", LOWER, ".4f"),
        Column("perceptual", "perceptual", "", LOWER, ".4f"),
        Column("label_agreement", "labels kept", "share", HIGHER, ".3f"),
        Column("rate_nominal_bits_per_image", "nominal rate", "bits/image", LOWER, ".1f"),
        Column("rate_unigram_bits_per_image", "unigram rate", "bits/image", LOWER, ".1f"),
        Column("rate_position_bits_per_image", "position rate", "bits/image", LOWER, ".1f"),
        Column("rate_prior_bits_per_image", "prior rate", "bits/image", LOWER, ".1f"),
        Column("rate_prior_bits_per_image_given_class", "prior rate, class known", "bits/image", LOWER, ".1f"),
        Column("entropy_bits_per_token", "entropy", "bits/token", NEITHER, ".2f"),
        Column("perplexity", "perplexity", "codes", HIGHER, ".1f"),
        Column("perplexity_corrected", "perplexity, corrected", "codes", HIGHER, ".1f"),
        Column("active_codes", "codes in use", "codes", HIGHER, ".0f"),
        Column("active_fraction", "codes in use", "share", HIGHER, ".3f"),
        Column("distortion_latent_l2_squared", "latent L2²", "latent²", LOWER, ".4g"),
        Column("distortion_pullback_pixel2", "pull-back distortion", "pixel²", LOWER, ".4g"),
        Column("distortion_geodesic_pixel2", "geodesic distortion", "pixel²", LOWER, ".4g"),
        Column("distortion_decoded_mse", "decoded MSE", "pixel²", LOWER, ".4g"),
        Column("encoding_milliseconds_per_image", "encoding", "ms/image", LOWER, ".2f"),
        Column("fid", "FID (our network)", "", LOWER, ".3g"),
        Column("kid", "KID (our network)", "", LOWER, ".3g"),
        Column("precision", "precision", "", HIGHER, ".3f"),
        Column("recall", "recall", "", HIGHER, ".3f"),
        Column("sample_class_accuracy", "sample accuracy", "share", HIGHER, ".3f"),
    )
}


def column_of(metric: str) -> Column:
    """The column of a metric; one that is not listed here stands under its own name."""
    return _KNOWN.get(metric) or Column(metric, metric, "", NEITHER, ".5g")


def shown_metrics(metrics: Sequence[str], runs: Sequence[ComparedRun]) -> list[str]:
    """Without the optional ones that no run has."""
    return [name for name in metrics if name not in OPTIONAL or any(run.metric(name) is not None for run in runs)]
