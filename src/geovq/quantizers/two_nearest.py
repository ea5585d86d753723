"""The nearest and the second-nearest of some nodes for every node of a graph, which swaps of medoids are priced by."""

from __future__ import annotations

import numpy as np
from numba import njit

from geovq.geometry.paths import heap_drop, heap_push, heap_room


@njit(cache=True, inline="always")
def offer(first, first_label, second, second_label, node, distance, label):  # type: ignore[no-untyped-def]
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
def two_nearest_labels(indptr, indices, lengths, sources):  # type: ignore[no-untyped-def]
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
def second_nearest_labels(indptr, indices, lengths, first, first_label, n_labels):  # type: ignore[no-untyped-def]
    """The second-nearest sources, given the nearest ones, of equally near ones the smallest label: cell by cell.

    On the shortest path from its second-nearest source a node shares its nearest one with every node from the border of
    its cell on: another that is nearer there would be nearer at the end of the path too. So each cell is a search of
    its own, from what its neighbours across the border know; it stays in a small part of the memory, and so does its
    heap, however large the graph is.

    Returns:
        ``(M,)`` float64 distance and ``(M,)`` int32 label, as of ``two_nearest_labels``.
    """
    n_nodes = len(indptr) - 1
    second, second_label = np.full(n_nodes, np.inf), np.full(n_nodes, -1, np.int32)
    starts, members = np.zeros(n_labels + 1, np.int64), np.empty(n_nodes, np.int32)
    for node in range(n_nodes):
        starts[first_label[node] + 1] += 1
    starts = np.cumsum(starts)
    free = starts[:-1].copy()
    for node in range(n_nodes):
        members[free[first_label[node]]] = node
        free[first_label[node]] += 1
    keys, items = np.empty(1024, np.float64), np.empty(1024, np.int64)
    for label in range(n_labels):
        size = 0
        for place in range(starts[label], starts[label + 1]):
            node = members[place]
            for entry in range(indptr[node], indptr[node + 1]):
                other = indices[entry]
                across = first_label[other]
                if across != label:
                    reached = first[other] + lengths[entry]
                    if reached < second[node] or (reached == second[node] and across < second_label[node]):
                        second[node], second_label[node] = reached, across
            if second_label[node] >= 0:
                keys, items = heap_room(keys, items, size, 1)
                heap_push(keys, items, size, second[node], node)
                size += 1
        while size > 0:
            key, node = keys[0], items[0]
            heap_drop(keys, items, size)
            size -= 1
            if key != second[node]:
                continue
            start, stop = indptr[node], indptr[node + 1]
            keys, items = heap_room(keys, items, size, stop - start)
            for entry in range(start, stop):
                other = indices[entry]
                reached = key + lengths[entry]
                if reached > second[other] or first_label[other] != label:
                    continue
                if reached < second[other] or second_label[node] < second_label[other]:
                    second[other], second_label[other] = reached, second_label[node]
                    heap_push(keys, items, size, reached, other)
                    size += 1
    return second, second_label


@njit(cache=True, nogil=True)
def spread_labels(indptr, indices, lengths, first, first_label, second, second_label, keys, items, size):  # type: ignore[no-untyped-def]
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
