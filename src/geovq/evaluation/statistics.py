"""Intervals for means and for paired differences: over images by the bootstrap, over seeds and images by components.

One seed: percentile bootstrap of Efron and Tibshirani (1993, chapter 13) over images.

Several seeds on the same images are two crossed random factors, d[s, i] = μ + seed[s] + image[i] + rest[s, i]. The
grand mean over S seeds and N images has the variance B + W with

    B = variance of the seeds' means / S           what seeds change, in all images or in each; S − 1 degrees of freedom
    W = covariance of two seeds over images / N    what is the images' own, mean over pairs of seeds; N − 1 of them

(Obuchowski and Rockette 1995; Hillis 2014, Statistics in Medicine 33:330, as mean squares). Images are thousands and
seeds a few, so B alone calls for the quantiles of t. The interval is mean ± t(ν)·√(B + W), with the degrees of freedom
of Satterthwaite (1946), as in Hillis (2007, Statistics in Medicine 26:596):

    ν = (kB + W)² / ((kB)²/(S − 1) + W²/(N − 1)).

Theirs has k = 1. With two or three seeds that covers too seldom, 87 % instead of 95 % for S = 2, B = 10 W: seeds that
agree by chance give a small B *and* many degrees of freedom. So the degrees of freedom, and they alone, take B at its
upper 70 % confidence limit: k = (S − 1)/χ²(0.3; S − 1), which is 6.7 for two seeds, 2.8 for three, 1.4 for ten.
Whatever the ratio of B to W, 95 % intervals then cover in 93.3 to 96.9 % of experiments for S = 2, 94.6 to 96.0 % for
S = 3, 94.9 to 95.4 % from S = 5 on; docs/metrics.md has widths and what was rejected.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geovq.errors import InputError

_CHUNK_BYTES = 100 * 2**20
_UPPER_LIMIT = 0.7
"""Confidence of the limit at which the degrees of freedom take the part of the seeds."""


class Interval(NamedTuple):
    """A mean and the interval that covers it at the stated level (0.95 unless told)."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a − b with its interval and two-sided p-value, and the standard errors that add up, squared, to its own:
    what seeds change (None for one seed), and what the images do.
    """

    mean: float
    low: float
    high: float
    p_value: float
    seed_error: float | None
    image_error: float


def mean_and_standard_error(values: Tensor) -> tuple[float, float]:
    """Mean of (N,) independent values and its standard error s/√N; the error of a single value is NaN."""
    table = _finite(values, 1)
    error = float(table.std(unbiased=True)) / table.numel() ** 0.5 if table.numel() > 1 else math.nan
    return float(table.mean()), error


def bootstrap_means(values: Tensor, n: int = 1000, seed: int = 0) -> Tensor:
    """Means of ``n`` resamplings.

    Args:
        values: (N,) per image.
        n: number of resamplings.
        seed: of the generator; equal seeds draw the same images, whatever the values.

    Returns:
        (n,) float64.

    Raises:
        InputError: values that are empty or not finite, or n below 1.
    """
    if n < 1:
        raise InputError(f"n={n} resamplings: give at least 1")
    numbers = _finite(values, 1)
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, _CHUNK_BYTES // (8 * (3 * len(numbers) + 2)))
    means = []
    for start in range(0, n, chunk):
        chosen = torch.randint(len(numbers), (min(chunk, n - start), len(numbers)), generator=generator)
        means.append(numbers[chosen].mean(1))
    return torch.cat(means)


def bootstrap_mean(values: Tensor, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of values (N,) with the interval that holds the share ``level`` of ``bootstrap_means``."""
    return Interval(float(_finite(values, 1).mean()), *_percentiles(bootstrap_means(values, n, seed), level))


