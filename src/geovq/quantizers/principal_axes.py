"""Axes along which tokens are uncorrelated, in the metric that their cost is measured by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geovq.geometry.symmetric import square_root
from geovq.quantizers.euclidean import mean_of

# Tokens that are summed at a time in float64.
_ROWS = 65_536


class PrincipalAxes(NamedTuple):
    """Coordinates ``y = (z − origin) @ into`` with ``z = origin + directions @ y``, whose lengths are those of the
    metric.

    ``yᵀy = (z − origin)ᵀA(z − origin)``, and the ``y`` of the tokens are uncorrelated.
    """

    origin: np.ndarray
    """``(d,)`` float32 mean of the tokens."""
    into: np.ndarray
    """``(d, d)`` float64."""
    directions: np.ndarray
    """``(d, d)`` float64, a column per axis; the inverse of ``intoᵀ``."""
    variances: np.ndarray
    """``(d,)`` float64, descending."""

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """``(N, d)`` float32 coordinates of points."""
        return np.asarray((points - self.origin) @ self.into.astype(np.float32))


def principal_axes(points: np.ndarray, metric: np.ndarray) -> PrincipalAxes:
    """Principal axes of ``A^½z`` for ``(N, d)`` float32 points and a positive definite metric ``A`` ``(d, d)``.

    With ``A`` the mean pull-back metric these are coordinates that whiten the decoded error, not the tokens: an error
    of one unit costs the same along every axis, and the variances tell where there is something to code.
    """
    origin = mean_of(points)
    covariance = np.zeros_like(metric, dtype=np.float64)
    for start in range(0, len(points), _ROWS):
        part = (points[start : start + _ROWS] - origin).astype(np.float64)
        covariance += part.T @ part
    root = square_root(metric)
    values, vectors = np.linalg.eigh(root @ (covariance / len(points)) @ root)
    into = root @ vectors[:, ::-1]
    return PrincipalAxes(origin, into, np.linalg.inv(into).T, np.maximum(values[::-1], 0))
