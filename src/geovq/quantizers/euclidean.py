"""k-means in latent space: the codebook that ignores the decoder, and the baseline for all others."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch

from geovq.configuration.fields import Count, Seed
from geovq.geometry.checks import Array
from geovq.geometry.graph import TokenGraph
from geovq.geometry.neighbors import distinct
from geovq.quantizers.base import CodebookEstimator, Progress, check_at_least, check_n_codes
from geovq.quantizers.greedy_seeding import greedy_seeds, seeding_sample
from geovq.quantizers.lloyd import Fitted, lloyd
from geovq.quantizers.nearest import cell_sums, nearest_codes, squared_distances


class EuclideanKMeans(CodebookEstimator):
    """Lloyd's k-means on all tokens (Lloyd 1982), seeded by greedy k-means++ on a sample of them.

    A codeword that loses all its tokens moves to a token far from its own codeword. ``inertia_`` is the sum of
    squared latent distances.

    Args:
        n_codes: K.
        max_iter: Lloyd passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
        device: where tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = "nearest codeword in latent L2"

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

        Raises:
            InputError: NaN, or more codewords than distinct tokens.
        """
        check_at_least(self.max_iter, 1, "max_iter")
        points = self._check_tokens(tokens, fitting=True)
        codewords, _, history = k_means(
            points, None, self.n_codes, self.max_iter, self.random_state, self.device, on_progress
        )
        labels = nearest_in_coordinates(points, codewords, device=self.device)
        self._finish(cluster_centers_=codewords, labels_=labels, cost_history_=history)
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of the nearest codewords; ``metrics`` are not used.

        Raises:
            InputError: not fitted, NaN, or another dimension than the codewords'.
        """
        return nearest_in_coordinates(self._check_tokens(tokens), self.cluster_centers_, device=self.device)


class EuclideanTotals(NamedTuple):
    """Sums of the tokens of every cell, around ``origin``: what the best codewords depend on."""

    counts: np.ndarray
    """``(K,)`` tokens of each cell."""
    sums: np.ndarray
    """``(K, d)`` float64 ``Σ(x − origin)`` of each cell."""
    origin: np.ndarray
    """``(d,)``."""

    def best(self, codewords: np.ndarray) -> np.ndarray:
        """Means of the cells; codewords without tokens stay."""
        means = self.sums / np.maximum(self.counts, 1)[:, None] + self.origin
        return np.where(self.counts[:, None] > 0, means, codewords).astype(np.float32)


class EuclideanDistortion:
    """``|x − c|²`` of ``(N, d)`` points."""

    def __init__(self, points: np.ndarray, device: str | None = None) -> None:
        self.points = points
        self._device = device
        # Around the mean, |x|² − 2xc + |c|² loses the least to rounding.
        self.origin = mean_of(points)
        self._centered = points - self.origin

    def assign(self, codewords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest codewords and squared distances."""
        codes, _ = nearest_codes(self._centered, codewords - self.origin, self._device)
        return codes, squared_distances(self.points, codewords, codes)

    def totals(self, codes: np.ndarray, n_codes: int) -> EuclideanTotals:
        """Numbers and sums of tokens."""
        counts = np.bincount(codes, minlength=n_codes).astype(np.float64)
        sums = cell_sums(torch.from_numpy(self._centered), codes, n_codes)
        return EuclideanTotals(counts, sums, self.origin)


def k_means(
    points: np.ndarray,
    scale: np.ndarray | None,
    n_codes: int,
    max_iter: int,
    random_state: int,
    device: str | None = None,
    on_progress: Progress | None = None,
) -> Fitted:
    """k-means of ``(N, d)`` points in the coordinates ``points @ scale``, with codewords among the points again.

    Args:
        points: ``(N, d)`` float32.
        scale: ``(d, d)`` symmetric and invertible, or None for the identity.
        n_codes: K.
        max_iter: passes at most.
        random_state: of the seeding.
        device: where tokens are assigned.
        on_progress: called after every pass.

    Raises:
        InputError: K is below 1 or above the number of distinct points.
    """
    seeds = first_codewords(points, scale, n_codes, random_state)
    if scale is None:
        return lloyd(EuclideanDistortion(points, device), seeds, max_iter, on_progress)
    origin = mean_of(points)
    distortion = EuclideanDistortion(in_coordinates(points, origin, scale), device)
    codewords, codes, history = lloyd(distortion, in_coordinates(seeds, origin, scale), max_iter, on_progress)
    back = np.linalg.solve(scale, codewords.T.astype(np.float64)).T
    return Fitted((back + origin).astype(np.float32), codes, history)


def first_codewords(points: np.ndarray, scale: np.ndarray | None, n_codes: int, random_state: int) -> np.ndarray:
    """``(K, d)`` of the distinct points that are seeds of k-means in the coordinates ``points @ scale``."""
    check_at_least(n_codes, 1, "n_codes")
    unique, _, counts = distinct(points)
    check_n_codes(n_codes, len(unique), len(points))
    rng = np.random.default_rng(random_state)
    sample = seeding_sample(len(unique), n_codes, rng)
    x = in_coordinates(unique[sample], mean_of(points), scale)
    norms = np.square(x).sum(axis=1)

    def costs_to(trials: np.ndarray) -> np.ndarray:
        squared: np.ndarray = np.maximum(norms[trials, None] + norms - 2 * (x[trials] @ x.T), 0)
        return squared

    return unique[sample[greedy_seeds(costs_to, counts[sample], n_codes, rng)]]


def nearest_in_coordinates(
    points: np.ndarray, codewords: np.ndarray, scale: np.ndarray | None = None, device: str | None = None
) -> np.ndarray:
    """Codes ``(N,)`` int32 of the codewords ``(K, d)`` nearest in the coordinates ``points @ scale``."""
    origin = mean_of(codewords)
    x, c = in_coordinates(points, origin, scale), in_coordinates(codewords, origin, scale)
    return nearest_codes(x, c, device)[0].astype(np.int32)


def in_coordinates(points: np.ndarray, origin: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """``(points − origin) @ scale``, float32."""
    centered = points - origin
    return centered if scale is None else centered @ scale.astype(np.float32)


def mean_of(points: np.ndarray) -> np.ndarray:
    """``(d,)`` float32 mean, summed in float64."""
    return points.mean(axis=0, dtype=np.float64).astype(np.float32)