def paired_difference(a: Tensor, b: Tensor, n: int = 1000, seed: int = 0, level: float = 0.95) -> PairedDifference:
    """Difference of two methods measured on the same images.

    Args:
        a: (N,) values of the first method, or (S, N) of S seeds. Their mean is the score that is compared.
        b: the same shape, for the same images (and seeds) in the same order.
        n: number of resamplings; used for one seed only.
        seed: of the resampling.
        level: of the interval.

    Returns:
        For one seed the percentile interval over images, and as p-value 2·(min(#{means ≤ 0}, #{means ≥ 0}) + 1) over
        n + 1, at most 1: how often resampling turns the sign, counted on both sides. For several the interval over
        seeds and images (above), and the p-value at which it would end at zero.

    Raises:
        InputError: the shapes differ.
    """
    if a.shape != b.shape:
        raise InputError(f"paired values of shape {tuple(a.shape)} and {tuple(b.shape)}: both need the same images")
    _check_level(level)
    table = _finite(a.double() - b.double(), 2)
    mean = float(table.mean())
    if len(table) == 1:
        means = bootstrap_means(table[0], n, seed)
        crossings = min(int((means <= 0).sum()), int((means >= 0).sum()))
        p_value = min(1.0, 2 * (crossings + 1) / (n + 1))
        return PairedDifference(mean, *_percentiles(means, level), p_value, None, mean_and_standard_error(table[0])[1])
    from scipy import stats

    of_seeds, of_images = variance_components(table)
    freedom = float(degrees_of_freedom(of_seeds, of_images, *table.shape))
    error = math.sqrt(of_seeds + of_images)
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p_value = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return PairedDifference(mean, mean - half, mean + half, p_value, math.sqrt(of_seeds), math.sqrt(of_images))


def variance_components(table: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of the variance of the mean of (…, S, N) values, S > 1: B of the seeds and W of the images."""
    n_seeds, n_images = table.shape[-2:]
    of_seeds = table.mean(-1).var(-1) / n_seeds
    if n_images == 1:
        return of_seeds, torch.zeros_like(of_seeds)
    centred = table - table.mean(-1, keepdim=True)
    total, own = (
        centred.sum(-2).square().sum(-1),
        centred.square().sum((-2, -1)),
    )  # all pairs of seeds; each with itself
    covariance = (total - own) / (n_seeds * (n_seeds - 1) * (n_images - 1))
    return of_seeds, covariance.clamp(min=0) / n_images


def degrees_of_freedom(of_seeds: Tensor, of_images: Tensor, n_seeds: int, n_images: int) -> Tensor:
    """ν of the variance B + W of a mean over ``n_seeds`` and ``n_images``, by the formula above."""
    from scipy import stats

    upper = of_seeds * (n_seeds - 1) / float(stats.chi2.ppf(1 - _UPPER_LIMIT, n_seeds - 1))
    estimate = upper.square() / (n_seeds - 1) + of_images.square() / max(1, n_images - 1)
    return torch.where(estimate > 0, (upper + of_images).square() / estimate, n_seeds - 1.0)


def _percentiles(means: Tensor, level: float) -> tuple[float, float]:
    _check_level(level)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)
    low, high = torch.quantile(means, tails).tolist()
    return low, high


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level={level}: give the share of an interval, between 0 and 1")


def _finite(values: Tensor, n_dimensions: int) -> Tensor:
    """Values in float64 on the CPU; of 2 dimensions (S, N) where (N,) is one seed."""
    table = values.detach().double().cpu()
    if n_dimensions == 2 and table.ndim == 1:
        table = table[None]
    if table.ndim != n_dimensions or table.numel() == 0 or not bool(table.isfinite().all()):
        shape = "(N,)" if n_dimensions == 1 else "(N,) or (S, N)"
        raise InputError(f"values of shape {tuple(values.shape)}: give finite numbers, {shape}, with N > 0")
    return table


def jackknife_standard_error(without: Tensor) -> float:
    """Standard error of a statistic from its values (g,) without each of g groups of equal size.

    √((g−1)/g · Σ (θ₍ᵢ₎ − θ̄)²) (Efron, Tibshirani 1993, eq. 11.5), which has g − 1 degrees of freedom. Right for smooth
    functions of means; the bias that the statistic has at this number of observations is not in it.
    """
    g = len(without)
    return float(((g - 1) / g * (without - without.mean()).square().sum()).sqrt())
