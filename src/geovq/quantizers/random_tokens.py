"""A codebook of random tokens: what a codebook is worth that nobody fitted."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from geovq.configuration.fields import Seed
from geovq.geometry.neighbors import distinct
from geovq.quantizers.base import Training, check_n_codes
from geovq.quantizers.euclidean import NearestCodebook, nearest_in_coordinates
from geovq.quantizers.nearest import squared_distances
from geovq.quantizers.seeding import draw_in_proportion


@dataclass(eq=False, repr=False)
class RandomTokens(NearestCodebook):
    """``n_codes`` distinct tokens drawn at random, each with the chances of its number of duplicates.

    ``inertia_`` is the sum of squared latent distances; ``n_iter_`` is 0.

    Args:
        n_codes: K.
        random_state: of the draw; the same number gives the same codebook.
        device: where tokens are assigned; the CPU by default.
    """

    n_codes: int = 8
    _: KW_ONLY
    random_state: Seed = 0
    device: str | None = None

    def _fit(self, given: Training) -> dict[str, Any]:
        points = given.points
        unique, _, counts = distinct(points)
        check_n_codes(self.n_codes, len(unique), len(points))
        rng = np.random.default_rng(self.random_state)
        codewords = unique[draw_in_proportion(counts.astype(np.float64), self.n_codes, rng)]
        labels = nearest_in_coordinates(points, codewords, device=self.device)
        cost = float(squared_distances(points, codewords, labels).sum(dtype=np.float64))
        if given.on_progress is not None:
            given.on_progress(0, cost)
        return {"cluster_centers_": codewords, "labels_": labels, "cost_history_": np.array([cost])}
