"""Swapping medoids on a graph, priced exactly without a distance matrix.

Partitioning around medoids (Kaufman, Rousseeuw 1987) exchanges a medoid for another node while that lowers the cost.
FasterPAM (Schubert, Rousseeuw 2021, §4) prices a candidate ``x`` against all K medoids at once from the distances to
the nearest and second-nearest medoid, ``d₁`` and ``d₂``, given the row ``d(x, ·)`` of the distance matrix:

    ΔTD(x, c) = Σ_u w·min(d_xᵖ − d₁ᵖ, 0)  +  loss(c)  +  Σ_{u of c} w·([min(d_x, d₂)ᵖ − d₂ᵖ] + [d₁ᵖ − min(d_x, d₁)ᵖ])
    loss(c) = Σ_{u of c} w·(d₂ᵖ − d₁ᵖ)

Only nodes with ``d_x < d₂`` change a term. On a graph they are found without the row: the search from ``x`` stops
where ``d_x ≥ d₂``. It misses nothing, since ``d₂`` changes along an edge by at most its length, so every node before
one that counts on a shortest path from ``x`` counts too. A few cells are visited, O(E/K) where FasterPAM reads O(M):
a sweep with a fixed number of candidates per code costs the same for every K, but for the K losses that each candidate
is compared with, which count from about ten thousand codes on. A swap repairs ``d₁``, ``d₂`` and their labels in the
cells around it alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from geovq.geometry.computing import in_threads
from geovq.geometry.paths import heap_drop, heap_push, heap_room
from geovq.quantizers.cells import Cells, GraphArrays, power, replace_medoid

_SMALLEST_GAIN = 1e-9  # of the cost: less is rounding, and equal medoids would swap for ever


def swap_candidates(
    graph: GraphArrays, weights: np.ndarray, cells: Cells, candidates: np.ndarray, exponent: int
) -> float:
    """Try ``candidates`` ``(C,)`` int32; take every swap that pays, best first. Works in place on ``cells``.

    Candidates are priced together, on all threads; one that a swap before it may have touched is priced again before
    it is taken. The result does not depend on the number of threads.

    Returns:
        How much the cost fell, at least 0.
    """
    gains, codes = price_candidates(graph, weights, cells, candidates, exponent)
    order = np.argsort(-gains, kind="stable")
    order = order[gains[order] > 0]
    least = _SMALLEST_GAIN * float(weights @ cells.first**exponent)
    return float(_take(graph, weights, cells, candidates[order], gains[order], codes[order], exponent, least))


@njit(cache=True, nogil=True)
def _price_one(graph, weights, cells, x, exponent, reached, change, keys, items):
    """Gain of the best swap that brings ``x`` in, and the code it takes; ``reached`` and ``change`` are scratch.

    ``reached`` ``(M,)`` must be infinite and ``change`` ``(K,)`` zero, and are left so.
    """
    indptr, indices, lengths = graph
    medoids, first, first_label, second, second_label, loss = cells
    touched, n_touched = np.empty(256, np.int64), 0
    everywhere, size = 0.0, 0
    reached[x] = 0.0
    touched[0], n_touched = x, 1
    heap_push(keys, items, size, 0.0, x)
    size += 1
    while size > 0:
        key, node = keys[0], items[0]
        heap_drop(keys, items, size)
        size -= 1
        if key != reached[node]:
            continue
        code, near = first_label[node], first[node]
        old, new = power(near, exponent), power(key, exponent)
        if key < near:
            everywhere += weights[node] * (new - old)
            if second_label[node] >= 0:
                change[code] += weights[node] * (old - power(second[node], exponent))
        elif second_label[node] >= 0:
            change[code] += weights[node] * (new - power(second[node], exponent))
        else:  # the only medoid: what it loses, x has to take over
            change[code] += weights[node] * (new - old)
        start, stop = indptr[node], indptr[node + 1]
        keys, items = heap_room(keys, items, size, stop - start)
        for entry in range(start, stop):
            other = indices[entry]
            distance = key + lengths[entry]
            if distance < second[other] and distance < reached[other]:
                if reached[other] == np.inf:
                    if n_touched == len(touched):
                        longer = np.empty(2 * n_touched, np.int64)
                        longer[:n_touched] = touched
                        touched = longer
                    touched[n_touched] = other
                    n_touched += 1
                reached[other] = distance
                heap_push(keys, items, size, distance, other)
                size += 1
    best, best_code = np.inf, -1
    for code in range(len(loss)):
        if loss[code] + change[code] < best:
            best, best_code = loss[code] + change[code], code
    for place in range(n_touched):
        node = touched[place]
        reached[node] = np.inf
        change[first_label[node]] = 0.0
    if medoids[first_label[x]] == x:
        return 0.0, 0, keys, items
    return -(everywhere + best), best_code, keys, items


def price_candidates(
    graph: GraphArrays, weights: np.ndarray, cells: Cells, candidates: np.ndarray, exponent: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gain of the best swap that brings each candidate in, and the code it takes.

    On as many threads as torch uses, each with every n-th candidate. Numba's own threads are left alone: starting them
    raises the number of threads of the OpenMP library that torch shares, and so slows all that comes after.

    Returns:
        ``(C,)`` float64 gains, below zero where no swap pays, 0 for medoids; ``(C,)`` int64 codes.
    """
    gains, codes = np.empty(len(candidates)), np.empty(len(candidates), np.int64)
    stride = torch.get_num_threads()
    in_threads(_price, stride, graph, weights, cells, candidates, exponent, stride, gains, codes)
    return gains, codes


@njit(cache=True, nogil=True)
def _price(graph, weights, cells, candidates, exponent, stride, gains, codes, start, end):
    """Price the candidates at ``start``, ``start + 1``, … below ``end``, and every ``stride`` after each."""
    reached, change = np.full(len(weights), np.inf), np.zeros(len(cells.medoids))
    keys, items = np.empty(1024, np.float64), np.empty(1024, np.int64)
    for begun in range(start, end):
        for place in range(begun, len(candidates), stride):
            x = candidates[place]
            gain, code, keys, items = _price_one(graph, weights, cells, x, exponent, reached, change, keys, items)
            gains[place], codes[place] = gain, code


@njit(cache=True, nogil=True)
def _take(graph, weights, cells, candidates, gains, codes, exponent, least):
    """Swaps of ``candidates``, best first; returns the sum of their gains."""
    reached, change = np.full(len(weights), np.inf), np.zeros(len(cells.medoids))
    keys, items = np.empty(1024, np.float64), np.empty(1024, np.int64)
    mark = np.zeros(len(weights), np.bool_)
    total = 0.0
    for place in range(len(candidates)):
        gain, code, x = gains[place], codes[place], candidates[place]
        if total > 0.0:
            gain, code, keys, items = _price_one(graph, weights, cells, x, exponent, reached, change, keys, items)
        if gain > least:
            keys, items = replace_medoid(graph, weights, cells, x, code, exponent, mark, keys, items)
            total += gain
    return total
