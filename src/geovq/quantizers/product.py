"""Product codebook: the dimensions fall into blocks, and every block has codewords of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.quantizers.additive_tables import AdditiveTables, principal_axes
from geovq.quantizers.structured import Metric, StartingSet, StructuredCodebook


@dataclass(eq=False, repr=False)
class ProductKMeans(StructuredCodebook):
    """Product quantization (Jégou, Douze, Schmid 2011) in principal axes, with a metric per token.

    Blocks are made of principal axes of the tokens in the mean metric, dealt so that every block has its share of the
    variance (Ge, He, Ke, Sun 2013), and each starts with its own k-means. Under a metric per token the blocks are not
    independent. So passes alternate between the cheapest combinations of codewords, with all blocks in view, and the
    best codewords of all blocks together, by least squares. Other settings: see ``StructuredCodebook``.

    Args:
        n_codes: K, split into one size per block: 512 codes in two blocks are 32 × 16.
        n_parts: M, a divisor of the dimension.
    """

    slots_setting: ClassVar[str | None] = "n_parts"

    n_codes: int = 8
    _: KW_ONLY
    n_parts: Count = 2
    metric: Metric = "pullback"
    ridge: Positive = 1e-3
    max_iter: Count = 25
    beam: Count = 8
    random_state: Seed = 0
    device: str | None = None

    def _check_slots(self, dimension: int) -> None:
        if self.n_parts < 1 or dimension % self.n_parts:
            able = ", ".join(str(parts) for parts in range(1, dimension + 1) if dimension % parts == 0)
            raise InputError(
                f"n_parts is {self.n_parts}, which does not divide the {dimension} dimensions of the tokens; "
                f"choose one of {able}"
            )
        super()._check_slots(dimension)

    def _start(self, start: StartingSet) -> AdditiveTables:
        sizes = self._sizes(start.points)
        axes = principal_axes(start.points, start.metric)
        y = axes.coordinates(start.points)
        blocks = deal_axes(axes.variances, sizes)
        # A single block spans the space: then its metric is that of the tokens, and k-means need not take the mean one.
        coordinates, bases = [], []
        for part, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
            if len(blocks) == 1:
                codewords = axes.coordinates(self._codewords(start, start.points, size)[0])[:, block]
            else:
                codewords, _ = self._codewords(start, np.ascontiguousarray(y[:, block]), size, part)
            coordinates.append(codewords.astype(np.float64))
            bases.append(axes.directions[:, block])
        return AdditiveTables(tuple(coordinates), tuple(bases), axes.origin.astype(np.float64), free_offset=True)


def deal_axes(variances: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Which axes each block takes: as many each, and log-variance in proportion to its bits.

    At high rates block m of r axes is left with distortion ``r·(Π variances)^{1/r}·K_m^{−2/r}``. Largest variance
    first, each axis goes to the block in which this is smallest so far (eigenvalue allocation: Ge et al. 2013, section
    3.2.3, there for blocks of equal K).

    Args:
        variances: ``(d,)`` along the axes, not negative.
        sizes: codes of each block; their number divides d.
    """
    per_block = len(variances) // len(sizes)
    floor = max(float(variances.max()), 1e-30) * 1e-12
    logs = np.log(np.maximum(variances, floor) / max(float(variances.min()), floor))
    loads = [-2 * float(np.log(size)) for size in sizes]
    blocks: list[list[int]] = [[] for _ in sizes]
    for axis in np.argsort(-variances, kind="stable"):
        block = min((m for m in range(len(sizes)) if len(blocks[m]) < per_block), key=lambda m: loads[m])
        blocks[block].append(int(axis))
        loads[block] += float(logs[axis])
    return [np.array(sorted(block)) for block in blocks]
