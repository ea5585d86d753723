"""k-means in latent space: the codebook that ignores the decoder, and the baseline for all others."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_points
from geovq.geometry.graph import TokenGraph
from geovq.geometry.neighbors import distinct
from geovq.progress import progress
from geovq.quantizers.base import (
    Progress,
    check_at_least,
    check_fitted,
    check_n_codes,
    state_value,
)
from geovq.quantizers.seeding import draw_in_proportion

# Distinct tokens that seeds are drawn from: at least so many, and so many per codeword.
_SEEDING_TOKENS = 20_000
_SEEDING_TOKENS_PER_CODE = 32
# Relative gain of a pass below which further passes are not worth their time.
_SMALLEST_GAIN = 1e-5


class EuclideanKMeans:
    """Lloyd's k-means on all tokens (Lloyd 1982), seeded by greedy k-means++ on a sample of them.

    A codeword that loses all its tokens moves to a token far from its own codeword. ``inertia_`` is the sum of
    squared latent distances.

    Args:
        n_codes: K.
        max_iter: Lloyd passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
    """

    name: ClassVar[str] = "euclidean"
    rule: ClassVar[str] = "nearest codeword in latent L2"
    needs_graph: ClassVar[bool] = False

    cluster_centers_: np.ndarray
    inertia_: float
    n_iter_: int
    labels_: np.ndarray | None
    cost_history_: np.ndarray

    def __init__(self, n_codes: int, *, max_iter: int = 25, random_state: int = 0) -> None:
        self.n_codes = n_codes
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, tokens: Array, graph: TokenGraph | None = None, on_progress: Progress | None = None) -> Self:
        """Fit to ``(N, d)`` tokens; ``graph`` is not used.

        Raises:
            InputError: NaN, or more codewords than distinct tokens.
        """
        check_at_least(self.max_iter, 1, "max_iter")
        points = as_points(tokens)
        check_at_least(self.n_codes, 1, "n_codes")
        unique, _, multiplicities = distinct(points)
        check_n_codes(self.n_codes, len(unique))
        rng = np.random.default_rng(self.random_state)
        # Around the mean, |x|² − 2xc + |c|² loses the least to rounding.
        mean = points.mean(axis=0, dtype=np.float64).astype(np.float32)
        centered = points - mean
        squared_norm = float(np.square(centered).sum(dtype=np.float64))
        centers = _seed(unique - mean, multiplicities, self.n_codes, rng)
        del unique, multiplicities
        history: list[float] = []
        with progress("k-means", total=self.max_iter) as advance:
            for step in range(self.max_iter + 1):
                labels, squared = nearest_codes(centered, centers)
                sums, counts = _sums(centered, labels, self.n_codes)
                # Σ|x − c|² from sums in float64, so that the history does not hang on float32 rounding.
                exact = centers.astype(np.float64)
                cost = squared_norm - 2 * float((exact * sums).sum()) + float(counts @ np.square(exact).sum(axis=1))
                history.append(max(cost, 0.0))
                if on_progress is not None:
                    on_progress(step, history[-1])
                gained = step == 0 or history[-2] - history[-1] > _SMALLEST_GAIN * history[-2]
                if step == self.max_iter or not (gained or (counts == 0).any()):
                    break
                centers = _moved(centered, sums, counts, squared)
                advance()
        self.cluster_centers_ = centers + mean
        self.labels_ = labels.astype(np.int32)
        self.cost_history_ = np.array(history)
        self.inertia_ = history[-1]
        self.n_iter_ = len(history) - 1
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of the nearest codewords; ``metrics`` are not used.

        Raises:
            InputError: not fitted, NaN, or another dimension than the codewords'.
        """
        check_fitted(self)
        points = as_points(tokens)
        if points.shape[1] != self.cluster_centers_.shape[1]:
            raise InputError(
                f"tokens have {points.shape[1]} dimensions, the codewords {self.cluster_centers_.shape[1]}; "
                "encode with the codebook of this latent space"
            )
        mean = self.cluster_centers_.mean(axis=0)
        return nearest_codes(points - mean, self.cluster_centers_ - mean)[0].astype(np.int32)

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes of the training tokens: the same as ``predict``."""
        return self.predict(tokens)

    def get_state(self) -> dict[str, np.ndarray]:
        """Codewords, cost history and settings."""
        check_fitted(self)
        return {
            "cluster_centers": self.cluster_centers_,
            "cost_history": self.cost_history_,
            "max_iter": np.array(self.max_iter),
            "random_state": np.array(self.random_state),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], graph: TokenGraph | None = None) -> Self:
        """The fitted quantizer, without ``labels_``; ``graph`` is not used."""
        centers = state_value(state, "cluster_centers", "EuclideanKMeans")
        quantizer = cls(
            len(centers),
            max_iter=int(state_value(state, "max_iter", "EuclideanKMeans")),
            random_state=int(state_value(state, "random_state", "EuclideanKMeans")),
        )
        quantizer.cluster_centers_ = centers
        quantizer.cost_history_ = state_value(state, "cost_history", "EuclideanKMeans")
        quantizer.inertia_ = float(quantizer.cost_history_[-1])
        quantizer.n_iter_ = len(quantizer.cost_history_) - 1
        quantizer.labels_ = None
        return quantizer


def nearest_codes(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest center of every point: ``(N,)`` int64 indices and ``(N,)`` float32 squared distances.

    Every distance is computed (``|x|² − 2xc + |c|²``, product and minimum fused); where the squared distance
    is small beside ``|x|²`` it holds that much rounding, so give points around their mean.
    """
    import faiss

    index = faiss.IndexFlatL2(centers.shape[1])
    index.add(centers)
    squared, labels = index.search(points, 1)
    return labels[:, 0], squared[:, 0]


