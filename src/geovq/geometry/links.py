"""Links of a graph as a CSR pattern with sorted columns: both directions, components and what joins them, and the way
back of every entry.

Compiled loops that hold the result and little beside it: on a graph of 10 million nodes scipy's sums, transposes and
searches of components take two to eight times the graph.

In a symmetric pattern with sorted columns the rows, taken in order, meet the entries of each column in order too. So
the entry that leads back is known from one counter per node, and nothing is transposed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.inverted_lists import InvertedLists, may_hold, squared_distance, squared_distances
from geovq.geometry.neighbors import NeighborIndex, Neighbors
from geovq.progress import progress

# Neighbour lists sorted at a time.
_BLOCK_ROWS = 1 << 18


def symmetric_links(indices: np.ndarray, symmetrize: Literal["union", "mutual"]) -> csr_matrix:
    """Boolean symmetric pattern of directed neighbour lists ``(M, k)`` int32, each of distinct nodes.

    ``union`` links two nodes where either lists the other, ``mutual`` where both do.
    """
    n_nodes = len(indices)
    starts, reverse = _reversed(indices)
    pointers = np.zeros(n_nodes + 1, dtype=np.int64)
    columns = np.empty(0, dtype=np.int32)
    for counted in (False, True):
        for first in range(0, n_nodes, _BLOCK_ROWS):
            block = np.sort(indices[first : first + _BLOCK_ROWS], axis=1)
            _merge(block, first, starts, reverse, symmetrize == "union", pointers, columns, counted)
        if not counted:
            np.cumsum(pointers, out=pointers)
            columns = np.empty(pointers[-1], dtype=np.int32)
    return csr_matrix((np.ones(len(columns), dtype=bool), columns, pointers), shape=(n_nodes, n_nodes))


def components(adjacency: csr_matrix) -> tuple[int, np.ndarray]:
    """How many components a symmetric pattern has, and the ``(M,)`` int32 one of each node, by their first nodes."""
    n_components, labels = _components(adjacency.indptr, adjacency.indices)
    return int(n_components), labels


def mean_of_both_ways(adjacency: csr_matrix, values: np.ndarray) -> None:
    """Replace the values of the entries (i, j) and (j, i) by their mean, in place; ``(nnz,)`` float32."""
    _mean_of_both_ways(adjacency.indptr, adjacency.indices, values)


def joining_edges(index: NeighborIndex, adjacency: csr_matrix, neighbors: Neighbors) -> tuple[np.ndarray, int]:
    """Edges ``(E, 2)`` of the shortest forest that connects the components, and how many components there were.

    In each round every component but the largest takes the shortest edge that leaves it. Neighbour lists
    settle this where a component's best outside neighbour is nearer than the end of every list that stays
    inside; otherwise the component is compared with everything outside (``closest_pair``).

    Args:
        index: of the points, in the coordinates that neighbours were searched in.
        adjacency: ``(M, M)`` symmetric pattern.
        neighbors: lists of every point.
    """
    n_components, labels = components(adjacency)
    found: list[tuple[int, int]] = []
    current, groups = labels, DisjointSet(range(n_components))
    with progress("joining components", total=n_components - 1) as advance:
        while groups.n_subsets > 1:
            chosen, unsettled = _settled_by_lists(current, groups.n_subsets, neighbors)
            if unsettled:
                points = index.centred
                chosen += [closest_pair(points, index.lists, current == label) for label in unsettled]
            for a, b in chosen:
                if groups.merge(labels[a], labels[b]):  # ties could close a cycle
                    found.append((a, b))
                    advance()
            roots = [groups[label] for label in range(n_components)]
            _, first, merged = np.unique(roots, return_index=True, return_inverse=True)
            current = np.argsort(np.argsort(first))[merged][labels]  # numbered in the order of their first nodes
    return np.array(found, dtype=np.int64).reshape(-1, 2), n_components


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


def closest_pair(points: np.ndarray, lists: InvertedLists, inside: np.ndarray) -> tuple[int, int]:
    """Rows ``(a, b)`` of the closest two points with ``a`` inside and ``b`` outside.

    A point of the list around centroid ``c`` lies nearer to it than to the centroid ``h`` of any other list, so a query
    ``x`` is at least ``(‖x − c‖² − ‖x − h‖²) / 2‖c − h‖`` away from it: the distance of the plane halfway between the
    two (``may_hold`` says what holds for very many). Lists that cannot hold a point nearer than the closest pair so far
    are not opened.

    Args:
        points: ``(M, d)`` float32, those that ``lists`` hold.
        lists: of the points.
        inside: ``(M,)`` bool, neither all true nor all false.

    Raises:
        InputError: all squared distances overflow.
    """
    rows = np.flatnonzero(inside)
    n_outside = np.add.reduceat(np.append(~inside[lists.members], False), lists.starts[:-1], dtype=np.int64)
    others = np.flatnonzero((n_outside > 0) & (np.diff(lists.starts) > 0))
    a, b = _closest_pair(
        *(points, rows, inside, others, lists.home_of_points, lists.centroids),
        *(lists.radii, lists.starts, lists.columns, lists.members),
    )
    if a < 0:
        raise InputError("squared distances overflow float32; scale the points down")
    return a, b


@njit(cache=True)
def _reversed(indices):  # type: ignore[no-untyped-def]
    """For every node the rows that list it, ascending: where they begin, and they."""
    n_nodes, k = indices.shape
    starts = np.zeros(n_nodes + 1, np.int64)
    for row in range(n_nodes):
        for place in range(k):
            starts[indices[row, place] + 1] += 1
    for row in range(n_nodes):
        starts[row + 1] += starts[row]
    reverse, free = np.empty(n_nodes * k, np.int32), starts[:-1].copy()
    for row in range(n_nodes):
        for place in range(k):
            column = indices[row, place]
            reverse[free[column]] = row
            free[column] += 1
    return starts, reverse


@njit(cache=True)
def _merge(block, first, starts, reverse, union, pointers, columns, counted):  # type: ignore[no-untyped-def]
    """Merge each row's own list with those that list it: count into ``pointers``, or write where these say."""
    k = block.shape[1]
    for row in range(len(block)):
        node = first + row
        own, back, end = 0, starts[node], starts[node + 1]
        entry = pointers[node] if counted else np.int64(0)
        while own < k or back < end:
            a = block[row, own] if own < k else np.int32(2**31 - 1)
            b = reverse[back] if back < end else np.int32(2**31 - 1)
            own += a <= b
            back += b <= a
            if union or a == b:
                if counted:
                    columns[entry] = min(a, b)
                entry += 1
        if not counted:
            pointers[node + 1] = entry


