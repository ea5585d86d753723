"""How many dimensions points fill locally, told by the distances to their nearest neighbours.

Where points lie evenly in a ball of ``d`` dimensions, the number within radius ``r`` grows like ``r^d``. Both estimates
use ratios of distances alone, so they need neither scale nor density. Both are too low where ``d`` is large beside
``log N``: then the nearest neighbours are nearly as far as the edge of the set. Compare with points of known dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array


class TwoNearest(NamedTuple):
    """The fit of :func:`two_nearest`: a line through the origin with slope ``dimension``."""

    dimension: float
    log_ratio: np.ndarray
    """``(N,)`` sorted ``log(r₂/r₁)``."""
    log_share: np.ndarray
    """``(N,)`` ``−log(1 − F)`` of each, ``F`` the share of points whose ratio is no larger; infinite for the last."""
    n_fitted: int
    """How many of them the line is fitted to."""


def two_nearest(distances: Array, discarded: float = 0.1) -> TwoNearest:
    """Dimension by the two nearest neighbours (Facco, d'Errico, Rodriguez, Laio 2017, Scientific Reports 7:12140).

    Where the density is even up to the second neighbour, ``P(r₂/r₁ ≤ μ) = 1 − μ^−d``, so ``−log(1 − F)`` over ``log μ``
    is a line through the origin with slope ``d``. Its least-squares fit leaves out the largest ratios.

    Args:
        distances: ``(N, ≥ 2)`` to the nearest others, rising; none zero, so give distinct points.
        discarded: share of points left out, those with the largest ratios; a tenth in the paper.

    Raises:
        InputError: another shape, fewer than 10 points, distances that are no positive rising numbers, or all ratios 1.
    """
    near = _checked(distances, 2)
    if not 0 <= discarded < 1:
        raise InputError(f"discarded is {discarded}; give a share from 0 to below 1")
    log_ratio = np.sort(np.log(near[:, 1] / near[:, 0]))
    n_points = len(log_ratio)
    with np.errstate(divide="ignore"):
        log_share = -np.log1p(-np.arange(1, n_points + 1) / n_points)
    n_fitted = min(n_points - 1, int(n_points * (1 - discarded)))  # the last share is infinite
    x, y = log_ratio[:n_fitted], log_share[:n_fitted]
    if not (x > 0).any():
        raise InputError("every point is as far from its second neighbour as from its first: a grid has no estimate")
    return TwoNearest(float(x @ y / (x @ x)), log_ratio, log_share, n_fitted)


def levina_bickel(distances: Array) -> float:
    """Maximum likelihood over ``k`` neighbours (Levina, Bickel 2004, eq. 8), all points together.

    ``1/d = mean over points of 1/(k − 1) · Σ_{j<k} log(r_k/r_j)``: the mean of the inverses, as MacKay and Ghahramani
    (2005) correct the paper, whose mean over points of ``d`` itself is too high for small ``k``.

    Args:
        distances: ``(N, k)`` to the ``k ≥ 2`` nearest others, rising; none zero.

    Raises:
        InputError: as :func:`two_nearest`.
    """
    near = _checked(distances, 2)
    inverse = float(np.log(near[:, -1:] / near[:, :-1]).mean())
    if inverse == 0:
        raise InputError("every point is as far from all its neighbours: a grid has no estimate")
    return 1 / inverse


def _checked(distances: Array, least: int) -> np.ndarray:
    near = as_array(distances, np.float64)
    if near.ndim != 2 or near.shape[1] < least or len(near) < 10:
        raise InputError(f"distances have shape {near.shape}; give (N, k) of 10 points or more to {least} or more each")
    if not (np.isfinite(near).all() and (near[:, 0] > 0).all() and (np.diff(near, axis=1) >= 0).all()):
        raise InputError("distances must be finite, above zero and rising: give distinct points, nearest first")
    return near
