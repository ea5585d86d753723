"""The estimator of codebooks whose codes have several slots: product, residual and scalar.

``K`` is the number of codes of one token, so ``log2 K`` bits at most whatever the structure. What a kind brings is the
directions that its rows may take and tables to start from; passes, encoding and state are here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import torch

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array
from geovq.geometry.graph import TokenGraph
from geovq.geometry.neighbors import distinct
from geovq.quantizers.additive_fit import alternate
from geovq.quantizers.additive_search import AdditiveCosts, OneMetric, OwnMetrics
from geovq.quantizers.additive_tables import AdditiveTables, add_rows
from geovq.quantizers.base import CodebookEstimator, Progress, check_at_least, check_fitted, digest
from geovq.quantizers.euclidean import k_means, mean_of
from geovq.quantizers.lloyd import lloyd
from geovq.quantizers.metric_features import MetricFeatures, check_metrics
from geovq.quantizers.pullback import MetricDistortion, metric_seeds, shift_within
from geovq.quantizers.whitened import constant_metric

Metric = Literal["euclidean", "pullback"]

# Tokens that starting tables are made of; the passes go over all tokens.
_STARTING_TOKENS = 131_072
# Tokens encoded at a time.
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class StartingSet:
    """A random part of the tokens, and what starting tables are made with.

    Attributes:
        points: ``(n, d)`` float32.
        packed: ``(n, d(d+1)/2)`` metrics, or None where distances are Euclidean.
        metric: ``(d, d)`` float64 ``Ḡ + ρI``, or the identity.
        shift: ``ρ``, which is added to every metric.
        n_codes: K.
        max_iter: passes at most of a k-means.
        random_state: of the seeding.
    """

    points: np.ndarray
    packed: torch.Tensor | None
    metric: np.ndarray
    shift: float
    n_codes: int
    max_iter: int
    random_state: int

    def codewords(self, points: np.ndarray, size: int, stage: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """k-means of points ``(n, r)`` that stand for the tokens: codewords ``(size, r)`` and codes ``(n,)``.

        In the tokens' own metrics where they have some and ``r`` is ``d``, else Euclidean. Where too few points differ,
        the first codeword stands for those that are missing.
        """
        seed = self.random_state + stage
        own = self.packed is not None and points.shape[1] == self.points.shape[1]
        able = min(size, len(distinct(points)[0]))
        if own and self.packed is not None:
            seeds = metric_seeds(points, self.packed, self.shift, able, seed)
            features = MetricFeatures(points, self.packed, self.shift, mean_of(points))
            codewords, codes, _ = lloyd(MetricDistortion(points, features), seeds, self.max_iter)
        else:
            codewords, codes, _ = k_means(points, None, able, self.max_iter, seed)
        return np.concatenate((codewords, np.repeat(codewords[:1], size - able, axis=0))), codes


class StructuredCodebook(CodebookEstimator):
    """Codebooks with one code per slot and token, decoded to the sum of one table row per slot.

    ``fit`` minimises ``Σ_i (z_i − c)ᵀ(G_i + ρI)(z_i − c)`` with ``metric="pullback"``, and ``Σ_i |z_i − c|²`` with
    ``metric="euclidean"``, where ``c`` is the sum of one row of each of the ``tables_``. ``inertia_`` is that cost.
    """

    rule: ClassVar[str] = (
        "smallest (z-c)'G(z-c) over sums c of one row per slot, in the token's own metric, or in the mean metric where "
        "it has none (metric=pullback), or in latent L2 (metric=euclidean)"
    )
    state_attributes: ClassVar[tuple[str, ...]] = (
        "table_rows_",
        "slot_sizes_",
        "cost_history_",
        "labels_",
        "mean_metric_",
        "origin_",
        "digest_",
    )

    metric: Metric
    ridge: float
    max_iter: int
    beam: int
    random_state: int
    device: str | None

    table_rows_: np.ndarray
    """``(ΣK_m, d)`` float32 rows of all slots, one slot after the other."""
    slot_sizes_: np.ndarray
    """``(M,)`` int64 rows of each."""
    mean_metric_: np.ndarray
    """``(d, d)`` float64 ``Ḡ + ρI``, by which tokens without a metric are assigned; the identity if Euclidean."""
    origin_: np.ndarray
    """``(d,)`` float32 mean of the training tokens, the origin of the computation."""
    digest_: np.ndarray
    """``(16,)`` uint8: tells the training tokens from others."""

    @abstractmethod
    def _check_slots(self, dimension: int) -> None:
        """Raise InputError where tokens of this dimension cannot be coded with these settings."""

    @abstractmethod
    def _start(self, start: StartingSet) -> AdditiveTables:
        """Tables to start from."""

    @property
    def tables_(self) -> tuple[np.ndarray, ...]:
        """Per slot ``(K_m, d)`` float32 rows; a token is the sum of one of each."""
        check_fitted(self)
        return tuple(np.split(self.table_rows_, np.cumsum(self.slot_sizes_)[:-1]))

    @property
    def code_sizes_(self) -> tuple[int, ...]:
        """Codes of every slot."""
        check_fitted(self)
        return tuple(int(size) for size in self.slot_sizes_)

    @property
    def needs_metrics(self) -> bool:  # type: ignore[override]
        """Whether ``metric`` is that of every token."""
        return self.metric == "pullback"

    def fit(
        self,
        tokens: Array,
        y: object = None,
        *,
        metrics: Array | None = None,
        graph: TokenGraph | None = None,
        on_progress: Progress | None = None,
    ) -> Self:
        """Fit to ``(N, d)`` tokens; ``metrics`` are their packed ones, not used if Euclidean; neither are the others.

        Raises:
            InputError: K that cannot be split, or has more codes in a slot than there are distinct tokens; a dimension
                that does not suit; NaN; no metrics, or ones that do not fit, are not finite or all zero.
        """
        check_at_least(self.max_iter, 1, "max_iter")
        check_at_least(self.beam, 1, "beam")
        check_at_least(self.n_codes, 1, "n_codes")
        if self.metric not in ("euclidean", "pullback"):
            raise InputError(f"metric is {self.metric!r}; choose 'euclidean' or 'pullback'")
        points = self._check_tokens(tokens, fitting=True)
        dimension = points.shape[1]
        self._check_slots(dimension)
        costs: AdditiveCosts
        packed, metric, shift, origin = None, np.eye(dimension), 0.0, mean_of(points)
        if self.metric == "pullback":
            if not self.ridge > 0:
                raise InputError(f"ridge is {self.ridge}; it must be above 0, since single metrics are often singular")
            packed = check_metrics(self._check_metrics(metrics), *points.shape)
            metric = constant_metric(points, packed, "full", self.ridge)
            shift = shift_within(metric, self.ridge)
            costs = OwnMetrics(points, MetricFeatures(points, packed, shift, origin, self.device))
        else:
            costs = OneMetric(points, metric, origin, self.device)
        rows = _sample(len(points), self.random_state)
        part = packed[torch.from_numpy(rows).to(packed.device)] if packed is not None else None
        tables = self._start(
            StartingSet(points[rows], part, metric, shift, self.n_codes, self.max_iter, self.random_state)
        )
        fitted = alternate(tables, costs, metric, self.beam, self.max_iter, on_progress, type(self).__name__)
        self._finish(
            table_rows_=np.concatenate(fitted.tables.rows()),
            slot_sizes_=np.array(fitted.tables.sizes, dtype=np.int64),
            labels_=fitted.codes,
            cost_history_=fitted.history,
            mean_metric_=metric,
            origin_=origin,
            digest_=digest(points),
        )
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N, M)`` int32 by the tokens' own metrics where they are given, else by the mean metric of the fit.

        Raises:
            InputError: not fitted, or arguments that do not fit the codebook.
        """
        points = self._check_tokens(tokens)
        own = metrics is not None and self.metric == "pullback"
        packed = check_metrics(metrics, *points.shape) if own and metrics is not None else None
        shift = shift_within(self.mean_metric_, self.ridge)
        codes = np.empty((len(points), len(self.slot_sizes_)), dtype=np.int32)
        costs: AdditiveCosts
        for start in range(0, len(points), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            if packed is not None:
                features = MetricFeatures(points[part], packed[part], shift, self.origin_, self.device)
                costs = OwnMetrics(points[part], features)
            else:
                costs = OneMetric(points[part], self.mean_metric_, self.origin_, self.device)
            codes[part], _ = costs.assign(self.tables_, self.beam)
        return codes

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes ``(N, M)`` int32 of the tokens it was fitted to, by the metrics given then.

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

    def decode(self, codes: Array) -> np.ndarray:
        """Codewords ``(N, d)`` float32 of codes ``(N, M)``.

        Raises:
            InputError: not fitted, another shape, or a code that does not exist.
        """
        check_fitted(self)
        values, sizes = as_array(codes), self.code_sizes_
        if values.ndim != 2 or values.shape[1] != len(sizes):
            raise InputError(f"codes have shape {values.shape}; give (N, {len(sizes)}), a column per slot")
        if values.size and (values.min() < 0 or (values.max(axis=0) >= np.array(sizes)).any()):
            raise InputError(f"codes reach from {values.min()} to {values.max(axis=0)}; the slots have {sizes} codes")
        return add_rows(self.tables_, values)


def check_largest_slot(sizes: tuple[int, ...], n_codes: int, points: np.ndarray) -> None:
    """Raise InputError where a slot has more codes than there are distinct tokens ``(N, d)``."""
    n_distinct = len(distinct(points)[0])
    if max(sizes) > n_distinct:
        raise InputError(
            f"n_codes is {n_codes}, which makes slots of {sizes} codes, but there are only {n_distinct} distinct "
            f"tokens (n_samples={len(points)}); lower n_codes"
        )


def _sample(n_tokens: int, random_state: int) -> np.ndarray:
    """Ascending places of the tokens that starting tables are made of: all, or a random part."""
    if n_tokens <= _STARTING_TOKENS:
        return np.arange(n_tokens)
    return np.sort(np.random.default_rng(random_state).choice(n_tokens, _STARTING_TOKENS, replace=False))
