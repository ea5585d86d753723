"""Lloyd's passes (1982) for any cost that is a sum over tokens: assign every token, then move every codeword.

Both halves lower the cost or leave it, so its history never rises. A codeword without tokens moves to a token that
is badly served, which cannot raise the cost either.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from geovq.geometry.neighbors import distinct
from geovq.progress import progress
from geovq.quantizers.base import Progress

# Relative gain of a pass below which further passes are not worth their time.
_SMALLEST_GAIN = 1e-5


class Totals(Protocol):
    """What the best codewords of cells depend on, in float64."""

    @property
    def counts(self) -> np.ndarray:
        """``(K,)`` tokens of each code."""
        ...

    def best(self, codewords: np.ndarray) -> np.ndarray:
        """Codewords ``(K, d)`` float32 that cost least for these cells; those of empty cells stay."""
        ...


class Distortion(Protocol):
    """A cost of coding tokens."""

    points: np.ndarray
    """``(N, d)`` float32 tokens, in the coordinates of the codewords."""

    def assign(self, codewords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cheapest code of every token ``(N,)`` int64, and what it costs ``(N,)`` float32.

        The costs must keep their digits where tokens lie far apart: their sum is the history, and the inertia.
        """
        ...

    def totals(self, codes: np.ndarray, n_codes: int) -> Totals:
        """Totals of the cells that ``codes`` make."""
        ...


class Fitted(NamedTuple):
    """The end of Lloyd's passes."""

    codewords: np.ndarray
    """``(K, d)`` float32."""
    codes: np.ndarray
    """``(N,)`` int64."""
    history: np.ndarray
    """Cost after seeding and after every pass, float64, never rising."""


def lloyd(
    distortion: Distortion,
    codewords: np.ndarray,
    max_iter: int,
    on_progress: Progress | None = None,
    description: str = "k-means",
) -> Fitted:
    """Alternate until ``max_iter``, or until a pass gains less than 10⁻⁵ of the cost and no code is unused.

    Args:
        distortion: the cost.
        codewords: ``(K, d)`` float32 to start from.
        max_iter: passes at most.
        on_progress: called after seeding and after every pass.
        description: of the progress bar.
    """
    n_codes = len(codewords)
    codes, costs = distortion.assign(codewords)
    totals = distortion.totals(codes, n_codes)
    history = [float(costs.sum(dtype=np.float64))]
    if on_progress is not None:
        on_progress(0, history[0])
    with progress(description, total=max_iter) as advance:
        for step in range(1, max_iter + 1):
            empty = totals.counts == 0
            moved = totals.best(codewords)
            _restart(moved, empty, distortion.points, costs)
            new_codes, new_costs = distortion.assign(moved)
            cost = float(new_costs.sum(dtype=np.float64))
            if cost > history[-1]:  # by rounding alone: the end is reached
                break
            codewords, codes, costs = moved, new_codes, new_costs
            totals = distortion.totals(codes, n_codes)
            history.append(cost)
            if on_progress is not None:
                on_progress(step, cost)
            advance()
            if history[-2] - cost <= _SMALLEST_GAIN * history[-2] and not (totals.counts == 0).any():
                break
    return Fitted(codewords, codes, np.array(history))


def _restart(codewords: np.ndarray, empty: np.ndarray, points: np.ndarray, costs: np.ndarray) -> None:
    """Put codewords without tokens, in place, on distinct tokens among those that cost most."""
    unused = np.flatnonzero(empty)
    if len(unused):
        costliest = np.argsort(-costs, kind="stable")[: 64 * len(unused)]
        places, _, _ = distinct(points[costliest])
        placed = min(len(unused), len(places))
        codewords[unused[:placed]] = places[:placed]
