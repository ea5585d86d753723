"""Scalar codebook: a few levels along each of the axes that are worth it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from geovq.configuration.fields import Count, FewCodes, Positive, Seed
from geovq.quantizers.additive_tables import AdditiveTables, principal_axes
from geovq.quantizers.base import check_at_least
from geovq.quantizers.pullback import shift_within
from geovq.quantizers.scalar_levels import best_levels, share_levels
from geovq.quantizers.structured import Metric, StartingSet, StructuredCodebook

# Levels that one axis may have at most.
_MOST_LEVELS = 256


@dataclass(eq=False, repr=False)
class ScalarLevels(StructuredCodebook):
    """Transform coding: finite levels along principal axes, each axis with as many as pay.

    Axes are the principal ones of the tokens in the mean metric. The levels of an axis are the best for its tokens
    (Lloyd 1982, Max 1960, here by dynamic programming), each token with the weight that its own metric gives the axis;
    numbers of levels are those with product at most K and the smallest distortion. An axis with one level has no slot:
    how many slots there are follows from the tokens. Then passes alternate between the cheapest combinations of levels
    in the tokens' own metrics and the best levels of all axes together, by least squares.
    Other settings: see ``StructuredCodebook``.

    Args:
        n_codes: K, at least 2; the product of the numbers of levels does not exceed it.
        metric: ``"pullback"``, with a metric per token, or ``"euclidean"``: axes of the covariance.
        max_iter: passes at most; fewer once a pass gains less than 10⁻⁵ of the cost.
        random_state: of the tokens that the levels start from, where there are more than 131,072.
    """

    n_codes: FewCodes = 8
    _: KW_ONLY
    metric: Metric = "pullback"
    ridge: Positive = 1e-3
    max_iter: Count = 25
    beam: Count = 8
    random_state: Seed = 0
    device: str | None = None

    def _check_settings(self) -> None:
        super()._check_settings()
        check_at_least(self.n_codes, 2, "n_codes")

    def _start(self, start: StartingSet) -> AdditiveTables:
        axes = principal_axes(start.points, start.metric)
        y = axes.coordinates(start.points)
        shift = shift_within(start.metric, self.ridge)
        weights = None if start.packed is None else lengths_along(start.packed, axes.directions, shift)
        most = min(self.n_codes, _MOST_LEVELS)
        levels = [
            best_levels(y[:, axis], None if weights is None else weights[:, axis], most) for axis in range(y.shape[1])
        ]
        numbers = share_levels([each.distortions for each in levels], self.n_codes)
        if numbers.max() == 1:  # all tokens are equal: levels that differ in nothing keep the promise of a code
            numbers[0] = 2
        # Most levels first; among equals the axis of the larger variance.
        used = [axis for axis in np.argsort(-numbers, kind="stable") if numbers[axis] > 1]
        coordinates = tuple(levels[axis].values(int(numbers[axis]))[:, None] for axis in used)
        bases = tuple(axes.directions[:, [axis]] for axis in used)
        return AdditiveTables(coordinates, bases, axes.origin.astype(np.float64), free_offset=True)


def lengths_along(packed: torch.Tensor, directions: np.ndarray, shift: float) -> np.ndarray:
    """``bᵀ(G + shift·I)b`` of every token's metric ``(N, d(d+1)/2)`` and direction, as ``(N, r)`` float32.

    Args:
        packed: on any device.
        directions: ``(d, r)`` columns ``b``.
        shift: added to the diagonals.
    """
    i, j = np.triu_indices(len(directions))
    products = directions[i] * directions[j] * np.where(i == j, 1.0, 2.0)[:, None]
    values = packed.cpu().float().numpy() @ products.astype(np.float32)
    lengths: np.ndarray = np.maximum(values + shift * np.square(directions).sum(axis=0), 0).astype(np.float32)
    return lengths
