"""k-means in coordinates that a constant metric makes straight: all that a constant metric can do for a codebook.

``eᵀḠe = |Ḡ^½e|²``, so k-means of ``Ḡ^½z`` minimises the decoded error of a decoder with the same metric everywhere. It
is the baseline that a varying metric has to beat.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.geometry.checks import Array
from geovq.geometry.graph import TokenGraph
from geovq.geometry.symmetric import mean_metric, square_root
from geovq.quantizers.base import CodebookEstimator, Progress, check_at_least
from geovq.quantizers.euclidean import k_means, nearest_in_coordinates
from geovq.quantizers.metric_features import check_metrics, metric_shift

Scaling = Literal["full", "diagonal", "posterior"]


class WhitenedKMeans(CodebookEstimator):
    """k-means by ``eᵀ(Ḡ + ρI)e`` with one metric for all tokens.

    ``ρ`` is ``ridge`` times the mean eigenvalue of ``Ḡ``, so that dimensions that the decoder ignores keep a length.
    ``inertia_`` is in squared pixel error summed over all tokens, where the metrics are.

    Args:
        n_codes: K.
        scaling: ``"full"``: ``Ḡ`` is the mean of the metrics. ``"diagonal"``: its diagonal.
        ridge: share of the mean eigenvalue; 0 is allowed where the mean metric is not singular.
        max_iter: Lloyd passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the seeding; the same number gives the same codebook.
        device: where tokens are assigned; the CPU by default.
    """

    rule: ClassVar[str] = "nearest codeword in the mean metric of the training tokens"
    needs_metrics: bool = True
    state_attributes: ClassVar[tuple[str, ...]] = ("cluster_centers_", "cost_history_", "mean_metric_")

    _scaling: ClassVar[Scaling | None] = None
    """In place of the setting, where the class has but one."""

    mean_metric_: np.ndarray
    """``(d, d)`` float64: ``Ḡ + ρI``, by which tokens are assigned."""

    def __init__(
        self,
        n_codes: int = 8,
        *,
        scaling: Literal["full", "diagonal"] = "full",
        ridge: Positive = 1e-3,
        max_iter: Count = 25,
        random_state: Seed = 0,
        device: str | None = None,
    ) -> None:
        self.n_codes = n_codes
        self.scaling = scaling
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

        Raises:
            InputError: no metrics or ones that do not fit, are not finite or all zero; a singular mean metric without
                ridge; NaN; more codewords than distinct tokens.
        """
        check_at_least(self.max_iter, 1, "max_iter")
        points = self._check_tokens(tokens, fitting=True)
        metric = constant_metric(points, self._check_metrics(metrics), self._scaling or self.scaling, self.ridge)
        scale = square_root(metric)
        codewords, _, history = k_means(
            points, scale, self.n_codes, self.max_iter, self.random_state, self.device, on_progress
        )
        labels = nearest_in_coordinates(points, codewords, scale, self.device)
        self._finish(cluster_centers_=codewords, labels_=labels, cost_history_=history, mean_metric_=metric)
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 of the codewords nearest in the mean metric of the fit; ``metrics`` are not used.

        Raises:
            InputError: not fitted, NaN, or another dimension than the codewords'.
        """
        points = self._check_tokens(tokens)
        return nearest_in_coordinates(points, self.cluster_centers_, square_root(self.mean_metric_), self.device)


class PosteriorKMeans(WhitenedKMeans):
    """``WhitenedKMeans`` with the scaling of the encoder's posterior: geometry without a decoder pass.

    ``Ḡ`` is the mean of the diagonal metrics that ``posterior_metrics`` read from the encoder, so that coordinates are
    scaled by the root mean of what the posterior's precision has above the prior's.

    Args:
        n_codes: K.
        ridge: see ``WhitenedKMeans``; so are the others.
        max_iter: passes at most.
        random_state: of the seeding.
        device: where tokens are assigned.
    """

    rule: ClassVar[str] = "nearest codeword in latents scaled by the root mean precision of the posterior"
    needs_posterior: bool = True
    _scaling: ClassVar[Scaling | None] = "posterior"

    def __init__(
        self,
        n_codes: int = 8,
        *,
        ridge: Positive = 1e-3,
        max_iter: Count = 25,
        random_state: Seed = 0,
        device: str | None = None,
    ) -> None:
        super().__init__(n_codes, ridge=ridge, max_iter=max_iter, random_state=random_state, device=device)


def constant_metric(points: np.ndarray, metrics: Array, scaling: Scaling, ridge: float) -> np.ndarray:
    """``(d, d)`` float64 ``Ḡ + ρI`` of packed metrics, by one of the scalings of ``WhitenedKMeans``.

    Raises:
        InputError: as ``WhitenedKMeans.fit``.
    """
    if scaling not in ("full", "diagonal", "posterior"):
        raise InputError(f"scaling is {scaling!r}; choose 'full', 'diagonal' or 'posterior'")
    mean = mean_metric(check_metrics(metrics, *points.shape)).double().cpu().numpy()
    if not np.isfinite(mean).all():
        raise InputError("metrics hold NaN or infinity; check the decoder's output")
    diagonal = np.diag(np.diag(mean))
    if scaling == "posterior" and not np.array_equal(mean, diagonal):
        raise InputError(
            "scaling is 'posterior', but the metrics have off-diagonal entries; "
            "give those of posterior_metrics, or choose scaling='diagonal'"
        )
    metric = (mean if scaling == "full" else diagonal) + metric_shift(mean, ridge) * np.eye(len(mean))
    values = np.linalg.eigvalsh(metric)
    if values[0] <= 1e-7 * values[-1]:
        raise InputError(
            f"the mean metric has eigenvalues from {values[0]:.3g} to {values[-1]:.3g} and cannot be inverted; "
            f"raise ridge, which is {ridge}, to 1e-3"
        )
    return metric
