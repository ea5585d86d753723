"""k-medoids in latent L2: the control that tells what restricting codewords to tokens costs without any geometry."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numba import njit

from geovq.quantizers.base import Training
from geovq.quantizers.euclidean import EuclideanDistortion, EuclideanKMeans, k_means
from geovq.quantizers.lloyd import lloyd


class EuclideanKMedoids(EuclideanKMeans):
    """Tokens that minimise the sum of squared latent distances: k-means, then the same passes with medoids.

    For squared distances the best medoid of a cell is exactly the member nearest to its mean, since
    ``Σ|z − m|² = Σ|z − z̄|² + n|m − z̄|²``. So each pass assigns every token and moves every medoid to the best place in
    its cell, at the price of a pass of k-means; the cost never rises. The passes start from the tokens nearest to the
    means of k-means. ``inertia_`` is the sum of squared latent distances.

    Args:
        max_iter: passes at most, of k-means and again with medoids; fewer once a pass gains less than 10⁻⁵ of the cost.
    """

    rule: ClassVar[str] = "nearest medoid in latent L2"

    def _fit(self, given: Training) -> dict[str, Any]:
        points = given.points
        means, codes, _ = k_means(points, None, self.n_codes, self.max_iter, self.random_state, self.device)
        distortion = MedoidDistortion(points, self.device)
        start = distortion.best(means, codes)
        codewords, _, history = lloyd(distortion, start, self.max_iter, given.on_progress, "k-medoids")
        return {"cluster_centers_": codewords, "cost_history_": history}


class MedoidDistortion(EuclideanDistortion):
    """``|x − m|²`` where every ``m`` is one of the ``(N, d)`` points."""

    def best(self, codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The member nearest to each cell's mean; where a cell has none, the point nearest to its codeword."""
        rows = _members_nearest(self.points, codes, self.means(codes, len(codebook))[0])
        for code in np.flatnonzero(rows < 0):
            rows[code] = np.square(self.points - codebook[code]).sum(axis=1).argmin()
        return self.points[rows]


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
