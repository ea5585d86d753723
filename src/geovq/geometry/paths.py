"""Shortest paths on a token graph: nearest sources of nodes and of points that are none, nearest marks, paths.

Graphs are symmetric CSR matrices of positive edge lengths, to compiled functions their three arrays: ``indptr`` int32
or int64, ``indices`` int32, ``lengths`` float32. Distances come in the unit of the lengths and are summed in float64.
One run of Dijkstra's algorithm from all sources at once says which is nearest, and how far, for every node: ``M``
nodes, ``E`` stored entries take O(E log M) time and O(M) memory beside the graph, whatever the number of sources.

Its queue is a four-way heap in two arrays that the caller owns. Entries are never decreased in place: a better key is
pushed beside the old one, and whoever pops an entry that no longer matches the node's distance skips it (lazy
deletion), which for sparse graphs is less work than tracking positions. Four children to a node halve the depth of a
binary heap and lie in one cache line (LaMarca, Ladner 1996).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, check_lengths


class NearestSource(NamedTuple):
    """For every node: the distance to its nearest source, which source that is, and the node before it."""

    distance: np.ndarray
    """``(M,)`` float64; infinite where no source can be reached."""
    source: np.ndarray
    """``(M,)`` int32 index into the given sources; −1 where none can be reached."""
    predecessor: np.ndarray
    """``(M,)`` int32 previous node on the path from the source; −1 at sources and unreached nodes."""


def nearest_sources(adjacency: csr_matrix, sources: Array) -> NearestSource:
    """Distance to, and index of, the nearest of ``sources`` for every node, in one pass.

    The nodes of one source form a Voronoi cell that contains, with each node, its whole path from the source.
    A node given twice answers with its first place in ``sources``.

    Raises:
        InputError: no source, one that is no node, or an edge without a positive, finite length.
    """
    nodes = _check_nodes(adjacency, sources, "sources")
    return NearestSource(*nearest_labels(adjacency.indptr, adjacency.indices, adjacency.data, nodes))


def shortest_path(adjacency: csr_matrix, a: int, b: int) -> tuple[list[int], float]:
    """The nodes from ``a`` to ``b`` (both included) and the length of the path.

    Searches from both ends at once and looks at the nodes nearer than the middle alone (Nicholson 1966), so on a graph
    of many dimensions it sees few of them.

    Raises:
        InputError: ``a`` or ``b`` is no node, no path connects them, or an edge has no positive, finite length.
    """
    _check_nodes(adjacency, np.array([a, b]), "a and b")
    length, middle, before, after = meeting_node(adjacency.indptr, adjacency.indices, adjacency.data, int(a), int(b))
    if middle < 0:
        raise InputError(f"no path connects nodes {a} and {b}; join the components of the graph first")
    nodes = [int(middle)]
    while nodes[-1] != a:
        nodes.append(int(before[nodes[-1]]))
    nodes.reverse()
    while nodes[-1] != b:
        nodes.append(int(after[nodes[-1]]))
    return nodes, float(length)


def path_from_source(predecessor: np.ndarray, source: int, node: int) -> list[int]:
    """The nodes from ``source`` to ``node`` (both included), by the predecessors (M,) of ``nearest_sources``.

    Raises:
        InputError: no path connects them.
    """
    nodes = [int(node)]
    while nodes[-1] != source:
        nodes.append(int(predecessor[nodes[-1]]))
        if nodes[-1] < 0:
            raise InputError(f"no path connects nodes {source} and {node}; join the components of the graph first")
    return nodes[::-1]


def out_of_sample_nearest(
    node_distance: np.ndarray, node_source: np.ndarray, attach_indices: np.ndarray, attach_lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest source of points that are no nodes: ``min_j (length to node j + distance of node j)``.

    This is Bellman's equation with the point as a node whose edges are its attachments, so training tokens
    get the distance and the source they had in the graph.

    Args:
        node_distance: ``(M,)`` distance of each node to its nearest source.
        node_source: ``(M,)`` that source.
        attach_indices: ``(Q, k)`` nodes a point is attached to.
        attach_lengths: ``(Q, k)`` lengths of these attachments.

    Returns:
        ``(Q,)`` float64 distances and ``(Q,)`` int32 sources.

    Raises:
        InputError: shapes that do not fit together.
    """
    if attach_indices.shape != attach_lengths.shape or attach_indices.ndim != 2:
        raise InputError(
            f"attachments have shapes {attach_indices.shape} and {attach_lengths.shape}; both must be (Q, k)"
        )
    totals = node_distance[attach_indices] + attach_lengths
    best = totals.argmin(axis=1)[:, None]
    distance = np.take_along_axis(totals, best, axis=1)[:, 0]
    source = node_source[np.take_along_axis(attach_indices, best, axis=1)[:, 0]]
    return distance, source.astype(np.int32)


