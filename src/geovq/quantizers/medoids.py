"""Better medoids for all cells of a graph at once.

A Voronoi cell of a graph holds, with each node, its whole shortest path to the medoid. So with the edges between
cells removed, distances from a medoid to its cell stay exact, and those from any other member are upper
bounds. The cells are then separate blocks, and one multi-source pass from one candidate per cell prices a
candidate in every cell.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra


def within_cells(adjacency: csr_matrix, codes: np.ndarray) -> csr_matrix:
    """The graph without the edges between cells; ``codes`` ``(M,)`` are the cells of the nodes."""
    keep = codes[adjacency.indices] == np.repeat(codes, np.diff(adjacency.indptr))
    ends = np.concatenate(([0], np.cumsum(keep)))[adjacency.indptr].astype(adjacency.indptr.dtype)
    return csr_matrix((adjacency.data[keep], adjacency.indices[keep], ends), shape=adjacency.shape)


def improve_medoids(
    adjacency: csr_matrix,
    coordinates: np.ndarray,
    weights: np.ndarray,
    codes: np.ndarray,
    distances: np.ndarray,
    medoids: np.ndarray,
    active: np.ndarray,
    exponent: int,
    n_candidates: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Per cell the cheapest node among its medoid and up to ``n_candidates`` others.

    Cells of at most ``n_candidates`` other members are searched whole. In larger ones the most promising members
    and random ones take turns. The promise of node ``v`` is an estimate of ``Σ_u w_u d(v, u)²``: the distances
    already measured from some members ``r`` (symmetric, so known from all ``v`` to them), corrected by how a
    Euclidean model of the cell, ``d² ≈ a·|y_v − y_u|²``, errs between these members and the whole cell (a
    difference estimator; Cochran 1977, ch. 7):

        Σ_r d(v, r)² − a·Σ_r |y_v − y_r|² + R·a·|y_v − ȳ|²

    Args:
        adjacency: ``(M, M)`` symmetric lengths, float64.
        coordinates: ``(M, d)`` y, in which straight distance resembles the geodesic.
        weights: ``(M,)`` multiplicity of each node.
        codes: ``(M,)`` cell of each node.
        distances: ``(M,)`` distance to the cell's medoid.
        medoids: ``(K,)`` current medoids.
        active: ``(K,)`` bool, cells to work on.
        exponent: 1 or 2: of the distances in the cost.
        n_candidates: passes over the graph.
        rng: of the random members.

    Returns:
        ``(K,)`` medoids; a cell's changes only when its cost falls.
    """
    n_codes = len(medoids)
    cells = within_cells(adjacency, codes)
    members = np.flatnonzero(active[codes])
    members = members[np.argsort(codes[members], kind="stable")]  # grouped by cell
    member_codes, y = codes[members], coordinates[members]
    starts = np.flatnonzero(np.diff(member_codes, prepend=-1))

    def per_cell(values: np.ndarray) -> np.ndarray:
        return np.bincount(member_codes, values, n_codes)

    weight = weights[members].astype(np.float64)
    best, best_cost = medoids.copy(), per_cell(weight * distances[members] ** exponent)
    mean = np.stack([per_cell(weight * column) for column in y.T], axis=1) / np.maximum(per_cell(weight), 1)[:, None]
    to_mean = np.square(y - mean[member_codes]).sum(axis=1)
    measured = distances[members] ** 2  # Σ_r d(v, r)²; the current medoid is the first r
    modelled = np.square(y - coordinates[medoids][member_codes]).sum(axis=1)
    tried = np.zeros(len(codes), dtype=bool)
    tried[medoids] = True
    for rank in range(1, n_candidates + 1):
        if rank % 2:
            scale = per_cell(weight * measured) / np.maximum(per_cell(weight * modelled), np.finfo(float).tiny)
            score = measured + scale[member_codes] * (rank * to_mean - modelled)
        else:
            score = rng.standard_exponential(len(members)) / weight
        score[tried[members]] = np.inf
        candidates = _lowest(score, members, starts)
        if len(candidates) == 0:
            break
        tried[candidates] = True
        # Cells without a candidate are not reached: their distances are infinite.
        distance = dijkstra(cells, directed=True, indices=candidates, min_only=True)[members]
        challenger = np.full(n_codes, -1)
        challenger[codes[candidates]] = candidates
        cost = per_cell(weight * distance**exponent)
        # A gain within rounding is no gain: cells would swap between equal medoids for ever.
        better = (challenger >= 0) & (cost < best_cost * (1 - 1e-9))
        best[better], best_cost[better] = challenger[better], cost[better]
        reached = np.isfinite(distance)
        measured[reached] += distance[reached] ** 2
        reference = coordinates[challenger[member_codes[reached]]]
        modelled[reached] += np.square(y[reached] - reference).sum(axis=1)
    return best


def _lowest(score: np.ndarray, members: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Per cell the member of lowest finite score; ``starts`` are the places where cells begin."""
    lowest = np.minimum.reduceat(score, starts)
    cell = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(score))))
    places = np.flatnonzero((score == lowest[cell]) & np.isfinite(score))
    return members[places[np.unique(cell[places], return_index=True)[1]]]
