"""k-means in latent space: the codebook that ignores the decoder, and the baseline for all others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from geovq.configuration.fields import Count, Seed
from geovq.geometry.checks import Array
from geovq.geometry.neighbors import centre_of
from geovq.geometry.symmetric import square_root
from geovq.quantizers.base import CodebookEstimator, Progress, Training
from geovq.quantizers.lloyd import Distortion, Fitted, greedy_seeds, lloyd
from geovq.quantizers.nearest import cell_sums, nearest_codes, squared_distances

# Tokens whose coordinates exist at a time.
_ROWS = 1 << 20


class NearestCodebook(CodebookEstimator):
    """Codebooks whose tokens take the nearest codeword, in latent L2 or in one metric for all of them."""

    rule: ClassVar[str] = "nearest codeword in latent L2"

    device: str | None
    mean_metric_: np.ndarray | None = None
    """``(d, d)`` float64 metric by which tokens are assigned; None for latent L2."""

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of the nearest codewords; ``metrics`` are not used."""
        points = self._check_tokens(tokens)
        scale = None if self.mean_metric_ is None else square_root(self.mean_metric_)
        return nearest_in_coordinates(points, self.cluster_centers_, scale, self.device)


@dataclass(eq=False, repr=False)
class EuclideanKMeans(NearestCodebook):
    """Lloyd's k-means on all tokens (Lloyd 1982), seeded by greedy k-means++ on a sample of them.

    A codeword that loses all its tokens moves to a token far from its own codeword. ``inertia_`` is the sum of
    squared latent distances.

    Args:
        n_codes: K.
        max_iter: Lloyd passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
        device: where tokens are assigned; the CPU by default.
    """

    n_codes: int = 8
    _: KW_ONLY
    max_iter: Count = 25
    random_state: Seed = 0
    device: str | None = None

    def _fit(self, given: Training) -> dict[str, Any]:
        settings = (self.n_codes, self.max_iter, self.random_state, self.device)
        codewords, _, history = k_means(given.points, None, *settings, given.on_progress)
        return {"cluster_centers_": codewords, "cost_history_": history}


class EuclideanDistortion(Distortion):
    """``|x − c|²`` of ``(N, d)`` points."""

    def __init__(self, points: np.ndarray, device: str | None = None) -> None:
        self.points = points
        self._device = device
        # Around the mean, |x|² − 2xc + |c|² loses the least to rounding.
        self._origin = centre_of(points)
        self._centered = points - self._origin

    def assign(self, codebook: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest codewords and squared distances."""
        codes = nearest_codes(self._centered, codebook - self._origin, self._device)
        return codes, squared_distances(self.points, codebook, codes)

    def best(self, codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Means of the cells; codewords without tokens stay."""
        means, used = self.means(codes, len(codebook))
        return np.where(used[:, None], means, codebook).astype(np.float32)

    def means(self, codes: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
        """``(K, d)`` float64 means of the cells, and which of them have tokens."""
        counts = np.bincount(codes, minlength=n_codes)
        sums = cell_sums(torch.from_numpy(self._centered), codes, n_codes)
        return sums / np.maximum(counts, 1)[:, None] + self._origin, counts > 0


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
    origin = centre_of(points)

    def costs_among(sample: np.ndarray, _: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        x = in_coordinates(sample, origin, scale)
        norms = np.square(x).sum(axis=1)
        return lambda trials: np.maximum(norms[trials, None] + norms - 2 * (x[trials] @ x.T), 0)

    seeds = greedy_seeds(points, n_codes, random_state, costs_among)
    if scale is None:
        return lloyd(EuclideanDistortion(points, device), seeds, max_iter, on_progress)
    distortion = EuclideanDistortion(in_coordinates(points, origin, scale), device)
    codewords, codes, history = lloyd(distortion, in_coordinates(seeds, origin, scale), max_iter, on_progress)
    back = np.linalg.solve(scale, codewords.T.astype(np.float64)).T
    return Fitted((back + origin).astype(np.float32), codes, history)


def nearest_in_coordinates(
    points: np.ndarray, codewords: np.ndarray, scale: np.ndarray | None = None, device: str | None = None
) -> np.ndarray:
    """Codes ``(N,)`` int32 of the codewords ``(K, d)`` nearest in the coordinates ``points @ scale``."""
    origin = centre_of(codewords)
    codes, c = np.empty(len(points), np.int32), in_coordinates(codewords, origin, scale)
    for start in range(0, len(points), _ROWS):
        part = slice(start, start + _ROWS)
        codes[part] = nearest_codes(in_coordinates(points[part], origin, scale), c, device)
    return codes


def in_coordinates(points: np.ndarray, origin: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """``(points − origin) @ scale``, float32."""
    centered = points - origin
    return centered if scale is None else centered @ scale.astype(np.float32)
