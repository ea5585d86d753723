"""Residual codebook: every stage codes what the stages before it left over, and all are fitted together at the end."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from geovq.configuration.fields import Count, Positive, Seed
from geovq.quantizers.additive_tables import AdditiveTables
from geovq.quantizers.structured import Metric, StartingSet, StructuredCodebook


@dataclass(eq=False, repr=False)
class ResidualKMeans(StructuredCodebook):
    """A token is the sum of one codeword per stage (Juang, Gray 1982), all stages fitted jointly.

    Starting tables are greedy: each stage is a k-means of what the stages before it left over, in the tokens' own
    metrics. Then passes alternate between the cheapest sums of codewords and the best codewords of all stages together,
    by least squares (additive quantization: Babenko, Lempitsky 2014). With one stage this is ``PullbackKMeans``, or
    ``EuclideanKMeans``. Other settings: see ``StructuredCodebook``.

    Args:
        n_codes: K, split into one size per stage: 512 codes in three stages are 8 × 8 × 8.
        n_stages: M.
    """

    slots_setting: ClassVar[str | None] = "n_stages"

    n_codes: int = 8
    _: KW_ONLY
    n_stages: Count = 2
    metric: Metric = "pullback"
    ridge: Positive = 1e-3
    max_iter: Count = 25
    beam: Count = 8
    random_state: Seed = 0
    device: str | None = None

    def _start(self, start: StartingSet) -> AdditiveTables:
        sizes = self._sizes(start.points)
        left, coordinates = start.points, []
        for stage, size in enumerate(sizes):
            codewords, codes = self._codewords(start, left, size, stage)
            coordinates.append(codewords.astype(np.float64))
            left = left - codewords[codes]
        d = left.shape[1]
        return AdditiveTables(tuple(coordinates), (np.eye(d),) * len(sizes), np.zeros(d), free_offset=False)
