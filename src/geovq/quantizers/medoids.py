"""k-medoids on a graph by local search: seeds, then rounds of swaps that pay, without a distance matrix.

The search ends with a round that lowers the cost by less than a thousandth, or by ``max_iter``: single swaps may still
pay, if little. On a small graph a round tries every node as a medoid, as FasterPAM does. On a large one it tries a
fixed number of candidates per codeword, at a price of O(candidates per codeword · (E log M + K²)). They are drawn by
their share of the sum of distances: from where many tokens are, or where the codebook serves them badly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from geovq.geometry.paths import nearest_labels
from geovq.progress import progress
from geovq.quantizers.seeding import geodesic_seeds
from geovq.quantizers.swaps import GraphArrays, cells_of, swap_candidates

# Edges that the candidates of a round may visit whatever K is: less than a second.
_CHEAP_ROUND = 50_000_000
# The search from a candidate covers about so many cells of average size.
_CELLS_VISITED = 3
# Candidates priced together: enough for many threads, few enough that little of a price is out of date when it is used.
_BATCH = 256
# Relative gain of a round below which further rounds are not worth their time.
_SMALLEST_GAIN = 1e-3


class Medoids(NamedTuple):
    """The result of a local search."""

    nodes: np.ndarray
    """``(K,)`` int32 medoids."""
    codes: np.ndarray
    """``(M,)`` int32 place of every node's nearest medoid."""
    distances: np.ndarray
    """``(M,)`` float64 distance to it."""
    history: np.ndarray
    """Cost after seeding and after every round, float64, falling."""


def search_medoids(
    graph: GraphArrays,
    weights: np.ndarray,
    n_codes: int,
    exponent: int,
    max_iter: int,
    n_candidates: int,
    rng: np.random.Generator,
    initial: np.ndarray | None = None,
    on_round: Callable[[int, float], None] | None = None,
) -> Medoids:
    """Nodes that make ``Σ_u weight_u · (distance of u to the nearest)^exponent`` small.

    Memory beside the graph: some ten arrays of M numbers, on every thread two more, none that grows with M·K.

    Args:
        graph: of a connected symmetric CSR matrix.
        weights: ``(M,)`` float64 tokens per node.
        n_codes: K.
        exponent: 1 or 2.
        max_iter: rounds at most; fewer once one lowers the cost by less than a thousandth.
        n_candidates: nodes tried per codeword and round, more (up to all) where the graph is small.
        rng: of seeds and candidates; the result does not depend on the number of threads.
        initial: medoids of a smaller codebook to start from.
        on_round: told the number of each round, 0 for the seeding, and the cost.

    Raises:
        InputError: the graph is not connected.
    """
    seeds = geodesic_seeds(graph, weights, n_codes, exponent, rng, initial)
    cells = cells_of(graph, weights, seeds.nodes, exponent, (seeds.distance, seeds.label))
    history: list[float] = []

    def record() -> None:
        history.append(float(weights @ cells.first**exponent))
        if on_round is not None:
            on_round(len(history) - 1, history[-1])

    record()
    n_nodes = len(weights)
    affordable = _CHEAP_ROUND * n_codes // max(1, _CELLS_VISITED * len(graph[1]))
    n_tried = min(n_nodes, max(n_candidates * n_codes, affordable))
    with progress("geodesic k-medoids", total=max_iter * n_tried) as advance:
        for _ in range(max_iter if n_codes < n_nodes else 0):
            if n_tried == n_nodes:
                candidates = rng.permutation(n_nodes)
            else:
                share = np.cumsum(weights * cells.first)
                candidates = rng.permutation(np.unique(np.searchsorted(share, rng.random(n_tried) * share[-1])))
            for start in range(0, len(candidates), _BATCH):
                batch = candidates[start : start + _BATCH].astype(np.int32)
                swap_candidates(graph, weights, cells, batch, exponent)
                advance(len(batch))
            record()
            if history[-2] - history[-1] < _SMALLEST_GAIN * history[-2]:
                break
    distances, codes, _ = nearest_labels(*graph, cells.medoids)
    # A second route to the cost: one search from all medoids instead of thousands of repairs.
    cost = float(weights @ distances**exponent)
    if not np.isclose(cost, history[-1], rtol=1e-6, atol=0) or (np.diff(history) > 1e-9 * history[0]).any():
        raise RuntimeError(f"the swaps led to a cost of {cost} by way of {history}: a fault of this program")
    return Medoids(cells.medoids, codes, distances, np.array(history))