def _seed(points: np.ndarray, counts: np.ndarray, n_codes: int, rng: np.random.Generator) -> np.ndarray:
    """``n_codes`` of the distinct ``points``, by greedy k-means++ on a sample (Arthur, Vassilvitskii 2007).

    Each seed is the best of a few drawn in proportion to ``count·(squared distance to the seeds before)``.
    """
    size = min(len(points), max(_SEEDING_TOKENS, _SEEDING_TOKENS_PER_CODE * n_codes))
    sample = np.sort(rng.choice(len(points), size, replace=False))
    x, weights = points[sample], counts[sample].astype(np.float32)
    norms = np.square(x).sum(axis=1)
    n_trials = 2 + int(np.log(n_codes))
    chosen = [int(rng.choice(size, p=counts[sample] / counts[sample].sum()))]
    squared = np.square(x - x[chosen[0]]).sum(axis=1)
    while len(chosen) < n_codes:
        chances = np.maximum(weights * squared, np.finfo(np.float32).tiny)
        chances[chosen] = 0.0
        trials = draw_in_proportion(chances, min(n_trials, size - len(chosen)), rng)
        each = np.maximum(norms[trials, None] + norms - 2 * (x[trials] @ x.T), 0)  # (trials, sample)
        np.minimum(each, squared, out=each)
        best = int((each @ weights).argmin())
        chosen.append(int(trials[best]))
        squared = each[best]
    return x[chosen]


def _sums(points: np.ndarray, labels: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Per code the sum of its tokens ``(K, d)`` and their number ``(K,)``, both float64."""
    columns = [np.bincount(labels, weights=column, minlength=n_codes) for column in points.T]
    return np.stack(columns, axis=1), np.bincount(labels, minlength=n_codes).astype(np.float64)


def _moved(points: np.ndarray, sums: np.ndarray, counts: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Centers at the means of their tokens; those without any at the tokens farthest from theirs."""
    centers = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        farthest = np.argsort(-squared, kind="stable")[: 64 * len(empty)]
        unique, _, _ = distinct(points[farthest])
        placed = min(len(empty), len(unique))
        centers[empty[:placed]] = unique[:placed]
    return centers
