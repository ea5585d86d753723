"""k-means in which every token brings its own metric: the natural fit for decoded error."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.geometry.checks import Array
from geovq.geometry.graph import TokenGraph
from geovq.geometry.neighbors import distinct
from geovq.geometry.symmetric import square_root
from geovq.quantizers.base import CodebookEstimator, Progress, check_at_least, check_n_codes, digest
from geovq.quantizers.euclidean import mean_of, nearest_in_coordinates
from geovq.quantizers.greedy_seeding import greedy_seeds, seeding_sample
from geovq.quantizers.lloyd import lloyd
from geovq.quantizers.metric_assignment import MetricTotals, nearest_by_metric
from geovq.quantizers.metric_features import MetricFeatures, check_metrics
from geovq.quantizers.whitened import constant_metric


class PullbackKMeans(CodebookEstimator):
    """Lloyd's k-means of ``Σ_i (z_i − c)ᵀ(G_i + ρI)(z_i − c)``: to first order the decoded error that coding adds.

    A pass assigns every token by its own metric, as one matrix product (``metric_features``), and moves every
    codeword to the barycentre ``(ΣG_i + nρI)⁻¹(ΣG_i z_i + ρΣz_i)`` of its cell. The ridge ``ρ`` draws it towards the
    plain mean where the metrics are singular; being part of the cost, it leaves the cost falling in every pass.
    Seeding is greedy k-means++ with the same cost. ``inertia_`` is that cost, in the unit of the metrics: squared
    pixel error for those of ``token_metrics``.

    Args:
        n_codes: K.
        ridge: ``ρ`` as a share of the mean eigenvalue of the mean metric; above 0.
        max_iter: passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
        device: where features live and tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = "smallest (z-c)'G(z-c) in the token's own metric, or in the mean metric where it has none"
    needs_metrics: bool = True

    @property
    def metric_rule_ridge(self) -> float:  # type: ignore[override]
        """Its rule is that of ``assign=metric``, with this ridge."""
        return self.ridge

    state_attributes: ClassVar[tuple[str, ...]] = (
        "cluster_centers_",
        "cost_history_",
        "labels_",
        "mean_metric_",
        "origin_",
        "digest_",
    )

    mean_metric_: np.ndarray
    """``(d, d)`` float64: ``Ḡ + ρI``, by which tokens without a metric are assigned."""
    origin_: np.ndarray
    """``(d,)`` float32 mean of the training tokens, the origin of the computation."""
    digest_: np.ndarray
    """``(16,)`` uint8: tells the training tokens from others."""

    def __init__(
        self,
        n_codes: int = 8,
        *,
        ridge: Positive = 1e-3,
        max_iter: Count = 25,
        random_state: Seed = 0,
        device: str | None = None,
    ) -> None:
        self.n_codes = n_codes
        self.ridge = ridge
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
        """Fit to ``(N, d)`` tokens with ``(N, d(d+1)/2)`` packed metrics; ``y`` and ``graph`` are not used.

        The features held in memory take ``4(d(d+1)/2 + d)`` bytes per token (584 MB for 960,000 of 16 dimensions).

        Raises:
            InputError: no metrics or ones that do not fit, are not finite, negative or all zero; NaN; more codewords
                than distinct tokens.
        """
        check_at_least(self.max_iter, 1, "max_iter")
        if not self.ridge > 0:
            raise InputError(f"ridge is {self.ridge}; it must be above 0, since single metrics are often singular")
        points = self._check_tokens(tokens, fitting=True)
        packed = check_metrics(self._check_metrics(metrics), *points.shape)
        metric = constant_metric(points, packed, "full", self.ridge)
        origin = mean_of(points)
        shift = shift_within(metric, self.ridge)
        seeds = metric_seeds(points, packed, shift, self.n_codes, self.random_state)
        distortion = MetricDistortion(points, MetricFeatures(points, packed, shift, origin, self.device))
        codewords, codes, history = lloyd(distortion, seeds, self.max_iter, on_progress, "pull-back k-means")
        self._finish(
            cluster_centers_=codewords,
            labels_=codes.astype(np.int32),
            cost_history_=history,
            mean_metric_=metric,
            origin_=origin,
            digest_=digest(points),
        )
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 by the tokens' own metrics where they are given, else by the mean metric of the fit.

        Raises:
            InputError: not fitted, or arguments that do not fit the codebook.
        """
        points = self._check_tokens(tokens)
        if metrics is None:
            return nearest_in_coordinates(points, self.cluster_centers_, square_root(self.mean_metric_), self.device)
        shift = shift_within(self.mean_metric_, self.ridge)
        return nearest_by_metric(points, metrics, self.cluster_centers_, shift, self.origin_, self.device)

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes ``(N,)`` int32 of the tokens it was fitted to, by the metrics given then.

        Raises:
            InputError: not fitted, or other tokens.
        """
        points = self._check_tokens(tokens)
        if self.labels_ is None or not np.array_equal(digest(points), self.digest_):
            raise InputError(
                f"these {len(points)} tokens are not those of the fit; give the same tokens in the same order, "
                "or use predict(tokens, metrics)"
            )
        return self.labels_


class MetricDistortion:
    """``(z − c)ᵀ(G + ρI)(z − c)``, each token in its own metric, tokens ``(N, d)`` with their features."""

    def __init__(self, tokens: np.ndarray, features: MetricFeatures) -> None:
        self.points = tokens
        self._features = features

    def assign(self, codewords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cheapest codes and their costs."""
        codes, _ = self._features.nearest(codewords)
        return codes, self._features.costs_of(self.points - codewords[codes])

    def totals(self, codes: np.ndarray, n_codes: int) -> MetricTotals:
        """Numbers of tokens and sums of their metrics."""
        counts = np.bincount(codes, minlength=n_codes).astype(np.float64)
        sums = self._features.cell_sums(codes, n_codes)
        return MetricTotals(counts, *sums, self._features.origin)


def metric_seeds(points: np.ndarray, packed: torch.Tensor, shift: float, n_codes: int, random_state: int) -> np.ndarray:
    """``(K, d)`` distinct tokens that are seeds by the cost in the tokens' own metrics.

    Duplicates count by their number, in the metric of the first of them.

    Raises:
        InputError: K is below 1 or above the number of distinct points.
    """
    check_at_least(n_codes, 1, "n_codes")
    unique, inverse, counts = distinct(points)
    check_n_codes(n_codes, len(unique), len(points))
    rng = np.random.default_rng(random_state)
    sample = seeding_sample(len(unique), n_codes, rng)
    # Distinct tokens are numbered in the order of their first occurrence.
    first = np.flatnonzero(np.diff(np.maximum.accumulate(inverse), prepend=-1))[sample]
    x = unique[sample]
    features = MetricFeatures(x, packed[torch.from_numpy(first).to(packed.device)], shift, mean_of(points))
    return x[greedy_seeds(lambda trials: features.costs(x[trials]), counts[sample], n_codes, rng)]


def shift_within(metric: np.ndarray, ridge: float) -> float:
    """``ρ`` in ``Ḡ + ρI``: ``ρ`` is ``ridge`` times the mean eigenvalue of ``Ḡ``."""
    return ridge / (1 + ridge) * float(np.trace(metric)) / len(metric)
