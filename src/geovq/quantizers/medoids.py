"""Better medoids for all cells of a graph at once.

A Voronoi cell of a graph holds, with each node, its whole shortest path to the medoid. So with the edges
between cells removed, distances from a medoid to its cell stay exact, and those from any other member are
upper bounds. The cells are then separate blocks, and one multi-source pass from one candidate per cell prices
a candidate in every cell.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra


def within_cells(adjacency: csr_matrix, codes: np.ndarray, active: np.ndarray) -> csr_matrix:
    """The graph without edges between cells, nor within cells that are not ``active`` (``(K,)`` bool)."""
    row_codes = np.where(active[codes], codes, -1)
    keep = codes[adjacency.indices] == np.repeat(row_codes, np.diff(adjacency.indptr))
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

    Cells of at most ``n_candidates`` members are searched whole. In larger ones random members and the most
    promising ones take turns. The promise of node ``v`` is an estimate of its cost ``Σ_u w_u d(v, u)²``: the
    distances already measured from some members ``r`` (symmetric, so known from all ``v`` to them), corrected
    by how a Euclidean model of the cell, ``d² ≈ a·|y_v − y_u|²``, errs between these members and the whole
    cell (a difference estimator; Cochran 1977, ch. 7):

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
    cells = within_cells(adjacency, codes, active)
    members = np.flatnonzero(active[codes])
    members = members[np.argsort(codes[members], kind="stable")]  # grouped by cell
    member_codes, y = codes[members], coordinates[members]
    member_weights = weights[members].astype(np.float64)
    present = np.flatnonzero(active)
    starts = np.searchsorted(member_codes, present)
    total = np.bincount(member_codes, member_weights, n_codes)
    sums = np.stack([np.bincount(member_codes, member_weights * column, n_codes) for column in y.T], axis=1)
    mean = sums / np.maximum(total, 1)[:, None]
    to_mean = np.square(y - mean[member_codes]).sum(axis=1)

    best = medoids.copy()
    best_cost = np.bincount(member_codes, member_weights * distances[members] ** exponent, n_codes)
    tried = np.zeros(len(codes), dtype=bool)
    tried[medoids] = True
    measured = distances[members] ** 2
    modelled = np.square(y - coordinates[medoids][member_codes]).sum(axis=1)
    for rank in range(1, n_candidates + 1):
        if rank % 2:
            scale = np.bincount(member_codes, member_weights * measured, n_codes) / np.maximum(
                np.bincount(member_codes, member_weights * modelled, n_codes), np.finfo(float).tiny
            )
            score = measured + scale[member_codes] * (rank * to_mean - modelled)
        else:
            score = rng.standard_exponential(len(members)) / member_weights
        score[tried[members]] = np.inf
        candidates = _lowest(score, members, member_codes, starts)
        if len(candidates) == 0:
            break
        tried[candidates] = True
        distance = dijkstra(cells, directed=True, indices=candidates, min_only=True)[members]
        cost = np.bincount(member_codes, member_weights * distance**exponent, n_codes)
        challenger = np.full(n_codes, -1)
        challenger[codes[candidates]] = candidates
        # A gain within rounding is no gain: cells would swap between equal medoids for ever.
        better = (challenger >= 0) & (cost < best_cost * (1 - 1e-9))
        best[better], best_cost[better] = challenger[better], cost[better]
        reference = np.where(challenger >= 0, challenger, medoids)
        fresh = (challenger >= 0)[member_codes]
        measured[fresh] += distance[fresh] ** 2
        modelled[fresh] += np.square(y[fresh] - coordinates[reference[member_codes[fresh]]]).sum(axis=1)
    return best


def _lowest(score: np.ndarray, members: np.ndarray, member_codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Per cell the member of lowest finite score; cells without one are left out."""
    lowest = np.minimum.reduceat(score, starts)
    sizes = np.diff(np.append(starts, len(score)))
    places = np.flatnonzero((score == np.repeat(lowest, sizes)) & np.isfinite(score))
    first = np.unique(member_codes[places], return_index=True)[1]
    return members[places[first]]
