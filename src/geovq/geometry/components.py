"""Joining the connected components of a neighbour graph by their shortest connecting edges (Borůvka 1926)."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from geovq.geometry.closest_pair import closest_pair
from geovq.geometry.neighbors import NeighborIndex, Neighbors
from geovq.progress import progress


def joining_edges(index: NeighborIndex, adjacency: csr_matrix, neighbors: Neighbors) -> tuple[np.ndarray, int]:
    """Edges ``(E, 2)`` of the shortest forest that connects the components, and how many components there
    were.

    In each round every component but the largest takes the shortest edge that leaves it. Neighbour lists
    settle this where a component's best outside neighbour is nearer than the end of every list that stays
    inside; otherwise the component is compared with everything outside (``geovq.geometry.closest_pair``).

    Args:
        index: of the points, in the coordinates that neighbours were searched in.
        adjacency: ``(M, M)`` symmetric pattern.
        neighbors: lists of every point.
    """
    n_components, labels = connected_components(adjacency, directed=False)
    found: list[tuple[int, int]] = []
    current, n_current = labels, n_components
    with progress("joining components", total=n_components - 1) as advance:
        while n_current > 1:
            chosen, unsettled = _settled_by_lists(current, n_current, neighbors)
            if unsettled:
                points = index.centred
                chosen += [closest_pair(points, index.lists, current == label) for label in unsettled]
            # Ties could close a cycle of chosen edges: keep an edge only while it joins two groups.
            parent = np.arange(n_current)
            for a, b in chosen:
                root_a, root_b = _root(parent, current[a]), _root(parent, current[b])
                if root_a != root_b:
                    parent[root_a] = root_b
                    found.append((a, b))
                    advance()
            links = coo_matrix((np.ones(n_current), (np.arange(n_current), parent)), shape=(n_current, n_current))
            n_current, merged = connected_components(links, directed=False)
            current = merged[current]
    return np.array(found, dtype=np.int64).reshape(-1, 2), int(n_components)


def _root(parent: np.ndarray, label: int) -> int:
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return int(label)


def _settled_by_lists(
    labels: np.ndarray, n_labels: int, neighbors: Neighbors
) -> tuple[list[tuple[int, int]], list[int]]:
    """The shortest edges that leave the components whose lists show them, and the other components' labels.

    The largest component is left out.
    """
    largest = int(np.bincount(labels, minlength=n_labels).argmax())
    small = np.flatnonzero(labels != largest)
    outside = labels[neighbors.indices[small]] != labels[small][:, None]
    has = outside.any(axis=1)
    place = outside.argmax(axis=1)
    distance = np.where(has, neighbors.squared_distances[small, place], np.inf)
    # Where a whole list stays inside, the nearest point outside is at least as far as the end of the list.
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
    return chosen, unsettled
