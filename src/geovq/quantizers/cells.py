"""The cells of a set of medoids on a graph: the two nearest medoids of every node, kept while medoids are replaced.

A replaced medoid changes the cells around its old and its new place and nothing else; both are repaired by searches
that stay there. Compiled, since a fit replaces thousands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from geovq.geometry.paths import heap_drop, heap_push, heap_room, offer, spread_labels, two_nearest_labels

GraphArrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""``indptr``, ``indices`` and ``lengths`` of a symmetric CSR matrix."""


class Cells(NamedTuple):
    """The two nearest medoids of every node, and what giving up a medoid would cost; changed in place."""

    medoids: np.ndarray
    """``(K,)`` int32 nodes."""
    first: np.ndarray
    """``(M,)`` float64 distance to the nearest medoid."""
    first_label: np.ndarray
    """``(M,)`` int32 place of that medoid in ``medoids``."""
    second: np.ndarray
    """``(M,)`` float64 distance to the second-nearest medoid; infinite where there is only one."""
    second_label: np.ndarray
    """``(M,)`` int32 place of that medoid; −1 where there is none."""
    loss: np.ndarray
    """``(K,)`` float64 rise of the cost if the medoid were given up; zero for a single medoid."""


def cells_of(graph: GraphArrays, weights: np.ndarray, medoids: np.ndarray, exponent: int) -> Cells:
    """The cells of distinct ``medoids`` ``(K,)``, with ``weights`` ``(M,)`` float64."""
    first, first_label, second, second_label = two_nearest_labels(*graph, medoids)
    loss = _losses(weights, first, first_label, second, second_label, len(medoids), exponent)
    return Cells(medoids.copy(), first, first_label, second, second_label, loss)


@njit(cache=True, inline="always")
def power(distance, exponent):
    """``distance`` to the power 1 or 2."""
    return distance * distance if exponent == 2 else distance


@njit(cache=True, inline="always")
def charge(loss, weights, first, first_label, second, second_label, node, exponent, sign):
    """Add (sign 1) or take back (−1) what ``node`` contributes to the loss of its nearest medoid."""
    if second_label[node] >= 0:
        rise = power(second[node], exponent) - power(first[node], exponent)
        loss[first_label[node]] += sign * weights[node] * rise


@njit(cache=True)
def _losses(weights, first, first_label, second, second_label, n_codes, exponent):
    loss = np.zeros(n_codes)
    for node in range(len(first)):
        charge(loss, weights, first, first_label, second, second_label, node, exponent, 1.0)
    return loss


@njit(cache=True, nogil=True)
def replace_medoid(graph, weights, cells, x, code, exponent, mark, keys, items):
    """Make ``x`` the medoid of ``code``; ``mark`` ``(M,)`` is scratch, false before and after.

    The nodes that know the label are connected through each other: a walk from the old medoid finds them all. They
    forget it and learn what their neighbours know instead; then the label spreads anew from ``x``.
    """
    indptr, indices, lengths = graph
    medoids, first, first_label, second, second_label, loss = cells
    changed, n_changed = np.empty(1024, np.int64), 1
    changed[0] = medoids[code]
    mark[medoids[code]] = True
    done = 0
    while done < n_changed:
        node = changed[done]
        done += 1
        for entry in range(indptr[node], indptr[node + 1]):
            other = indices[entry]
            if not mark[other] and (first_label[other] == code or second_label[other] == code):
                mark[other] = True
                if n_changed == len(changed):
                    longer = np.empty(2 * n_changed, np.int64)
                    longer[:n_changed] = changed
                    changed = longer
                changed[n_changed] = other
                n_changed += 1
    for place in range(n_changed):
        node = changed[place]
        mark[node] = False
        charge(loss, weights, first, first_label, second, second_label, node, exponent, -1.0)
        if first_label[node] == code:
            first[node], first_label[node] = second[node], second_label[node]
        second[node], second_label[node] = np.inf, -1
    size = 0
    for place in range(n_changed):
        node = changed[place]
        for entry in range(indptr[node], indptr[node + 1]):
            other, length = indices[entry], lengths[entry]
            if first_label[other] >= 0:
                offer(first, first_label, second, second_label, node, first[other] + length, first_label[other])
            if second_label[other] >= 0:
                offer(first, first_label, second, second_label, node, second[other] + length, second_label[other])
        keys, items = heap_room(keys, items, size, 2)
        if first_label[node] >= 0:
            heap_push(keys, items, size, first[node], (np.int64(first_label[node]) << 32) | node)
            size += 1
        if second_label[node] >= 0:
            heap_push(keys, items, size, second[node], (np.int64(second_label[node]) << 32) | node)
            size += 1
    keys, items = spread_labels(indptr, indices, lengths, first, first_label, second, second_label, keys, items, size)
    for place in range(n_changed):
        charge(loss, weights, first, first_label, second, second_label, changed[place], exponent, 1.0)
    medoids[code] = x
    charge(loss, weights, first, first_label, second, second_label, x, exponent, -1.0)
    offer(first, first_label, second, second_label, x, 0.0, code)
    charge(loss, weights, first, first_label, second, second_label, x, exponent, 1.0)
    heap_push(keys, items, 0, 0.0, x)
    size = 1
    while size > 0:
        key, node = keys[0], items[0]
        heap_drop(keys, items, size)
        size -= 1
        if not (first_label[node] == code and first[node] == key) and not (
            second_label[node] == code and second[node] == key
        ):
            continue
        start, stop = indptr[node], indptr[node + 1]
        keys, items = heap_room(keys, items, size, stop - start)
        for entry in range(start, stop):
            other = indices[entry]
            reached = key + lengths[entry]
            if reached > second[other]:
                continue
            charge(loss, weights, first, first_label, second, second_label, other, exponent, -1.0)
            if offer(first, first_label, second, second_label, other, reached, code):
                heap_push(keys, items, size, reached, other)
                size += 1
            charge(loss, weights, first, first_label, second, second_label, other, exponent, 1.0)
    return keys, items
