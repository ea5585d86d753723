"""First codewords by greedy k-means++ (Arthur, Vassilvitskii 2007), and Lloyd's passes (1982), for any cost.

A pass assigns every token, then moves every codeword. Both halves lower the sum of costs or leave it, so its history
never rises. A codeword without tokens moves to a token that is badly served, which cannot raise the cost either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from geovq.geometry.neighbors import distinct
from geovq.progress import progress
from geovq.quantizers.base import Progress, check_n_codes
from geovq.quantizers.seeding import draw_in_proportion

# Relative gain of a pass below which further passes are not worth their time.
_SMALLEST_GAIN = 1e-5
# Of the passes of a distortion that can look at few codes, those that look at all.
_WHOLE_EVERY = 5
# Distinct tokens that seeds are drawn from: at least so many, and so many per codeword.
_SAMPLE = 20_000
_SAMPLE_PER_CODE = 32
# Codes above which the trials of several seeds are drawn together, and of how many: one product for all of them takes a
# tenth of the time, and a few seeds change the chances little.
_MANY_CODES, _SEEDS_TOGETHER = 2_048, 16


class Distortion(ABC):
    """A cost of coding tokens; its codebook is ``(K, d)`` float32 codewords unless it says otherwise."""

    points: np.ndarray
    """``(N, d)`` float32 tokens, in the coordinates of the codewords."""

    @abstractmethod
    def assign(self, codebook: Any) -> tuple[np.ndarray, np.ndarray]:
        """The cheapest code of every token ``(N,)`` int64, and what it costs ``(N,)`` float32.

        The costs must keep their digits where tokens lie far apart: their sum is the history, and the inertia.
        """

    def reassign(self, codebook: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """What ``assign`` gives, but of the few codes that were each token's cheapest when it was last asked.

        None where that would save nothing.
        """
        return None

    @abstractmethod
    def best(self, codebook: Any, codes: np.ndarray) -> Any:
        """A new codebook that costs least for these codes, or no more; what has no tokens may stay."""

    def unused(self, codebook: Any, codes: np.ndarray) -> Any:
        """Which codes no token has, an array of them."""
        return np.flatnonzero(np.bincount(codes, minlength=len(codebook)) == 0)

    def moved(self, codebook: Any, codes: np.ndarray, costs: np.ndarray) -> Any:
        """The best codebook, and codewords without tokens on distinct tokens among those that cost most."""
        codewords, unused = self.best(codebook, codes), self.unused(codebook, codes)
        if len(unused):
            costliest = np.argsort(-costs, kind="stable")[: 64 * len(unused)]
            places, _, _ = distinct(self.points[costliest])
            placed = min(len(unused), len(places))
            codewords[unused[:placed]] = places[:placed]
        return codewords


class Fitted(NamedTuple):
    """The end of Lloyd's passes."""

    codebook: Any
    """``(K, d)`` float32, or what the distortion has for it."""
    codes: np.ndarray
    """``(N,)`` int64."""
    history: np.ndarray
    """Cost after seeding and after every pass, float64, never rising."""


def lloyd(
    distortion: Distortion,
    codebook: Any,
    max_iter: int,
    on_progress: Progress | None = None,
    description: str = "k-means",
) -> Fitted:
    """Alternate until ``max_iter``, or until a pass gains less than 10⁻⁵ of the cost and no code is unused.

    Where the distortion can ``reassign``, every fifth pass and the last look at all codes, the others at few.

    Args:
        distortion: the cost.
        codebook: to start from.
        max_iter: passes at most.
        on_progress: called after seeding and after every pass.
        description: of the progress bar.
    """
    codes, costs = distortion.assign(codebook)
    history = [float(costs.sum(dtype=np.float64))]
    if on_progress is not None:
        on_progress(0, history[0])
    settled = False
    with progress(description, total=max_iter) as advance:
        for step in range(1, max_iter + 1):
            moved = distortion.moved(codebook, codes, costs)
            whole = settled or step == max_iter or step % _WHOLE_EVERY == 0
            few = None if whole else distortion.reassign(moved)
            new_codes, new_costs = few or distortion.assign(moved)
            cost = float(new_costs.sum(dtype=np.float64))
            rose = cost > history[-1]  # by rounding, or by a search that missed what it found before
            if not rose:
                codebook, codes, costs = moved, new_codes, new_costs
                history.append(cost)
                if on_progress is not None:
                    on_progress(step, cost)
            advance()
            gained = not rose and history[-2] - cost > _SMALLEST_GAIN * history[-2]
            settled = rose or not (gained or len(distortion.unused(codebook, codes)))
            if settled and few is None:
                break
    return Fitted(codebook, codes, np.array(history))


def greedy_seeds(
    points: np.ndarray,
    n_codes: int,
    random_state: int,
    costs_among: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
) -> np.ndarray:
    """``(K, d)`` distinct points that are the first codewords; duplicates count by their number.

    Each is the best of ``2 + ln K`` drawn in proportion to ``count·(cost with the seeds before)``, from all distinct
    points or a sample of them, at least 32 per codeword. Of more than 2,048 the trials of 16 seeds are drawn together,
    in proportion to the cost before the first of these.

    Args:
        points: ``(N, d)`` float32.
        n_codes: K.
        random_state: of sample and draws, which depend on the points only through the costs.
        costs_among: for M sampled points ``(M, d)`` and the rows ``(M,)`` in which they occur first, the function from
            places ``(t,)`` among them to the ``(t, M)`` float32 costs of coding each by each of those.

    Raises:
        InputError: K is below 1 or above the number of distinct points.
    """
    unique, inverse, counts = distinct(points)
    check_n_codes(n_codes, len(unique), len(points))
    rng = np.random.default_rng(random_state)
    size = min(len(unique), max(_SAMPLE, _SAMPLE_PER_CODE * n_codes))
    sample = np.sort(rng.choice(len(unique), size, replace=False))
    # Distinct points are numbered in the order of their first occurrence.
    rows = np.flatnonzero(np.diff(np.maximum.accumulate(inverse), prepend=-1))[sample]
    costs_to, counts = costs_among(unique[sample], rows), counts[sample]
    weights = counts.astype(np.float32)
    n_trials = 2 + int(np.log(n_codes))
    chosen = [int(rng.choice(size, p=counts / counts.sum()))]
    cost = costs_to(np.array(chosen))[0]
    with progress("seeding", total=n_codes) as advance:
        advance()
        while len(chosen) < n_codes:
            together = min(_SEEDS_TOGETHER, n_codes - len(chosen)) if n_codes > _MANY_CODES else 1
            chances = np.maximum(weights * cost, np.finfo(np.float32).tiny)
            chances[chosen] = 0.0
            drawn = draw_in_proportion(chances, min(together * n_trials, size - len(chosen)), rng)
            costs = costs_to(drawn)
            for first in range(0, len(drawn), n_trials):
                each = np.minimum(costs[first : first + n_trials], cost)
                best = int((each @ weights).argmin())
                chosen.append(int(drawn[first + best]))
                cost = each[best]
                advance()
    return unique[sample[chosen]]
