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
is compared with, which count from about ten thousand codes on. A swap changes the cells around its old and its new
place and nothing else; ``d₁``, ``d₂`` and their labels are repaired by searches that stay there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from geovq.geometry.computing import in_threads
from geovq.geometry.paths import heap_drop, heap_push, heap_room
from geovq.quantizers.two_nearest import offer, second_nearest_labels, spread_labels, two_nearest_labels

_SMALLEST_GAIN = 1e-9  # of the cost: less is rounding, and equal medoids would swap for ever

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


def cells_of(
    graph: GraphArrays,
    weights: np.ndarray,
    medoids: np.ndarray,
    exponent: int,
    nearest: tuple[np.ndarray, np.ndarray] | None = None,
) -> Cells:
    """The cells of distinct ``medoids`` ``(K,)``, with ``weights`` ``(M,)`` float64.

    Where the ``nearest`` medoids and their distances are known, these two arrays become part of the cells.
    """
    if nearest is None:
        first, first_label, second, second_label = two_nearest_labels(*graph, medoids)
    else:
        first, first_label = nearest
        second, second_label = second_nearest_labels(*graph, first, first_label, len(medoids))
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
