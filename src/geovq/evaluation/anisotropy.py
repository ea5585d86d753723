"""How unequal the directions of a latent space are to the decoder, and what whitening them can gain.

Two answers from the mean metric ``Ḡ`` of the tokens. The first needs only its eigenvalues ``λ_1 … λ_d``: a codebook
that ignores the metric makes errors of equal size in all directions, which cost their arithmetic mean; one in the
coordinates ``Ḡ^{1/2}`` costs their geometric mean, for it has ``det(Ḡ)^{1/d}`` in place of 1 in the high-rate formula
(Gersho 1979; for weighted errors Li, Chaddha, Gray 1999). The ratio of the means describes the latents, and is the gain
of whitening where the rate is so high that *every* direction is described. Where most dimensions are dead, it counts
them all.

The second also knows how far the tokens spread, ``Σ``, and how many bits they have. Codes of a Gaussian with this
covariance describe, by reverse water-filling, only the directions that stand above the water: those of most variance
without the metric, those of most variance *times* effect with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.evaluator import NEITHER, Measured, Score, evaluator
from geovq.evaluation.gaussian_reference import water_level
from geovq.geometry import symmetric
from geovq.models.vae import NATS_PER_BIT, Posterior

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

# Eigenvalues below this share of the largest are rounding: their logarithm says nothing.
_LEAST_SHARE = 1e-7
# tr(ΣḠ) below this share of tr(Σ)·tr(Ḡ) is rounding: what varies has no effect.
_NOTHING = 1e-14


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


def predicted_whitening_gain(covariance: Tensor, mean_metric: Tensor, bits: float) -> float | None:
    """What whitening gains codes of Gaussian tokens in expected pull-back distortion ``E[eᵀ Ḡ e]`` at a rate.

    Without the metric the least error at this rate has the covariance ``E = U diag(min(θ, s_i)) Uᵀ``, where
    ``Σ = U diag(s_i) Uᵀ`` and θ is the water level; it costs ``tr(Ḡ E)``. With it the tokens are those of covariance
    ``Ḡ^{1/2} Σ Ḡ^{1/2}``, and their least error, the sum of ``min(θ', s'_i)``, is the cost itself (Cover, Thomas 2006,
    theorem 10.3.3, twice). Both codes are ideal ones of long blocks: what a codebook of single tokens loses to them
    cancels as far as both lose the same.

    Args:
        covariance: ``(d, d)`` of the tokens.
        mean_metric: ``(d, d)`` mean metric of the tokens; both symmetric, positive semidefinite to rounding.
        bits: per token, not negative.

    Returns:
        Ten times the decimal logarithm of the ratio of costs, in dB, never below zero but for rounding; None where no
        direction of the tokens both varies and has an effect.

    Raises:
        InputError: shapes that differ, values that are not finite, negative bits.
    """
    if covariance.shape != mean_metric.shape or covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise InputError(
            f"covariance {tuple(covariance.shape)} and mean metric {tuple(mean_metric.shape)}: give both as (d, d)"
        )
    spread, metric = covariance.double().cpu(), mean_metric.double().cpu()
    if not (spread.isfinite().all() and metric.isfinite().all()):
        raise InputError("the covariance or the mean metric is not finite")
    rate = torch.tensor([bits], dtype=torch.float64)
    variances, axes = torch.linalg.eigh(spread)
    variances = variances.clamp(min=0)
    errors = torch.minimum(variances, water_level(variances, rate))
    plain = float(((axes.T @ metric @ axes).diagonal() * errors).sum())
    # Σ^{1/2} Ḡ Σ^{1/2} has the eigenvalues of Ḡ^{1/2} Σ Ḡ^{1/2}, and Σ is decomposed already.
    root = axes * variances.sqrt()
    costs = torch.linalg.eigvalsh(root.T @ metric @ root).clamp(min=0)
    if float(costs.sum()) <= _NOTHING * float(spread.trace() * metric.trace()):
        return None
    return 10 * math.log10(plain / float(torch.minimum(costs, water_level(costs, rate)).sum()))


_BLIND = "a direction of the latents has no effect on images"
_ONE_TOKEN = "the test images hold a single token, which has no spread"
_GAIN = "whitening_gain_predicted_db"
_SPREAD = "kl_bits_per_token_standard_deviation"


@evaluator(
    Score("metric_eigenvalue_largest", "largest eigenvalue", "pixel² per latent²"),
    Score("metric_eigenvalue_mean", "mean eigenvalue", "pixel² per latent²"),
    Score("metric_mean_ratio", "ratio of means", "", NEITHER, ".5g", "arithmetic over geometric mean of eigenvalues"),
    Score(
        "metric_mean_ratio_db", "ratio of means", "dB", NEITHER, ".2f", "how unequal the directions are, dead ones too"
    ),
    needs=[needs.points],
    of_autoencoder=True,
)
def spectrum(run: EvaluatedRun) -> Measured:
    """Eigenvalues of the mean metric tensor of test tokens"""
    values, _ = metric_spectrum(symmetric.mean_metric(run.metric_tensors))
    return Measured(values, omitted=dict.fromkeys(spectrum.names(run), _BLIND))


def _posterior(run: EvaluatedRun) -> str | None:
    """a VAE"""
    return "the autoencoder was trained with its quantizer and has no posterior" if run.rate is None else None


@evaluator(
    Score("kl_bits_per_token", "KL divergence", "bits/token", NEITHER, ".3g", "of the posterior, validation images"),
    Score("active_dimensions", "active dimensions", form=".0f", description="over 0.01 bits, validation images"),
    Score(_SPREAD, "spread of KL divergence", "bits/token", NEITHER, ".3g", "how unevenly test tokens have it"),
    needs=[_posterior],
    of_autoencoder=True,
)
def posterior(run: EvaluatedRun) -> Measured:
    """What the posterior spends; no rate of the codes"""
    assert run.rate is not None
    values = {name: float(run.rate[name]) for name in ("kl_bits_per_token", "active_dimensions")}
    divergence = Posterior(run.latents["mean"], run.latents["log_variance"]).divergence() / NATS_PER_BIT
    spread = {_SPREAD: float(divergence.std())} if divergence.numel() > 1 else {}
    return Measured(values | spread, omitted={_SPREAD: _ONE_TOKEN})


@evaluator(
    Score(_GAIN, "predicted gain of whitening", "dB", NEITHER, ".2f", "of Gaussian codes of the nominal rate"),
    needs=[needs.points],
)
def whitening(run: EvaluatedRun) -> Measured:
    """What whitening gains Gaussian codes of as many bits as these: of the latents and the rate, not of the codes"""
    tokens = run.tokens.double()
    if len(tokens) < 2:
        return Measured(omitted={_GAIN: _ONE_TOKEN})
    covariance = torch.atleast_2d(torch.cov(tokens.T))  # of one dimension torch gives a scalar
    bits = run.codec.nominal_bits / (len(tokens) / len(run.latents["mean"]))
    gain = predicted_whitening_gain(covariance, symmetric.mean_metric(run.metric_tensors), bits)
    values = {} if gain is None else {_GAIN: gain}
    return Measured(values, omitted={_GAIN: "what varies in the latents has no effect on images"})
