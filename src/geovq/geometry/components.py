"""Joining the connected components of a neighbour graph by their shortest connecting edges (Borůvka 1926)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from geovq.geometry.neighbors import Neighbors, nearest_neighbors

# Pairs of points up to which two sets are compared exactly: some ten seconds on two cores.
_EXACT_PAIRS = 2e10


def joining_edges(
    nodes: np.ndarray, adjacency: csr_matrix, neighbors: Neighbors, recall: float, seed: int
) -> tuple[np.ndarray, int]:
    """Edges ``(E, 2)`` of the shortest forest that connects the components, and how many components there
    were.

    In each round every component but the largest takes the shortest edge that leaves it. Neighbour lists
    settle this where a component's best outside neighbour is nearer than the end of every list that stays
    inside; otherwise the component is compared with everything outside (exactly up to 2·10¹⁰ pairs of points,
    above by the neighbour search at ``recall``).
    """
    n_components, labels = connected_components(adjacency, directed=False)
    found: list[tuple[int, int]] = []
    current, n_current = labels, n_components
    while n_current > 1:
        chosen = _shortest_leaving(nodes, current, n_current, neighbors, recall, seed)
        # Ties could close a cycle of chosen edges: keep an edge only while it joins two groups.
        parent = np.arange(n_current)
        for a, b in chosen:
            root_a, root_b = _root(parent, current[a]), _root(parent, current[b])
            if root_a != root_b:
                parent[root_a] = root_b
                found.append((a, b))
        links = coo_matrix((np.ones(n_current), (np.arange(n_current), parent)), shape=(n_current, n_current))
        n_current, merged = connected_components(links, directed=False)
        current = merged[current]
    return np.array(found, dtype=np.int64).reshape(-1, 2), int(n_components)


def _root(parent: np.ndarray, label: int) -> int:
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return int(label)


def _shortest_leaving(
    nodes: np.ndarray, labels: np.ndarray, n_labels: int, neighbors: Neighbors, recall: float, seed: int
) -> list[tuple[int, int]]:
    """For every component but the largest, its shortest edge to a node outside."""
    sizes = np.bincount(labels, minlength=n_labels)
    largest = int(sizes.argmax())
    small = np.flatnonzero(labels != largest)
    outside = labels[neighbors.indices[small]] != labels[small][:, None]
    has = outside.any(axis=1)
    place = outside.argmax(axis=1)
    distance = np.where(has, neighbors.squared_distances[small, place], np.inf)
    # Where a whole list stays inside, the nearest node outside is at least as far as the end of the list.
    bound = np.where(has, np.inf, neighbors.squared_distances[small, -1])
    reach = np.full(n_labels, np.inf)
    np.minimum.at(reach, labels[small], bound)
    order = np.lexsort((distance, labels[small]))
    first = order[np.unique(labels[small][order], return_index=True)[1]]
    chosen: list[tuple[int, int]] = []
    unsettled: list[int] = []
    for row in first:
        label = int(labels[small[row]])
        if distance[row] <= reach[label] and np.isfinite(distance[row]):
            chosen.append((int(small[row]), int(neighbors.indices[small[row], place[row]])))
        else:
            unsettled.append(label)
    if unsettled:
        by_label = np.argsort(labels, kind="stable")  # a component is now a range, what lies outside two ranges
        sorted_nodes = nodes[by_label]
        ends = np.cumsum(sizes)
        for label in unsettled:
            inside = slice(int(ends[label] - sizes[label]), int(ends[label]))
            a, b = _closest_pair(sorted_nodes, inside, recall, seed)
            chosen.append((int(by_label[a]), int(by_label[b])))
    return chosen


def _closest_pair(nodes: np.ndarray, inside: slice, recall: float, seed: int) -> tuple[int, int]:
    """Rows ``(a, b)`` of the closest pair with ``a`` inside the range and ``b`` outside."""
    best = (np.inf, -1, -1)
    queries = nodes[inside]
    for base, offset in ((nodes[: inside.start], 0), (nodes[inside.stop :], inside.stop)):
        if len(base) == 0:
            continue
        exact = len(queries) * len(base) <= _EXACT_PAIRS
        # A few candidates per query: exact search orders near-ties by their exact distances among these.
        found = nearest_neighbors(
            base,
            min(4, len(base)),
            queries=queries,
            recall=1.0 if exact else recall,
            seed=seed,
        )
        row = int(found.squared_distances[:, 0].argmin())
        candidate = (
            float(found.squared_distances[row, 0]),
            inside.start + row,
            offset + int(found.indices[row, 0]),
        )
        best = min(best, candidate)
    return best[1], best[2]
