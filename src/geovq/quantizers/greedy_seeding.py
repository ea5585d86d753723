"""First codewords of k-means: greedy k-means++ on a sample of the distinct tokens (Arthur, Vassilvitskii 2007)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geovq.progress import progress
from geovq.quantizers.seeding import draw_in_proportion

# Distinct tokens that seeds are drawn from: at least so many, and so many per codeword.
_SAMPLE = 20_000
_SAMPLE_PER_CODE = 32


def seeding_sample(n_distinct: int, n_codes: int, rng: np.random.Generator) -> np.ndarray:
    """Ascending places of the distinct tokens that seeds are drawn from: all, or at least 32 per codeword."""
    size = min(n_distinct, max(_SAMPLE, _SAMPLE_PER_CODE * n_codes))
    return np.sort(rng.choice(n_distinct, size, replace=False))


def greedy_seeds(
    costs_to: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, n_codes: int, rng: np.random.Generator
) -> np.ndarray:
    """``(K,)`` places in the sample that are the first codewords.

    Each is the best of ``2 + ln K`` drawn in proportion to ``count·(cost with the seeds before)``.

    Args:
        costs_to: gives ``(t, M)`` float32 costs of coding each of M sampled tokens by each of ``(t,)`` others.
        counts: ``(M,)`` duplicates of each.
        n_codes: K, at most M.
        rng: of the draws, which depend on the tokens only through the costs.
    """
    size, weights = len(counts), counts.astype(np.float32)
    n_trials = 2 + int(np.log(n_codes))
    chosen = [int(rng.choice(size, p=counts / counts.sum()))]
    cost = costs_to(np.array(chosen))[0]
    with progress("seeding", total=n_codes) as advance:
        advance()
        while len(chosen) < n_codes:
            chances = np.maximum(weights * cost, np.finfo(np.float32).tiny)
            chances[chosen] = 0.0
            trials = draw_in_proportion(chances, min(n_trials, size - len(chosen)), rng)
            each = np.minimum(costs_to(trials), cost)
            best = int((each @ weights).argmin())
            chosen.append(int(trials[best]))
            cost = each[best]
            advance()
    return np.array(chosen)
