"""A priority queue for shortest paths, compiled: a four-way heap in two arrays that the caller owns.

Entries are never decreased in place. A better key is pushed beside the old one, and whoever pops an entry that no
longer matches the node's distance skips it (lazy deletion): shorter code and, for sparse graphs, less work than a heap
that tracks positions. Four children to a node halve the depth of a binary heap, and lie in one cache line
(LaMarca, Ladner 1996).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, inline="always")
def heap_push(keys, items, size, key, item):
    """Insert ``(key, item)`` into the ``size`` entries of ``keys`` and ``items``, which must have room.

    Args:
        keys: float64, its first ``size`` entries a heap.
        items: int64, one for every key.
        size: entries in use; the caller counts one more afterwards.
        key: of the new entry.
        item: of the new entry.
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
def heap_drop(keys, items, size):
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
def heap_room(keys, items, size, wanted):
    """``keys`` and ``items`` with room for ``wanted`` more entries: themselves, or copies twice as long."""
    if size + wanted <= len(keys):
        return keys, items
    longer = max(2 * len(keys), size + wanted)
    new_keys, new_items = np.empty(longer, np.float64), np.empty(longer, np.int64)
    new_keys[:size] = keys[:size]
    new_items[:size] = items[:size]
    return new_keys, new_items
