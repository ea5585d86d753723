"""k-medoids in latent L2: the control that tells what restricting codewords to tokens costs without any geometry."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numba import njit

from geovq.configuration.fields import Count, Seed
from geovq.geometry.checks import Array
from geovq.geometry.graph import TokenGraph
from geovq.quantizers.base import CodebookEstimator, Progress, check_at_least
from geovq.quantizers.euclidean import EuclideanDistortion, EuclideanTotals, k_means, nearest_in_coordinates
from geovq.quantizers.lloyd import lloyd


class EuclideanKMedoids(CodebookEstimator):
    """Tokens that minimise the sum of squared latent distances: k-means, then the same passes with medoids.

    For squared distances the best medoid of a cell is exactly the member nearest to its mean, since
    ``Σ|z − m|² = Σ|z − z̄|² + n|m − z̄|²``. So each pass assigns every token and moves every medoid to the best place in
    its cell, at the price of a pass of k-means; the cost never rises. The passes start from the tokens nearest to the
    means of k-means. ``inertia_`` is the sum of squared latent distances.

    Args:
        n_codes: K.
        max_iter: passes at most, of k-means and again with medoids; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
        device: where tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = "nearest medoid in latent L2"

    def __init__(
        self, n_codes: int = 8, *, max_iter: Count = 25, random_state: Seed = 0, device: str | None = None
    ) -> None:
        self.n_codes = n_codes
        self.max_iter = max_iter
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
        """Fit to ``(N, d)`` tokens; ``y``, ``metrics`` and ``graph`` are not used.

        ``on_progress`` and ``cost_history_`` are about the passes with medoids.

        Raises:
            InputError: NaN, or more codewords than distinct tokens.
        """
        check_at_least(self.max_iter, 1, "max_iter")
        points = self._check_tokens(tokens, fitting=True)
        means, codes, _ = k_means(points, None, self.n_codes, self.max_iter, self.random_state, self.device)
        distortion = MedoidDistortion(points, self.device)
        start = distortion.totals(codes, self.n_codes).best(means)
        codewords, _, history = lloyd(distortion, start, self.max_iter, on_progress, "k-medoids")
        labels = nearest_in_coordinates(points, codewords, device=self.device)
        self._finish(cluster_centers_=codewords, labels_=labels, cost_history_=history)
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of the nearest medoids; ``metrics`` are not used.

        Raises:
            InputError: not fitted, NaN, or another dimension than the codewords'.
        """
        return nearest_in_coordinates(self._check_tokens(tokens), self.cluster_centers_, device=self.device)


class MedoidDistortion:
    """``|x − m|²`` where every ``m`` is one of the ``(N, d)`` points."""

    def __init__(self, points: np.ndarray, device: str | None = None) -> None:
        self.points = points
        self._distortion = EuclideanDistortion(points, device)

    def assign(self, codewords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest medoids and squared distances."""
        return self._distortion.assign(codewords)

    def totals(self, codes: np.ndarray, n_codes: int) -> MedoidTotals:
        """Sums of the cells, and who is in them."""
        return MedoidTotals(self._distortion.totals(codes, n_codes), self.points, codes)


class MedoidTotals:
    """The cells of medoids."""

    def __init__(self, totals: EuclideanTotals, points: np.ndarray, codes: np.ndarray) -> None:
        self.counts = totals.counts
        self._totals = totals
        self._points = points
        self._codes = codes

    def best(self, codewords: np.ndarray) -> np.ndarray:
        """The member nearest to each cell's mean; where a cell has none, the point nearest to its codeword."""
        means = self._totals.sums / np.maximum(self.counts, 1)[:, None] + self._totals.origin
        rows = _members_nearest(self._points, self._codes, means)
        for code in np.flatnonzero(rows < 0):
            rows[code] = np.square(self._points - codewords[code]).sum(axis=1).argmin()
        return self._points[rows]


@njit(cache=True, nogil=True)
def _members_nearest(points, codes, places):  # type: ignore[no-untyped-def]
    """Per code the row of the member nearest to its place; −1 where there is none."""
    rows = np.full(len(places), -1)
    lowest = np.full(len(places), np.inf)
    for row in range(len(points)):
        code = codes[row]
        squared = 0.0
        for column in range(points.shape[1]):
            squared += (points[row, column] - places[code, column]) ** 2
        if squared < lowest[code]:
            lowest[code], rows[code] = squared, row
    return rows
