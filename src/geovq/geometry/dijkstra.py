"""Dijkstra's algorithm with many labelled sources, compiled: nearest and two nearest sources of every node.

Graphs come as the three arrays of a symmetric CSR matrix: ``indptr`` int32 or int64, ``indices`` int32, ``lengths``
float32, all positive. Distances are summed in float64. ``M`` nodes, ``E`` stored entries: O(E log M) time and O(M)
memory beside the graph, whatever the number of sources.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from geovq.geometry.heap import heap_drop, heap_push, heap_room


@njit(cache=True, nogil=True)
def nearest_labels(indptr, indices, lengths, sources):
    """Distance, label and predecessor of every node: the label is a place in ``sources`` (Dijkstra 1959).

    Args:
        indptr: ``(M + 1,)``.
        indices: ``(E,)``.
        lengths: ``(E,)``.
        sources: ``(S,)`` nodes; of equal nodes the first gives the label.

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


@njit(cache=True, inline="always")
def offer(first, first_label, second, second_label, node, distance, label):
    """Let ``label`` at ``distance`` compete for the two nearest labels of ``node``; true if it takes a place.

    The two places never hold the same label. Equal distances are ordered by label: then neighbours agree on the order,
    and the nodes that know a label stay connected through each other.
    """
    known = first_label[node]
    if label == known:
        if distance < first[node]:
            first[node] = distance
            return True
        return False
    if distance < first[node] or (distance == first[node] and label < known):
        second[node], second_label[node] = first[node], known
        first[node], first_label[node] = distance, label
        return True
    known = second_label[node]
    if distance < second[node] or (distance == second[node] and label < known):
        second[node], second_label[node] = distance, label
        return True
    return False


@njit(cache=True, nogil=True)
def two_nearest_labels(indptr, indices, lengths, sources):
    """The nearest and the second-nearest of distinct ``sources`` for every node.

    A node's second-nearest source is nearest or second-nearest to every node on the shortest path from it: were two
    others nearer there, they would be nearer at the end of the path too. So two labels per node suffice, and every
    node is settled at most twice.

    Returns:
        ``(M,)`` float64 distance and ``(M,)`` int32 label of the nearest, the same two of the second nearest; infinite
        and −1 where there is none.
    """
    n_nodes = len(indptr) - 1
    first, second = np.full(n_nodes, np.inf), np.full(n_nodes, np.inf)
    first_label, second_label = np.full(n_nodes, -1, np.int32), np.full(n_nodes, -1, np.int32)
    keys, items, size = np.empty(1024, np.float64), np.empty(1024, np.int64), 0
    keys, items = heap_room(keys, items, 0, len(sources))
    for label in range(len(sources)):
        first[sources[label]], first_label[sources[label]] = 0.0, label
        heap_push(keys, items, size, 0.0, (label << 32) | sources[label])
        size += 1
    spread_labels(indptr, indices, lengths, first, first_label, second, second_label, keys, items, size)
    return first, first_label, second, second_label


@njit(cache=True, nogil=True)
def spread_labels(indptr, indices, lengths, first, first_label, second, second_label, keys, items, size):
    """Spread the pairs of the heap until no node gains a nearer label; works in place on the four arrays.

    An entry ``label << 32 | node`` with its distance as key says that this label of this node is to be offered to its
    neighbours. Returns the heap's arrays, which may have grown.
    """
    while size > 0:
        key, item = keys[0], items[0]
        heap_drop(keys, items, size)
        size -= 1
        label, node = np.int32(item >> 32), np.int32(item & 0xFFFFFFFF)
        is_first = first_label[node] == label and first[node] == key
        if not is_first and not (second_label[node] == label and second[node] == key):
            continue
        start, stop = indptr[node], indptr[node + 1]
        keys, items = heap_room(keys, items, size, stop - start)
        for entry in range(start, stop):
            other = indices[entry]
            reached = key + lengths[entry]
            if reached <= second[other] and offer(first, first_label, second, second_label, other, reached, label):
                heap_push(keys, items, size, reached, item - node + other)
                size += 1
    return keys, items
