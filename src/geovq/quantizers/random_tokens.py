"""A codebook of random tokens: what a codebook is worth that nobody fitted."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from geovq.configuration.fields import Seed
from geovq.geometry.checks import Array
from geovq.geometry.graph import TokenGraph
from geovq.geometry.neighbors import distinct
from geovq.quantizers.base import CodebookEstimator, Progress, check_at_least, check_n_codes
from geovq.quantizers.euclidean import nearest_in_coordinates
from geovq.quantizers.nearest import squared_distances
from geovq.quantizers.seeding import draw_in_proportion


class RandomTokens(CodebookEstimator):
    """``n_codes`` distinct tokens drawn at random, each with the chances of its number of duplicates.

    ``inertia_`` is the sum of squared latent distances; ``n_iter_`` is 0.

    Args:
        n_codes: K.
        random_state: of the draw; the same number gives the same codebook.
        device: where tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = "nearest codeword in latent L2"

    def __init__(self, n_codes: int = 8, *, random_state: Seed = 0, device: str | None = None) -> None:
        self.n_codes = n_codes
        self.random_state = random_state
        self.device = device

    def fit(
        self,
        tokens: Array,
        y: object = None,
        *,
        metrics: Array | None = None,
        graph: TokenGraph | None = None,
        on_progress: Progress | None = None,
    ) -> Self:
        """Draw from ``(N, d)`` tokens; ``y``, ``metrics`` and ``graph`` are not used.

        Raises:
            InputError: NaN, or more codewords than distinct tokens.
        """
        points = self._check_tokens(tokens, fitting=True)
        check_at_least(self.n_codes, 1, "n_codes")
        unique, _, counts = distinct(points)
        check_n_codes(self.n_codes, len(unique), len(points))
        rng = np.random.default_rng(self.random_state)
        codewords = unique[draw_in_proportion(counts.astype(np.float64), self.n_codes, rng)]
        labels = nearest_in_coordinates(points, codewords, device=self.device)
        cost = float(squared_distances(points, codewords, labels).sum(dtype=np.float64))
        if on_progress is not None:
            on_progress(0, cost)
        self._finish(cluster_centers_=codewords, labels_=labels, cost_history_=np.array([cost]))
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of the nearest codewords; ``metrics`` are not used.

        Raises:
            InputError: not fitted, NaN, or another dimension than the codewords'.
        """
        return nearest_in_coordinates(self._check_tokens(tokens), self.cluster_centers_, device=self.device)
