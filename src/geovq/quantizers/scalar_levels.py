"""Best levels of single numbers, and how to share codes between axes: both exact, by dynamic programming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

# Groups of equal size that the sorted values are collected in before levels are chosen.
_BINS = 2048
# Relative gain that an additional level has to bring to be worth having.
_SMALLEST_GAIN = 1e-9


class Levels(NamedTuple):
    """Best levels of one axis for every number of them up to a limit."""

    distortions: np.ndarray
    """``(L,)`` float64 ``Σ w(y − level)²`` with 1, 2, …, L levels; never rising."""
    ends: np.ndarray
    """``(L, n + 1)`` int32: with ``l + 1`` groups over the first ``j`` bins, where the last group begins."""
    sums: np.ndarray
    """``(3, n + 1)`` float64 ``Σw``, ``Σwy`` and ``Σwy²`` of the first bins."""

    def values(self, n_levels: int) -> np.ndarray:
        """``(n_levels,)`` float64 levels, ascending; some stand twice where fewer values differ."""
        end = self.sums.shape[1] - 1
        levels = np.empty(n_levels)
        for level in range(n_levels - 1, -1, -1):
            begin = int(self.ends[level, end])
            weight, moment = (self.sums[:2, end] - self.sums[:2, begin]).tolist()
            # A group without tokens takes the level above it; the top one always has some.
            levels[level] = moment / weight if weight > 0 else levels[min(level + 1, n_levels - 1)]
            end = begin
        return levels


def best_levels(values: np.ndarray, weights: np.ndarray | None, most: int) -> Levels:
    """Levels of smallest ``Σ w(y − level)²``: the optimum that Lloyd's and Max's conditions only approach.

    One-dimensional k-means is solved exactly by dynamic programming over the sorted values (Wang, Song 2011), in
    ``O(n log n)`` per level since the best split moves monotonely. Values are first collected in ``n ≤ 2048`` groups of
    equal size, between which the levels' borders lie.

    Args:
        values: ``(N,)``.
        weights: ``(N,)`` not negative; all 1 by default.
        most: largest number of levels.
    """
    order = np.argsort(values, kind="stable")
    y = values[order].astype(np.float64)
    w = np.ones(len(y)) if weights is None else weights[order].astype(np.float64)
    bounds = np.unique(np.linspace(0, len(y), 1 + min(_BINS, len(y))).astype(np.int64))
    sums = np.stack([np.concatenate(([0.0], np.cumsum(part)))[bounds] for part in (w, w * y, w * y * y)])
    distortions, ends = _split(sums, most)
    return Levels(np.minimum.accumulate(distortions), ends, sums)


@njit(cache=True)
def _split(sums, most):  # type: ignore[no-untyped-def]
    n = sums.shape[1] - 1
    ends = np.zeros((most, n + 1), np.int32)
    before, best = np.empty(n + 1), np.empty(n + 1)
    distortions = np.empty(most)
    for j in range(n + 1):
        before[j] = _scatter_of(sums, 0, j)
    distortions[0] = before[n]
    largest = 1
    while largest <= n:
        largest *= 2
    for level in range(1, most):
        best[0] = 0.0
        step = largest
        while step >= 1:  # halves: the neighbours' splits bound that of the one between them
            for j in range(step, n + 1, 2 * step):
                low = ends[level, j - step]
                high = ends[level, j + step] if j + step <= n else j
                best[j] = np.inf
                for i in range(low, min(high, j) + 1):
                    cost = before[i] + _scatter_of(sums, i, j)
                    if cost < best[j]:
                        best[j] = cost
                        ends[level, j] = i
            step //= 2
        before[:] = best
        distortions[level] = best[n]
    return distortions, ends


@njit(cache=True, inline="always")
def _scatter_of(sums, i, j):  # type: ignore[no-untyped-def]
    weight = sums[0, j] - sums[0, i]
    if weight <= 0.0:
        return 0.0
    moment = sums[1, j] - sums[1, i]
    return max(sums[2, j] - sums[2, i] - moment * moment / weight, 0.0)


def share_levels(distortions: Sequence[np.ndarray], n_codes: int) -> np.ndarray:
    """How many levels each axis gets, ``(d,)`` int64: product at most ``n_codes``, smallest sum of distortions.

    Adding levels one by one where they gain most is the usual way and not optimal under a bound on a product. Here the
    optimum comes from ``D_j(P) = min_L D_{j−1}(⌊P/L⌋) + distortion_j(L)``, axis after axis; only the ``2√K`` values
    that ``⌊K/x⌋`` takes occur as ``P``. Of equal splits the one with fewer levels is taken.

    Args:
        distortions: per axis those with 1, 2, … levels.
        n_codes: K.
    """
    limits = np.unique(n_codes // np.arange(1, n_codes + 1))
    place = np.searchsorted(limits, np.arange(n_codes + 1))
    best = np.zeros(len(limits))
    least = _SMALLEST_GAIN * sum(float(each[0]) for each in distortions)
    taken = []
    for each in distortions:
        total, choice = np.full(len(limits), np.inf), np.ones(len(limits), np.int64)
        for n_levels in range(1, min(len(each), n_codes) + 1):
            fits = np.flatnonzero(limits >= n_levels)
            candidate = best[place[limits[fits] // n_levels]] + each[n_levels - 1]
            better = candidate < total[fits] - least
            total[fits[better]], choice[fits[better]] = candidate[better], n_levels
        best = total
        taken.append(choice)
    levels = np.ones(len(distortions), np.int64)
    left = n_codes
    for axis in range(len(distortions) - 1, -1, -1):
        levels[axis] = taken[axis][place[left]]
        left //= int(levels[axis])
    return levels
