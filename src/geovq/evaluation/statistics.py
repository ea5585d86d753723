"""Intervals for means and for paired differences, by the bootstrap.

Percentile bootstrap of Efron and Tibshirani (1993, chapter 13) over images. Values of several seeds on the
same images form a table with two crossed factors: rows and columns are then resampled independently, the
"pigeonhole bootstrap" of Owen (2007). A bootstrap of a few rows is too narrow: its variance is (S − 1)/S of the
unbiased one and its percentiles are those of a normal distribution. So deviations from the mean are stretched to what a
t interval over S rows would be, the idea of the expanded percentile interval of Hesterberg (2015): by 2.69 for three
seeds, 1.22 for ten.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geovq.errors import InputError

_CHUNK_BYTES = 100 * 2**20


class Interval(NamedTuple):
    """A mean and the interval that covers it at the stated level (0.95 unless told)."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a − b with its interval, and the two-sided share of resamplings on the other side of zero."""

    mean: float
    low: float
    high: float
    p_value: float


def mean_and_standard_error(values: Tensor) -> tuple[float, float]:
    """Mean of (N,) independent values and its standard error s/√N; the error of a single value is NaN."""
    table = _table(values)
    if len(table) > 1:
        raise InputError(f"values of shape {tuple(values.shape)}: a standard error needs independent ones, (N,)")
    error = float(table.std(unbiased=True)) / table.numel() ** 0.5 if table.numel() > 1 else math.nan
    return float(table.mean()), error


def bootstrap_means(values: Tensor, n: int = 1000, seed: int = 0) -> Tensor:
    """Means of ``n`` resamplings.

    Args:
        values: (N,) per image, or (S, N) for S seeds on the same N images.
        n: number of resamplings.
        seed: of the generator; equal seeds draw the same images, whatever the values.

    Returns:
        (n,) float64.

    Raises:
        InputError: values that are empty or not finite, or n below 1.
    """
    if n < 1:
        raise InputError(f"n={n} resamplings: give at least 1")
    table = _table(values)
    n_rows, n_columns = table.shape
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, _CHUNK_BYTES // (8 * (3 * n_columns + 2 * n_rows)))
    means = []
    for start in range(0, n, chunk):
        draws = min(chunk, n - start)
        if n_rows == 1:
            rows = table.expand(draws, n_columns)
        else:
            chosen = torch.randint(n_rows, (draws, n_rows), generator=generator)
            weights = torch.zeros(draws, n_rows, dtype=table.dtype)
            weights.scatter_add_(1, chosen, torch.ones_like(weights))
            rows = weights @ table / n_rows  # (draws, N): mean over the drawn seeds
        columns = torch.randint(n_columns, (draws, n_columns), generator=generator)
        means.append(rows.gather(1, columns).mean(1))
    return torch.cat(means)


def bootstrap_mean(values: Tensor, n: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean with its percentile interval, stretched for few seeds.

    Args:
        values: (N,) per image, or (S, N) for S seeds on the same N images.
        n: number of resamplings.
        seed: of the resampling.
        level: share of resampled means inside the interval.
    """
    mean, means = _stretched_means(values, n, seed, level)
    return Interval(mean, *_percentiles(means, level))


def paired_bootstrap(a: Tensor, b: Tensor, n: int = 1000, seed: int = 0, level: float = 0.95) -> PairedDifference:
    """Difference of two methods measured on the same images.

    Args:
        a: (N,) values of the first method, or (S, N).
        b: the same shape, for the same images (and seeds) in the same order.
        n: number of resamplings.
        seed: of the resampling.
        level: of the interval.

    Returns:
        The mean of a − b, its interval, and ``p_value`` = 2·(min(#{means ≤ 0}, #{means ≥ 0}) + 1) over n + 1,
        at most 1: how often resampling turns the sign, counted on both sides.

    Raises:
        InputError: the shapes differ.
    """
    if a.shape != b.shape:
        raise InputError(f"paired values of shape {tuple(a.shape)} and {tuple(b.shape)}: both need the same images")
    difference = a.double().cpu() - b.double().cpu()
    centre, means = _stretched_means(difference, n, seed, level)
    low, high = _percentiles(means, level)
    crossings = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return PairedDifference(centre, low, high, min(1.0, 2 * (crossings + 1) / (n + 1)))


def stretch(n_rows: int, level: float = 0.95) -> float:
    """What widens a normal bootstrap interval over ``n_rows`` to a t interval; 1 for a single row."""
    if n_rows == 1:
        return 1.0
    from scipy import stats

    tail = (1 + level) / 2
    return float(stats.t.ppf(tail, n_rows - 1) / stats.norm.ppf(tail)) * math.sqrt(n_rows / (n_rows - 1))


def _stretched_means(values: Tensor, n: int, seed: int, level: float) -> tuple[float, Tensor]:
    """The mean, and the resampled means (n,) with their deviations from it stretched for the number of seeds."""
    table = _table(values)
    centre = table.mean()
    return float(centre), centre + stretch(len(table), level) * (bootstrap_means(values, n, seed) - centre)


def _percentiles(means: Tensor, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"level={level}: give the share of an interval, between 0 and 1")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)
    low, high = torch.quantile(means, tails).tolist()
    return low, high


def _table(values: Tensor) -> Tensor:
    """Values as (S, N) float64 on the CPU."""
    table = values.detach().double().cpu()
    if table.ndim not in (1, 2) or table.numel() == 0 or not bool(table.isfinite().all()):
        raise InputError(f"values of shape {tuple(values.shape)}: give finite numbers, (N,) or (S, N), with N > 0")
    return table.reshape(-1, table.shape[-1])
