"""The estimator of codebooks whose codes have several slots: product, residual and scalar.

``K`` is the number of codes of one token, so ``log2 K`` bits at most whatever the structure. What a kind brings is the
directions that its rows may take and tables to start from; passes, encoding and state are here.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, check_choice, check_metrics
from geovq.geometry.neighbors import centre_of, distinct
from geovq.models.sizes import SplitCodes, split_sizes
from geovq.quantizers.additive_fit import AdditiveDistortion
from geovq.quantizers.additive_search import AdditiveCosts, OneMetric, OwnMetrics
from geovq.quantizers.additive_tables import AdditiveTables, add_rows
from geovq.quantizers.base import Training, check_fitted
from geovq.quantizers.euclidean import k_means
from geovq.quantizers.lloyd import lloyd
from geovq.quantizers.metric_features import MetricFeatures
from geovq.quantizers.pullback import MetricCodebook, digest, metric_seeds, shift_within

Metric = Literal["euclidean", "pullback"]

# Tokens that starting tables are made of; the passes go over all tokens.
_STARTING_TOKENS = 131_072
# Tokens encoded at a time.
_ROWS_AT_ONCE = 65_536


class StartingSet(NamedTuple):
    """A random part of the tokens, which starting tables are made of."""

    points: np.ndarray
    """``(n, d)`` float32."""
    packed: torch.Tensor | None
    """``(n, d(d+1)/2)`` metrics, or None where distances are Euclidean."""
    metric: np.ndarray
    """``(d, d)`` float64 ``Ḡ + ρI``, or the identity."""


class StructuredCodebook(SplitCodes, MetricCodebook):
    """Codebooks with one code per slot and token, decoded to the sum of one table row per slot.

    ``fit`` minimises ``Σ_i (z_i − c)ᵀ(G_i + ρI)(z_i − c)`` with ``metric="pullback"``, and ``Σ_i |z_i − c|²`` with
    ``metric="euclidean"``, where ``c`` is the sum of one row of each of the ``tables_``. ``inertia_`` is that cost.

    Settings:
        metric: ``"pullback"``, with a metric per token, or ``"euclidean"``.
        ridge: ``ρ`` as a share of the mean eigenvalue of the mean metric; above 0. Not used if Euclidean.
        max_iter: passes at most, of each k-means and of the joint fit; fewer once a pass gains less than 10⁻⁵ of the
            cost.
        beam: partial sums kept per token where there are more than 4096 sums; up to there all are tried.
        random_state: of the seeding; the same number gives the same codebook.
        device: where features live and all sums are tried; the CPU by default.
    """

    rule: ClassVar[str] = (
        "smallest (z-c)'G(z-c) over sums c of one row per slot, in the token's own metric, or in the mean metric where "
        "it has none (metric=pullback), or in latent L2 (metric=euclidean)"
    )
    state_attributes = ("table_rows_", "slot_sizes_", *MetricCodebook.state_attributes[1:])

    metric: Metric
    max_iter: int
    beam: int
    random_state: int

    table_rows_: np.ndarray
    """``(ΣK_m, d)`` float32 rows of all slots, one slot after the other."""
    slot_sizes_: np.ndarray
    """``(M,)`` int64 rows of each."""

    def _sizes(self, points: np.ndarray) -> tuple[int, ...]:
        """Codes of every slot, no more than there are distinct points ``(N, d)``."""
        assert self.slots_setting is not None
        sizes, n_distinct = split_sizes(self.n_codes, getattr(self, self.slots_setting)), len(distinct(points)[0])
        if max(sizes) > n_distinct:
            raise InputError(
                f"n_codes is {self.n_codes}, which makes slots of {sizes} codes, but there are only {n_distinct} "
                f"distinct tokens (n_samples={len(points)}); lower n_codes"
            )
        return sizes

    @abstractmethod
    def _start(self, start: StartingSet) -> AdditiveTables:
        """Tables to start from."""

    @property
    def tables_(self) -> tuple[np.ndarray, ...]:
        """Per slot ``(K_m, d)`` float32 rows; a token is the sum of one of each."""
        check_fitted(self)
        return tuple(np.split(self.table_rows_, np.cumsum(self.slot_sizes_)[:-1]))

    @property
    def needs_metrics(self) -> bool:  # type: ignore[override]
        """Whether ``metric`` is that of every token."""
        return self.metric == "pullback"

    def _check_settings(self) -> None:
        super()._check_settings()
        check_choice("metric", self.metric, get_args(Metric))

    def _check_slots(self, dimension: int) -> None:
        """Raise InputError where tokens of this dimension cannot be coded with these settings."""
        if self.slots_setting is not None:
            split_sizes(self.n_codes, getattr(self, self.slots_setting))

    def _fit(self, given: Training) -> dict[str, Any]:
        points = given.points
        self._check_slots(points.shape[1])
        packed, metric, origin = None, np.eye(points.shape[1]), centre_of(points)
        if self.metric == "pullback":
            packed = self._metrics_of(given)
            metric = self._mean_metric(points, packed)
        rows = _sample(len(points), self.random_state)
        part = packed[torch.from_numpy(rows).to(packed.device)] if packed is not None else None
        tables = self._start(StartingSet(points[rows], part, metric))
        distortion = AdditiveDistortion(self._costs(points, packed, metric, origin), metric, self.beam)
        tables, codes, history = lloyd(distortion, tables, self.max_iter, given.on_progress, type(self).__name__)
        return {
            "table_rows_": np.concatenate(tables.rows()),
            "slot_sizes_": np.array(tables.sizes, dtype=np.int64),
            "labels_": codes,
            "cost_history_": history,
            "mean_metric_": metric,
            "origin_": origin,
            "digest_": digest(points),
        }

    def _costs(
        self, points: np.ndarray, packed: torch.Tensor | None, metric: np.ndarray, origin: np.ndarray
    ) -> AdditiveCosts:
        """In the tokens' own metrics where they have some, else in one metric ``(d, d)`` for all."""
        if packed is None:
            return OneMetric(points, metric, origin, self.device)
        return OwnMetrics(MetricFeatures(points, packed, shift_within(metric, self.ridge), origin, self.device))

    def _codewords(
        self, start: StartingSet, points: np.ndarray, size: int, stage: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """k-means of points ``(n, r)`` that stand for the tokens: codewords ``(size, r)`` and codes ``(n,)``.

        In the tokens' own metrics where they have some and ``r`` is ``d``, else Euclidean. Where too few points differ,
        the first codeword stands for those that are missing.
        """
        seed, able = self.random_state + stage, min(size, len(distinct(points)[0]))
        if start.packed is not None and points.shape[1] == start.points.shape[1]:
            shift = shift_within(start.metric, self.ridge)
            seeds = metric_seeds(points, start.packed, shift, able, seed)
            features = MetricFeatures(points, start.packed, shift, centre_of(points))
            codewords, codes, _ = lloyd(features, seeds, self.max_iter)
        else:
            codewords, codes, _ = k_means(points, None, able, self.max_iter, seed)
        return np.concatenate((codewords, np.repeat(codewords[:1], size - able, axis=0))), codes

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N, M)`` int32 by the tokens' own metrics where given, else by the mean metric of the fit."""
        points, packed = self._check_tokens(tokens), None
        if metrics is not None and self.metric == "pullback":
            packed = check_metrics(metrics, *points.shape)
        codes = np.empty((len(points), len(self.slot_sizes_)), dtype=np.int32)
        for start in range(0, len(points), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            own = None if packed is None else packed[part]
            costs = self._costs(points[part], own, self.mean_metric_, self.origin_)
            codes[part], _ = costs.assign(self.tables_, self.beam)
        return codes

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


def _sample(n_tokens: int, random_state: int) -> np.ndarray:
    """Ascending places of the tokens that starting tables are made of: all, or a random part."""
    if n_tokens <= _STARTING_TOKENS:
        return np.arange(n_tokens)
    return np.sort(np.random.default_rng(random_state).choice(n_tokens, _STARTING_TOKENS, replace=False))
