"""Drawing the first codewords in proportion to what they would save (k-means++; Arthur, Vassilvitskii 2007).

On a graph every new seed needs the distances of the nodes that it is nearer to than all seeds before, and no others. A
search that stops where an older seed is at least as near finds them: over K seeds drawn at random about M·ln K visits
instead of the M·K of K full searches. The chances are kept as sums over blocks of nodes, so that drawing does not read
all nodes either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from geovq.errors import InputError
from geovq.geometry.paths import heap_drop, heap_push, heap_room, nearest_labels
from geovq.progress import progress

_BLOCK = 1024


class Seeds(NamedTuple):
    """Nodes to start from, and the nearest of them for every node."""

    nodes: np.ndarray
    """``(K,)`` int32, all different."""
    distance: np.ndarray
    """``(M,)`` float64 distance to the nearest."""
    label: np.ndarray
    """``(M,)`` int32 its place in ``nodes``; of several at that distance the first."""


def draw_in_proportion(weights: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """``n_draws`` distinct indices, drawn one after the other with chances in proportion to ``weights``.

    By an exponential race (Efraimidis, Spirakis 2006): the smallest of ``E_i / w_i`` win. Zero weights never
    win while positive ones are left; ``n_draws`` must not exceed the number of positive weights.
    """
    with np.errstate(divide="ignore"):
        times = rng.standard_exponential(len(weights)) / weights
    return np.argpartition(times, n_draws - 1)[:n_draws]


def geodesic_seeds(
    graph: tuple[np.ndarray, np.ndarray, np.ndarray],
    weights: np.ndarray,
    n_codes: int,
    exponent: int,
    rng: np.random.Generator,
    initial: np.ndarray | None = None,
) -> Seeds:
    """``K`` distinct nodes, each drawn by ``weight·distance^exponent`` to the nearest of those before.

    Args:
        graph: ``(indptr, indices, lengths)`` of a connected symmetric CSR matrix.
        weights: ``(M,)`` float64 tokens per node.
        n_codes: K.
        exponent: 1 or 2.
        rng: of the draws.
        initial: distinct nodes to start from, such as the medoids of a smaller codebook; at most K.

    Raises:
        InputError: the graph is not connected.
    """
    if initial is None:
        initial = draw_in_proportion(weights, 1, rng)
    seeds = np.empty(n_codes, dtype=np.int32)
    seeds[: len(initial)] = initial
    distance, label, _ = nearest_labels(*graph, seeds[:1])
    if not np.isfinite(distance).all():
        raise InputError("the graph is not connected; build it with build_graph, which joins its components")
    chances = np.pad(weights * distance**exponent, (0, -len(weights) % _BLOCK))
    blocks = chances.reshape(-1, _BLOCK).sum(axis=1)
    known = (distance, label, chances, blocks)
    for place in range(1, len(initial)):
        _add_seed(*graph, weights, exponent, seeds, place, *known)
    blocks[:] = chances.reshape(-1, _BLOCK).sum(axis=1)
    with progress("geodesic seeding", total=n_codes) as advance:
        advance(len(initial))
        for place, aim in enumerate(rng.random(n_codes - len(initial)), start=len(initial)):
            seeds[place] = _draw(chances, blocks, aim)
            _add_seed(*graph, weights, exponent, seeds, place, *known)
            advance()
    return Seeds(seeds, distance, label)


@njit(cache=True, nogil=True)
def _draw(chances, blocks, aim):
    """The node at share ``aim`` of all chances; never one without a chance."""
    left = aim * blocks.sum()
    chosen, block = -1, 0
    for block in range(len(blocks)):
        if left < blocks[block]:
            break
        left -= blocks[block]
    for start in (block * _BLOCK, 0):  # rounding may carry the aim past the last chance of a block
        for node in range(start, start + _BLOCK if start else len(chances)):
            if chances[node] > 0.0:
                chosen = node
                left -= chances[node]
                if left < 0.0:
                    break
        if chosen >= 0:
            break
    return chosen


@njit(cache=True, nogil=True)
def _add_seed(indptr, indices, lengths, weights, exponent, seeds, place, distance, label, chances, blocks):
    """Let the seed at ``place`` claim the nodes it is nearest to; works in place on the last four."""
    keys, items, size = np.empty(1024, np.float64), np.empty(1024, np.int64), 1
    distance[seeds[place]], label[seeds[place]] = 0.0, place
    heap_push(keys, items, 0, 0.0, seeds[place])
    while size > 0:
        key, node = keys[0], items[0]
        heap_drop(keys, items, size)
        size -= 1
        if key != distance[node]:
            continue
        chance = weights[node] * (key * key if exponent == 2 else key)
        blocks[node // _BLOCK] = max(blocks[node // _BLOCK] + chance - chances[node], 0.0)
        chances[node] = chance
        first, last = indptr[node], indptr[node + 1]
        keys, items = heap_room(keys, items, size, last - first)
        for entry in range(first, last):
            other = indices[entry]
            reached = key + lengths[entry]
            if reached < distance[other]:
                distance[other], label[other] = reached, place
                heap_push(keys, items, size, reached, other)
                size += 1