def _check_nodes(adjacency: csr_matrix, nodes: Array, name: str) -> np.ndarray:
    check_lengths(adjacency)
    array = np.atleast_1d(as_array(nodes))
    n_nodes = adjacency.shape[0]
    if array.ndim != 1 or len(array) == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} must be a non-empty list of node numbers, not {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= n_nodes:
        raise InputError(f"{name} name node {array.min()} to {array.max()}, but the graph has nodes 0 to {n_nodes - 1}")
    return array


@njit(cache=True, nogil=True)
def nearest_labels(indptr, indices, lengths, sources):  # type: ignore[no-untyped-def]
    """Distance, label and predecessor of every node: the label is a place in ``sources`` (Dijkstra 1959).

    Of equal ``(S,)`` sources the first gives the label.

    Returns:
        ``(M,)`` float64 distances, infinite where no source leads; ``(M,)`` int32 labels and ``(M,)`` int32
        predecessors, −1 there; predecessors of sources are −1.
    """
    n_nodes = len(indptr) - 1
    distance = np.full(n_nodes, np.inf)
    label = np.full(n_nodes, -1, np.int32)
    predecessor = np.full(n_nodes, -1, np.int32)
    keys, items, size = np.empty(1024, np.float64), np.empty(1024, np.int64), 0
    keys, items = heap_room(keys, items, 0, len(sources))
    for place in range(len(sources)):
        node = sources[place]
        if label[node] < 0:
            distance[node], label[node] = 0.0, place
            heap_push(keys, items, size, 0.0, node)
            size += 1
    while size > 0:
        key, node = keys[0], items[0]
        heap_drop(keys, items, size)
        size -= 1
        if key != distance[node]:
            continue
        first, last = indptr[node], indptr[node + 1]
        keys, items = heap_room(keys, items, size, last - first)
        for entry in range(first, last):
            other = indices[entry]
            reached = key + lengths[entry]
            if reached < distance[other]:
                distance[other], label[other], predecessor[other] = reached, label[node], node
                heap_push(keys, items, size, reached, other)
                size += 1
    return distance, label, predecessor


@njit(cache=True, nogil=True)
def meeting_node(indptr, indices, lengths, a, b):  # type: ignore[no-untyped-def]
    """A node on the shortest path from ``a`` to ``b``, by Dijkstra's search from both ends in turn.

    The ends' searches have settled all nodes nearer than ``radius[0]`` and ``radius[1]``. A path that is still to be
    found has an edge between nodes that neither has settled, so it is no shorter than the sum of the two.

    Returns:
        The length of the path, the node (−1 where none connects them), and the ``(M,)`` int32 previous nodes on the
        paths from ``a`` and from ``b``.
    """
    n_nodes = len(indptr) - 1
    distance = np.full((2, n_nodes), np.inf)
    previous = np.full((2, n_nodes), -1, np.int32)
    keys, items = np.empty((2, 1024), np.float64), np.empty((2, 1024), np.int64)
    sizes, radius = np.zeros(2, np.int64), np.zeros(2)
    for side, node in ((0, a), (1, b)):
        distance[side, node] = 0.0
        heap_push(keys[side], items[side], 0, 0.0, node)
        sizes[side] = 1
    best, middle = (0.0, a) if a == b else (np.inf, -1)
    while sizes[0] > 0 and sizes[1] > 0 and radius[0] + radius[1] < best:
        side = 0 if keys[0, 0] <= keys[1, 0] else 1
        key, node = keys[side, 0], items[side, 0]
        heap_drop(keys[side], items[side], sizes[side])
        sizes[side] -= 1
        radius[side] = key
        if key != distance[side, node]:
            continue
        first, last = indptr[node], indptr[node + 1]
        if sizes[side] + last - first > keys.shape[1]:
            more = max(keys.shape[1], last - first)
            keys = np.concatenate((keys, np.empty((2, more), np.float64)), axis=1)
            items = np.concatenate((items, np.empty((2, more), np.int64)), axis=1)
        for entry in range(first, last):
            other, reached = indices[entry], key + lengths[entry]
            if reached < distance[side, other]:
                distance[side, other], previous[side, other] = reached, node
                heap_push(keys[side], items[side], sizes[side], reached, other)
                sizes[side] += 1
                if reached + distance[1 - side, other] < best:
                    best, middle = reached + distance[1 - side, other], other
    return best, middle, previous[0], previous[1]


@njit(cache=True, nogil=True)
def nearest_marked(indptr, indices, lengths, sources, offsets, mark, wanted):  # type: ignore[no-untyped-def]
    """The marks nearest to a point that is linked to the nodes ``sources`` by lengths ``offsets`` (both ``(S,)``).

    Dijkstra's search from all links at once, which ends with the last mark that is wanted, so it stays near.
    ``mark`` ``(M,)`` int32 is −1 at nodes without one.

    Returns:
        ``(n,)`` int32 marks, nearest first, and ``(n,)`` float64 distances; n is ``wanted`` or how many can be reached.
    """
    distance = np.full(len(indptr) - 1, np.inf)
    marks, found, n_found = np.empty(wanted, np.int32), np.empty(wanted, np.float64), 0
    keys, items, size = np.empty(1024, np.float64), np.empty(1024, np.int64), 0
    keys, items = heap_room(keys, items, 0, len(sources))
    for place in range(len(sources)):
        node = sources[place]
        if offsets[place] < distance[node]:
            distance[node] = offsets[place]
            heap_push(keys, items, size, offsets[place], node)
            size += 1
    while size > 0 and n_found < wanted:
        key, node = keys[0], items[0]
        heap_drop(keys, items, size)
        size -= 1
        if key != distance[node]:
            continue
        if mark[node] >= 0:
            marks[n_found], found[n_found] = mark[node], key
            n_found += 1
        first, last = indptr[node], indptr[node + 1]
        keys, items = heap_room(keys, items, size, last - first)
        for entry in range(first, last):
            other, reached = indices[entry], key + lengths[entry]
            if reached < distance[other]:
                distance[other] = reached
                heap_push(keys, items, size, reached, other)
                size += 1
    return marks[:n_found], found[:n_found]


@njit(cache=True, inline="always")
def heap_push(keys, items, size, key, item):  # type: ignore[no-untyped-def]
    """Insert ``(key, item)`` into the ``size`` entries of ``keys`` (float64) and ``items`` (int64), which have room.

    The caller counts one entry more afterwards.
    """
    place = size
    while place > 0:
        parent = (place - 1) >> 2
        if keys[parent] <= key:
            break
        keys[place] = keys[parent]
        items[place] = items[parent]
        place = parent
    keys[place] = key
    items[place] = item


@njit(cache=True, inline="always")
def heap_drop(keys, items, size):  # type: ignore[no-untyped-def]
    """Remove the smallest entry, which stands at place 0: read it before, and count one entry less after."""
    last = size - 1
    key, item = keys[last], items[last]
    place = 0
    while True:
        child = 4 * place + 1
        if child >= last:
            break
        smallest = child
        for other in range(child + 1, min(child + 4, last)):
            if keys[other] < keys[smallest]:
                smallest = other
        if keys[smallest] >= key:
            break
        keys[place] = keys[smallest]
        items[place] = items[smallest]
        place = smallest
    keys[place] = key
    items[place] = item


@njit(cache=True)
def heap_room(keys, items, size, wanted):  # type: ignore[no-untyped-def]
    """``keys`` and ``items`` with room for ``wanted`` more entries: themselves, or copies twice as long."""
    if size + wanted <= len(keys):
        return keys, items
    longer = max(2 * len(keys), size + wanted)
    new_keys, new_items = np.empty(longer, np.float64), np.empty(longer, np.int64)
    new_keys[:size] = keys[:size]
    new_items[:size] = items[:size]
    return new_keys, new_items
