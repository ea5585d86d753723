"""Links of a graph as a CSR pattern with sorted columns: both directions, components, and the way back of every entry.

Compiled loops that hold the result and little beside it: on a graph of 10 million nodes scipy's sums, transposes and
searches of components take two to eight times the graph.

In a symmetric pattern with sorted columns the rows, taken in order, meet the entries of each column in order too. So
the entry that leads back is known from one counter per node, and nothing is transposed.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

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


def count_different(adjacency: csr_matrix, relative: float) -> int:
    """Entries that differ from the entry back by more than a share of themselves; −1 where some have none.

    Columns must be sorted.
    """
    return int(_count_different(adjacency.indptr, adjacency.indices, adjacency.data, relative))


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


@njit(cache=True)
def _count_different(indptr, indices, values, relative):  # type: ignore[no-untyped-def]
    following, different = indptr[:-1].copy(), 0
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            column = indices[entry]
            back = following[column]
            if back == indptr[column + 1] or indices[back] != row:
                return -1
            following[column] += 1
            different += abs(values[back] - values[entry]) > relative * abs(values[entry])
    return different
