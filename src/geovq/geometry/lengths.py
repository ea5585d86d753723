"""Lengths of graph edges under the metric tensors of their ends."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.symmetric import unpacked_positions

RELATIVE_FLOOR = 1e-6
"""Shortest edge, as a share of the mean edge: where a metric is singular along an edge, its length would be
zero, and sparse matrices drop zeros as missing edges."""

# Padded displacements at a time, in numbers: about 2 MB, which stay in the processor's cache.
_BLOCK_NUMBERS = 500_000


def edge_lengths(adjacency: csr_matrix, nodes: np.ndarray, node_metrics: np.ndarray | None) -> csr_matrix:
    """The same pattern with trapezoid lengths ``½(‖Δ‖_{G_i} + ‖Δ‖_{G_j})``, or ``‖Δ‖`` without metrics.

    Every stored entry (i, j) first gets ``‖Δ‖_{G_i}``, which needs only the metric of its own row; the mean
    with the transpose is the trapezoid rule. No metric is gathered per edge. Lengths are floored at
    ``RELATIVE_FLOOR`` times their mean.

    Args:
        adjacency: symmetric pattern with sorted indices; its data are not read.
        nodes: ``(M, d)`` float32.
        node_metrics: ``(M, d(d+1)/2)`` packed float32 or None.

    Raises:
        InputError: all lengths are zero.
    """
    local = row_local_lengths(adjacency, nodes, node_metrics)
    result = csr_matrix((local, adjacency.indices, adjacency.indptr), shape=adjacency.shape)
    if node_metrics is not None:
        # The pattern is symmetric, so the transpose in CSR has the same indices and its data line up.
        local = (local + result.T.tocsr().data) * np.float32(0.5)
    mean = float(local.mean(dtype=np.float64)) if len(local) else 1.0
    if not mean > 0:
        raise InputError("every edge has length zero under these metrics; the decoder does not react to its latents")
    result.data = np.maximum(local, np.float32(RELATIVE_FLOOR * mean))
    return result


def row_local_lengths(adjacency: csr_matrix, nodes: np.ndarray, node_metrics: np.ndarray | None) -> np.ndarray:
    """``‖x_j − x_i‖_{G_i}`` for every stored entry (i, j), float32, in the order of ``adjacency.data``.

    Rows are taken in the order of their degree, so that a block of them is nearly rectangular and becomes one
    batched matrix product.
    """
    degrees = np.diff(adjacency.indptr)
    order = np.argsort(degrees, kind="stable")
    result = np.empty(adjacency.nnz, dtype=np.float32)
    dimension = nodes.shape[1]
    positions = unpacked_positions(dimension)
    start = int(np.searchsorted(degrees[order], 1))  # rows without entries have nothing to measure
    while start < len(order):
        width = int(degrees[order[start]])
        count = max(1, _BLOCK_NUMBERS // (dimension * max(width, dimension)))
        # Let a block widen by at most an eighth, so little is padded.
        widest = int(np.searchsorted(degrees[order], width + width // 8, side="right"))
        rows = order[start : min(start + count, widest)]
        start += len(rows)
        width = int(degrees[rows[-1]])
        places = adjacency.indptr[rows][:, None] + np.arange(width)
        inside = np.arange(width) < degrees[rows][:, None]
        places[~inside] = adjacency.indptr[rows].repeat((~inside).sum(axis=1))
        delta = np.take(nodes, adjacency.indices[places], axis=0)
        delta -= nodes[rows][:, None]
        if node_metrics is None:
            squared = np.square(delta).sum(axis=2)
        else:
            metric = np.take(node_metrics[rows], positions, axis=1).reshape(-1, dimension, dimension)
            squared = np.einsum("rwi,rwi->rw", delta @ metric, delta)
        result[places[inside]] = np.sqrt(np.maximum(squared, 0))[inside]
    return result