@njit(cache=True)
def _components(indptr, indices):  # type: ignore[no-untyped-def]
    n_nodes = len(indptr) - 1
    labels, stack = np.full(n_nodes, -1, np.int32), np.empty(n_nodes, np.int32)
    n_components = 0
    for start in range(n_nodes):
        if labels[start] >= 0:
            continue
        labels[start], stack[0], size = n_components, start, 1
        while size > 0:
            size -= 1
            node = stack[size]
            for entry in range(indptr[node], indptr[node + 1]):
                other = indices[entry]
                if labels[other] < 0:
                    labels[other], stack[size] = n_components, other
                    size += 1
        n_components += 1
    return n_components, labels


@njit(cache=True)
def _mean_of_both_ways(indptr, indices, values):  # type: ignore[no-untyped-def]
    following = indptr[:-1].copy()
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            back = following[indices[entry]]
            following[indices[entry]] += 1
            if row < indices[entry]:
                mean = (values[entry] + values[back]) * np.float32(0.5)
                values[entry], values[back] = mean, mean


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _closest_pair(points, rows, inside, others, home, centroids, radii, starts, columns, members):  # type: ignore[no-untyped-def]
    """See ``closest_pair``; of ``others``, the lists with points outside, the nearest to each row is opened first."""
    dimension = points.shape[1]
    squared = np.empty(np.max(starts[1:] - starts[:-1]), np.float32)
    to_centroid = np.empty(len(others), np.float32)
    best, pair = np.float32(np.inf), (np.int64(-1), np.int64(-1))
    for row in rows:
        query = points[row]
        for place in range(len(others)):
            to_centroid[place] = squared_distance(query, centroids[others[place]])
        to_own = squared_distance(query, centroids[home[row]])
        nearest = np.argmin(to_centroid)
        for turn in range(len(others)):
            place = nearest if turn == 0 else (turn if turn > nearest else turn - 1)
            number = others[place]
            if not may_hold(to_centroid[place], number, to_own, home[row], best, centroids, radii):
                continue
            begin = starts[number]
            size = starts[number + 1] - begin
            squared_distances(columns[begin * dimension : (begin + size) * dimension], query, squared[:size])
            for member in range(size):
                if squared[member] < best and not inside[members[begin + member]]:
                    best = squared[member]
                    pair = (np.int64(row), np.int64(members[begin + member]))
    return pair
