"""k-means in coordinates that a constant metric makes straight: all that a constant metric can do for a codebook.

``eᵀḠe = |Ḡ^½e|²``, so k-means of ``Ḡ^½z`` minimises the decoded error of a decoder with the same metric everywhere. It
is the baseline that a varying metric has to beat.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.geometry.checks import Array, check_choice, check_metrics
from geovq.geometry.symmetric import mean_metric, metric_shift, square_root
from geovq.quantizers.base import Training
from geovq.quantizers.euclidean import NearestCodebook, k_means

Scaling = Literal["full", "diagonal", "posterior"]


@dataclass(eq=False, repr=False)
class WhitenedKMeans(NearestCodebook):
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
    needs_metrics: ClassVar[bool] = True
    state_attributes = (*NearestCodebook.state_attributes, "mean_metric_")

    n_codes: int = 8
    _: KW_ONLY
    scaling: Literal["full", "diagonal"] = "full"
    ridge: Positive = 1e-3
    max_iter: Count = 25
    random_state: Seed = 0
    device: str | None = None

    def _fit(self, given: Training) -> dict[str, Any]:
        metric = constant_metric(given.points, self._metrics_of(given), self.scaling, self.ridge)
        scale, settings = square_root(metric), (self.n_codes, self.max_iter, self.random_state, self.device)
        codewords, _, history = k_means(given.points, scale, *settings, given.on_progress)
        return {"cluster_centers_": codewords, "cost_history_": history, "mean_metric_": metric}


@dataclass(eq=False, repr=False)
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
    needs_posterior: ClassVar[bool] = True
    scaling: Scaling = field(init=False, default="posterior")  # type: ignore[assignment]


def constant_metric(points: np.ndarray, metrics: Array, scaling: Scaling, ridge: float) -> np.ndarray:
    """``(d, d)`` float64 ``Ḡ + ρI`` of packed metrics, by one of the scalings of ``WhitenedKMeans``.

    Raises:
        InputError: metrics that do not fit, are not finite or all zero; a singular mean metric without ridge.
    """
    check_choice("scaling", scaling, get_args(Scaling))
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
