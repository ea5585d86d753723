"""Fréchet distance between Gaussians fitted to two sets of features, and its standard error over draws."""

from __future__ import annotations

import torch
from torch import Tensor

from geovq.evaluation.image_sets import GROUPS, check_features, groups_of
from geovq.evaluation.statistics import jackknife_standard_error


def frechet(real_features: Tensor, generated_features: Tensor, device: torch.device | None = None) -> float:
    """Fréchet distance between Gaussians fitted to both feature sets, (N, D) and (M, D), in squared feature units.

    Heusel et al. 2017, eq. 6, in float64, on the CPU unless told; biased upwards by about 1/N.

    Raises:
        InputError: fewer than two images in a set, other shapes, or features that are not finite.
    """
    check_features(real_features, generated_features)
    return _distance(*_to(real_features, device), *_gaussian(*_sums(generated_features, device)))


def frechet_with_error(
    real_features: Tensor, generated_features: Tensor, groups: int = GROUPS, device: torch.device | None = None
) -> tuple[float, float | None]:
    """``frechet`` and its standard error over draws of the generated images, the real ones being fixed.

    The error is that of a delete-group jackknife (``jackknife_standard_error``) over ``groups_of`` the generated
    images; None where they are fewer than four.
    """
    check_features(real_features, generated_features)
    fixed = _to(real_features, device)
    parts = [_sums(part, device) for part in groups_of(generated_features, groups)]
    whole = [torch.stack(each).sum(0) for each in zip(*parts, strict=True)]
    value = _distance(*fixed, *_gaussian(*whole))
    if len(generated_features) < 4:
        return value, None
    without = [
        _distance(*fixed, *_gaussian(*(all_ - own for all_, own in zip(whole, part, strict=True)))) for part in parts
    ]
    return value, jackknife_standard_error(torch.tensor(without, dtype=torch.float64))


def _sums(features: Tensor, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor]:
    """Number, sum (D,) and sum of outer products (D, D), in float64."""
    features = features.detach().to(device or "cpu").double()
    return torch.tensor(float(len(features)), dtype=torch.float64), features.sum(0), features.T @ features


def _gaussian(number: Tensor, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D)."""
    mean = total / number
    return mean, (outer - number * torch.outer(mean, mean)) / (number - 1)


def _to(features: Tensor, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Mean and symmetric root of the covariance."""
    mean, covariance = _gaussian(*_sums(features, device))
    values, vectors = torch.linalg.eigh(covariance)
    return mean, (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _distance(mean: Tensor, root: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """‖m − m'‖² + tr(C + C' − 2 (C C')^½); the last trace is that of the root of the similar C^½ C' C^½."""
    shared = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    apart = (mean - other_mean).square().sum() + root.square().sum() + other_covariance.trace() - 2 * shared
    # equal sets can end at -1e-9
    return max(0.0, float(apart))
