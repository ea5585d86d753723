"""Sets of features by their neighbours: precision and recall, density and coverage, nearest training images."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation.image_sets import check_features

PRECISION_K, DENSITY_K = 3, 5
"""Neighbours that set the radius: Kynkäänniemi et al. 2019, section 3.1; Naeem et al. 2020, section 4.1."""

_CHUNK_NUMBERS = 2**21
_EQUAL = 1e-5
"""Squared distances below this share of the squared lengths are rounding errors of products in float32."""


class Neighbourhoods:
    """A real set, and how generated sets lie in it: around each point a ball to its k-th nearest other point.

    Args:
        real_features: (N, D), N greater than both numbers of neighbours.
        k: neighbour of precision and recall.
        k_density: neighbour of density and coverage.
        device: where to compute; by default where the features are.
    """

    def __init__(
        self,
        real_features: Tensor,
        k: int = PRECISION_K,
        k_density: int = DENSITY_K,
        device: torch.device | None = None,
    ) -> None:
        if min(k, k_density) < 1:
            raise InputError(f"k={min(k, k_density)}: the radius needs at least the first neighbour")
        check_features(real_features, real_features, at_least=max(k, k_density) + 1)
        self.k, self.k_density = k, k_density
        # distances are the same from any origin, and from this one products lose fewer digits
        self.device = device or real_features.device
        real = real_features.detach().to(self.device).float()
        self._origin = real.mean(0)
        self.real = real - self._origin

    @cached_property
    def _radii(self) -> Tensor:
        return _radii(self.real, (self.k, self.k_density))

    def scores(self, generated_features: Tensor) -> dict[str, float]:
        """``precision``, ``recall``, ``density`` and ``coverage`` of generated features (M, D), M > k.

        Precision is the share of generated points inside a ball of the real set, recall the reverse (Kynkäänniemi et
        al. 2019, eq. 1 and 2), both in [0, 1]. Density is the number of real balls that a generated point lies in,
        over k and on average (Naeem et al. 2020, eq. 3): 1 in expectation where both sets are of one distribution, and
        it can exceed that. Coverage is the share of real balls that hold a generated point (eq. 4), in [0, 1]; of one
        distribution it is 1 − (N−1)…(N−k) / ((M+N−1)…(M+N−k)) (their lemma 2).
        """
        check_features(self.real, generated_features, at_least=self.k + 1)
        generated = generated_features.detach().to(self.device).float() - self._origin
        own = _radii(generated, (self.k,))[:, 0]
        inside = balls = 0
        recalled, covered = torch.zeros(2, len(self.real), dtype=torch.bool)
        rows = max(1, _CHUNK_NUMBERS // len(self.real))
        for part, radii in zip(generated.split(rows), own.split(rows), strict=True):
            squared = _squared_distances(part, self.real)
            inside += int((squared <= self._radii[:, 0]).any(1).sum())
            recalled |= (squared <= radii[:, None]).any(0).cpu()
            within = squared <= self._radii[:, 1]
            balls += int(within.sum())
            covered |= within.any(0).cpu()
        return {
            "precision": inside / len(generated),
            "recall": float(recalled.double().mean()),
            "density": balls / (self.k_density * len(generated)),
            "coverage": float(covered.double().mean()),
        }


def nearest_squared(queries: Tensor, points: Tensor, device: torch.device | None = None) -> Tensor:
    """Squared distance (M,) of queries (M, D) to the nearest of points (N, D), on the CPU.

    ``device``: where to compute; by default where the points are.
    """
    check_features(points, queries, at_least=1)
    queries, points = (each.detach().to(device or points.device).float() for each in (queries, points))
    origin = points.mean(0)
    queries, points = queries - origin, points - origin
    lengths, rows = points.square().sum(1), max(1, _CHUNK_NUMBERS // len(points))
    # the query's own length is the same for all points, so it is added to the least
    least = [torch.addmm(lengths, part, points.T, alpha=-2).amin(1) for part in queries.split(rows)]
    return (torch.cat(least) + queries.square().sum(1)).clamp(min=0).cpu()


def _radii(points: Tensor, ks: tuple[int, ...]) -> Tensor:
    """Squared distance of each point to its k-th nearest other points, (N, len(ks))."""
    nearest = []
    for part in points.split(max(1, _CHUNK_NUMBERS // len(points))):
        # the point itself is at distance 0 and takes the first place
        nearest.append(_squared_distances(part, points).topk(max(ks) + 1, dim=1, largest=False).values)
    return torch.cat(nearest)[:, list(ks)]


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Through products, ten times as fast as by differences; equal points are at 0 in spite of that."""
    lengths = first.square().sum(1)[:, None] + second.square().sum(1)
    squared = torch.addmm(lengths, first, second.T, alpha=-2)
    return squared.masked_fill_(squared < lengths.mul_(_EQUAL), 0.0)
