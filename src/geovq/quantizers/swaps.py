"""Moving medoids between cells: one is given up where that costs little and put where it gains more.

Updates inside cells never move a medoid from a crowded region to an empty one. Partitioning around medoids
(Kaufman, Rousseeuw 1987) tries every swap, at the price of all distances. Here, one pass prices the removal of
every medoid exactly, and the candidates that ``propose`` measured anyway price the additions from below. Swaps are
taken together only where none spoils the price of another, so the cost falls by at least what they promise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from geovq.quantizers.medoids import Proposals


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


def apply_proposals(
    medoids: np.ndarray, proposals: Proposals, codes: np.ndarray, losses: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """``(K,)`` new medoids: swaps that pay, and the update of every cell that they leave alone.

    A removed medoid's nodes go to their second-nearest cells, whose medoids then must stay. So must the medoid of a
    cell that gets a second one. What these cells lose by forgoing their own update is charged to the swap.

    Args:
        medoids: ``(K,)`` current medoids.
        proposals: of ``propose``.
        codes: ``(M,)`` cell of each node.
        losses: ``(K,)`` rise of the cost when the cell's medoid is removed.
        second: ``(M,)`` cell of the second-nearest medoid.
    """
    updated = proposals.medoids.copy()
    removed = np.zeros(len(medoids), dtype=bool)
    fixed = np.zeros(len(medoids), dtype=bool)
    by_cell = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(medoids)))
    receivers = [int(a) for a in np.argsort(-proposals.partner_gains, kind="stable") if proposals.partners[a] >= 0]
    for giver in np.argsort(losses, kind="stable"):
        receivers = [a for a in receivers if not removed[a]]
        target = next((a for a in receivers if a != giver), None)
        if target is None or proposals.partner_gains[target] <= losses[giver]:
            break
        members = by_cell[ends[giver - 1] if giver else 0 : ends[giver]]
        refuges = np.unique(second[members])
        if fixed[giver] or removed[refuges].any():
            continue
        needed = np.unique(np.append(refuges, target))
        forgone = proposals.gains[needed[~fixed[needed]]].sum()
        if proposals.partner_gains[target] <= (losses[giver] + forgone) * (1 + 1e-9):
            continue
        removed[giver] = True
        fixed[needed] = True
        updated[giver] = proposals.partners[target]
        receivers.remove(target)
    updated[fixed] = medoids[fixed]
    return updated
