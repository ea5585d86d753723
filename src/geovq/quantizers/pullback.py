"""k-means in which every token brings its own metric: the natural fit for decoded error."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.geometry.checks import Array
from geovq.geometry.neighbors import centre_of
from geovq.geometry.symmetric import square_root
from geovq.quantizers.base import CodebookEstimator, Training
from geovq.quantizers.euclidean import nearest_in_coordinates
from geovq.quantizers.lloyd import greedy_seeds, lloyd
from geovq.quantizers.metric_assignment import nearest_by_metric
from geovq.quantizers.metric_features import MetricFeatures
from geovq.quantizers.whitened import constant_metric


class MetricCodebook(CodebookEstimator):
    """Codebooks of tokens with metrics of their own, whose training tokens keep their codes."""

    state_attributes = (*CodebookEstimator.state_attributes, "labels_", "mean_metric_", "origin_", "digest_")

    ridge: float
    device: str | None
    mean_metric_: np.ndarray
    """``(d, d)`` float64: ``Ḡ + ρI``, by which tokens without a metric are assigned."""
    origin_: np.ndarray
    """``(d,)`` float32 mean of the training tokens, the origin of the computation."""
    digest_: np.ndarray
    """``(16,)`` uint8: tells the training tokens from others."""

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes of the tokens it was fitted to, by the metrics given then; InputError for other tokens."""
        points = self._check_tokens(tokens)
        if self.labels_ is None or not np.array_equal(digest(points), self.digest_):
            raise InputError(
                f"these {len(points)} tokens are not those of the fit; give the same tokens in the same order, "
                "or use predict(tokens, metrics)"
            )
        return self.labels_

    def _mean_metric(self, points: np.ndarray, packed: torch.Tensor) -> np.ndarray:
        """``Ḡ + ρI`` with a ridge that is above 0."""
        if not self.ridge > 0:
            raise InputError(f"ridge is {self.ridge}; it must be above 0, since single metrics are often singular")
        return constant_metric(points, packed, "full", self.ridge)


@dataclass(eq=False, repr=False)
class PullbackKMeans(MetricCodebook):
    """Lloyd's k-means of ``Σ_i (z_i − c)ᵀ(G_i + ρI)(z_i − c)``: to first order the decoded error that coding adds.

    A pass assigns every token by its own metric, as one matrix product (``metric_features``), and moves every
    codeword to the barycentre ``(ΣG_i + nρI)⁻¹(ΣG_i z_i + ρΣz_i)`` of its cell. The ridge ``ρ`` draws it towards the
    plain mean where the metrics are singular; being part of the cost, it leaves the cost falling in every pass.
    Seeding is greedy k-means++ with the same cost. Of more than 2,048 codewords four passes of five look at the 16
    that were each token's cheapest in the fifth; codes are of all codewords at the end. ``inertia_`` is that cost, in
    the unit of the metrics: squared pixel error for those of ``token_metrics``.

    Args:
        n_codes: K.
        ridge: ``ρ`` as a share of the mean eigenvalue of the mean metric; above 0.
        max_iter: passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
        device: where features live and tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = "smallest (z-c)'G(z-c) in the token's own metric, or in the mean metric where it has none"
    needs_metrics: ClassVar[bool] = True

    @property
    def metric_rule_ridge(self) -> float:  # type: ignore[override]
        """Its rule is that of ``assign=metric``, with this ridge."""
        return self.ridge

    n_codes: int = 8
    _: KW_ONLY
    ridge: Positive = 1e-3
    max_iter: Count = 25
    random_state: Seed = 0
    device: str | None = None

    def _fit(self, given: Training) -> dict[str, Any]:
        points = given.points
        packed = self._metrics_of(given)
        metric, origin = self._mean_metric(points, packed), centre_of(points)
        shift = shift_within(metric, self.ridge)
        seeds = metric_seeds(points, packed, shift, self.n_codes, self.random_state)
        features = MetricFeatures(points, packed, shift, origin, self.device)
        codewords, codes, history = lloyd(features, seeds, self.max_iter, given.on_progress, "pull-back k-means")
        return {
            "cluster_centers_": codewords,
            "labels_": codes.astype(np.int32),
            "cost_history_": history,
            "mean_metric_": metric,
            "origin_": origin,
            "digest_": digest(points),
        }

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 by the tokens' own metrics where they are given, else by the mean metric of the fit."""
        points = self._check_tokens(tokens)
        if metrics is None:
            return nearest_in_coordinates(points, self.cluster_centers_, square_root(self.mean_metric_), self.device)
        shift = shift_within(self.mean_metric_, self.ridge)
        return nearest_by_metric(points, metrics, self.cluster_centers_, shift, self.origin_, self.device)


def metric_seeds(points: np.ndarray, packed: torch.Tensor, shift: float, n_codes: int, random_state: int) -> np.ndarray:
    """``(K, d)`` distinct tokens that are seeds by the cost in their own metrics, of duplicates that of the first."""
    origin = centre_of(points)

    def costs_among(sample: np.ndarray, rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        features = MetricFeatures(sample, packed[torch.from_numpy(rows).to(packed.device)], shift, origin)
        return lambda trials: features.costs(sample[trials])

    return greedy_seeds(points, n_codes, random_state, costs_among)


def shift_within(metric: np.ndarray, ridge: float) -> float:
    """``ρ`` in ``Ḡ + ρI``: ``ρ`` is ``ridge`` times the mean eigenvalue of ``Ḡ``."""
    return ridge / (1 + ridge) * float(np.trace(metric)) / len(metric)


def digest(points: np.ndarray) -> np.ndarray:
    """``(16,)`` uint8 that tells tokens ``(N, d)`` from others: of their number and a thousand of them."""
    sample = np.linspace(0, len(points) - 1, num=min(1_000, len(points)), dtype=np.int64)
    content = str(points.shape).encode() + points[sample].tobytes()
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), dtype=np.uint8).copy()
