"""How unequal the directions of a latent space are to the decoder: the spectrum of the mean metric.

Let ``λ_1 … λ_d`` be the eigenvalues of the mean metric ``Ḡ`` of the tokens. A codebook of many codewords that ignores
the metric makes errors of equal size in all directions, which cost the arithmetic mean of the eigenvalues; one in the
coordinates ``Ḡ^{1/2}`` costs their geometric mean, for it has ``det(Ḡ)^{1/d}`` in place of 1 in the high-rate formula
(Gersho 1979; for weighted errors Li, Chaddha, Gray 1999). The ratio of the means is what whitening gains at high rate,
in decoded error to first order. At few bits per dimension it is a guide, not a prediction: codebooks leave weak
directions out altogether.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geovq.errors import InputError

# Eigenvalues below this share of the largest are rounding: their logarithm says nothing.
_LEAST_SHARE = 1e-7


def metric_spectrum(mean_metric: Tensor) -> tuple[dict[str, float], Tensor]:
    """Spectrum of a mean metric.

    Args:
        mean_metric: ``(d, d)`` symmetric, positive semidefinite to rounding.

    Returns:
        ``metric_eigenvalue_largest``, ``metric_eigenvalue_mean`` (pixel² per squared latent unit) and, where no
        direction is without effect, ``metric_mean_ratio`` (arithmetic over geometric mean, at least 1) and
        ``metric_mean_ratio_db`` (ten times its decimal logarithm); and the eigenvalues, falling, (d,) float64.

    Raises:
        InputError: no square matrix, NaN, or all zero.
    """
    if mean_metric.ndim != 2 or mean_metric.shape[0] != mean_metric.shape[1]:
        raise InputError(f"the mean metric has shape {tuple(mean_metric.shape)}: give (d, d)")
    values = torch.linalg.eigvalsh(mean_metric.double().cpu()).flip(0)
    if not torch.isfinite(values).all() or values[0] <= 0:
        raise InputError("the mean metric is zero or not finite: the decoder ignores these latents")
    metrics = {
        "metric_eigenvalue_largest": float(values[0]),
        "metric_eigenvalue_mean": float(values.mean()),
    }
    if values[-1] > _LEAST_SHARE * values[0]:
        log_ratio = float(values.mean().log() - values.log().mean())
        metrics["metric_mean_ratio"] = math.exp(log_ratio)
        metrics["metric_mean_ratio_db"] = 10 * log_ratio / math.log(10)
    return metrics, values
