"""Moving medoids between cells: one is given up where that costs little and put where it gains more.

Updates inside cells never move a medoid from a crowded region to an empty one. Partitioning around medoids
(Kaufman, Rousseeuw 1987; FasterPAM, Schubert, Rousseeuw 2021) prices every swap, from the matrix of all
distances. Here one pass gives every node its second-nearest medoid, and one pass from a set of candidates prices
the swap of each of them with every medoid, counting only the nodes nearest to that candidate: a lower bound of the
gain. Swaps that are taken together share no node, so the cost falls by at least what they promise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import dijkstra

from geovq.geometry.paths import NearestSource, nearest_sources


class SecondNearest(NamedTuple):
    """For every node the nearest medoid of another cell than its own."""

    distance: np.ndarray
    """``(M,)`` float64; infinite where there is only one cell."""
    code: np.ndarray
    """``(M,)`` the cell of that medoid; −1 where there is none."""


def second_nearest(
    adjacency: csr_matrix, cells: csr_matrix, codes: np.ndarray, distances: np.ndarray, n_codes: int
) -> SecondNearest:
    """Distance to the nearest medoid outside the own cell, exactly, in one pass.

    The last node outside the cell on a path from another medoid may as well be reached from its own medoid. So
    the distance is the shortest of ``distance(u) + length(u, x)`` over edges that enter the cell at ``x``, plus a path
    inside the cell: a pass over the cells with one more node per code, which leads to where its cell enters.
    """
    n_nodes = len(codes)
    degrees = np.diff(adjacency.indptr)
    rows = np.repeat(np.arange(n_nodes, dtype=np.int32), degrees)
    crossing = np.flatnonzero(codes[adjacency.indices] != codes[rows])
    rows = rows[crossing]
    if len(rows) == 0:
        return SecondNearest(np.full(n_nodes, np.inf), np.full(n_nodes, -1))
    outside = adjacency.indices[crossing]
    entry = adjacency.data[crossing] + distances[outside]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    lowest = np.minimum.reduceat(entry, starts)
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(rows))))
    places = np.flatnonzero(entry == lowest[group])
    places = places[np.unique(group[places], return_index=True)[1]]
    from_code = codes[outside[places]]
    order = np.argsort(from_code, kind="stable")
    ends = cells.indptr[-1] + np.cumsum(np.bincount(from_code, minlength=n_codes))
    graph = csr_matrix(
        (
            np.concatenate((cells.data, entry[places][order])),
            np.concatenate((cells.indices, rows[places][order])),
            np.concatenate((cells.indptr, ends.astype(cells.indptr.dtype))),
        ),
        shape=(n_nodes + n_codes, n_nodes + n_codes),
    )
    distance, _, source = dijkstra(
        graph, indices=np.arange(n_nodes, n_nodes + n_codes), min_only=True, return_predecessors=True
    )
    code = np.where(source[:n_nodes] < 0, -1, source[:n_nodes] - n_nodes)
    return SecondNearest(distance[:n_nodes], code)


def draw_candidates(
    weights: np.ndarray, nearest: NearestSource, medoids: np.ndarray, exponent: int, rng: np.random.Generator
) -> np.ndarray:
    """Nodes that are no medoids, one in each of a random third of the cells, so that few compete for a node.

    Half the calls draw them by their multiplicity, the others by their share of the cost.
    """
    n_codes = len(medoids)
    chosen = np.zeros(n_codes, dtype=bool)
    chosen[rng.permutation(n_codes)[: -(-n_codes // 3)]] = True
    nodes = np.flatnonzero(chosen[nearest.source] & (nearest.distance > 0))
    share = weights[nodes] * (nearest.distance[nodes] ** exponent if rng.random() < 0.5 else 1.0)
    order = np.argsort(rng.standard_exponential(len(nodes)) / np.maximum(share, np.finfo(float).tiny))
    return nodes[order[np.unique(nearest.source[nodes[order]], return_index=True)[1]]]


def swap_medoids(
    adjacency: csr_matrix,
    weights: np.ndarray,
    nearest: NearestSource,
    second: SecondNearest,
    medoids: np.ndarray,
    candidates: np.ndarray,
    exponent: int,
) -> np.ndarray:
    """``(K,)`` medoids after all swaps of ``candidates`` that pay; the cost never rises.

    With ``d₁``, ``d₂`` the distances to the two nearest medoids, ``x`` a candidate and ``R(x)`` the nodes nearest to
    it, swapping medoid ``c`` for ``x`` lowers the cost by at least

        Σ_{R(x)} w·(d₁ᵖ − d_xᵖ)₊ − Σ_{cell c} w·(min(d₂, d_x)ᵖ − min(d₁, d_x)ᵖ),  d_x = ∞ outside R(x).

    The nodes of ``c`` that go to their second-nearest medoid need that to stay: swaps that would remove it are
    refused.
    """
    if len(candidates) == 0:
        return medoids
    n_codes, n_candidates = len(medoids), len(candidates)
    near = nearest_sources(adjacency, candidates)
    first_cost = weights * nearest.distance**exponent
    second_cost = weights * second.distance**exponent
    near_cost = weights * near.distance**exponent
    saved = np.maximum(first_cost - near_cost, 0)
    gains = np.bincount(near.source, saved, n_candidates)
    losses = np.bincount(nearest.source, second_cost - first_cost, n_codes)
    # What x takes off the loss of c: their common nodes go to x instead of their second-nearest medoid.
    common = np.flatnonzero(near_cost < second_cost)
    relief = coo_matrix(
        (
            second_cost[common] - near_cost[common] - saved[common],
            (near.source[common], nearest.source[common]),
        ),
        shape=(n_candidates, n_codes),
    ).tocsr()
    by_cell = np.argsort(nearest.source, kind="stable")
    ends = np.cumsum(np.bincount(nearest.source, minlength=n_codes))
    smallest_gain = 1e-9 * float(first_cost.sum())
    result = medoids.copy()
    removed, needed = np.zeros(n_codes, dtype=bool), np.zeros(n_codes, dtype=bool)
    for x in np.argsort(-gains, kind="stable"):
        price = losses.copy()
        row = slice(relief.indptr[x], relief.indptr[x + 1])
        price[relief.indices[row]] -= relief.data[row]
        price[removed | needed] = np.inf
        for c in np.argpartition(price, min(3, n_codes - 1))[:3]:
            if gains[x] - price[c] <= smallest_gain:
                continue
            members = by_cell[ends[c - 1] if c else 0 : ends[c]]
            stay = (near.source[members] == x) & (near_cost[members] < second_cost[members])
            refuges = np.unique(second.code[members[~stay]])
            if removed[refuges].any():
                continue
            result[c] = candidates[x]
            removed[c] = True
            needed[refuges] = True
            break
    return result
