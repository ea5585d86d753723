"""Metric tensors of a graph's nodes.

The pull-back metric of a token belongs to its image and position: the decoder reacts to the same latent differently in
other surroundings. A codeword, and a graph whose nodes are tokens of many images, know only the latent. What a
displacement from ``z`` costs on average over the contexts in which ``z`` occurs is ``eᵀ E[G | z] e``, so the metric at
``z`` is the conditional mean. Without it, shortest paths change images on the way: they hop to a look-alike in a
context that hardly reacts (a saturated background), travel there almost for free, and hop back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix

from geovq.geometry.computing import in_a_file, in_threads, working_memory

# Rows of metrics converted to float32 at a time: 36 MB at 136 numbers each.
_BLOCK_ROWS = 65_536


def node_metrics(
    packed: torch.Tensor,
    token_node: np.ndarray,
    counts: np.ndarray,
    pattern: csr_matrix | None = None,
    scratch: Path | None = None,
) -> np.ndarray:
    """Mean metric of the tokens that share a node, with a ``pattern`` of those of the nodes linked to it as well.

    Where metrics and means together take more than half of the working memory, the result is a file without a name, and
    some columns at a time are averaged: every number is the mean of its own column, so the result is the same.

    Args:
        packed: ``(N, d(d+1)/2)`` of the tokens, any floating type.
        token_node: ``(N,)`` node of each token.
        counts: ``(M,)`` tokens per node.
        pattern: see ``neighbourhood_mean``.
        scratch: folder of the file; that of the system by default.

    Returns:
        ``(M, d(d+1)/2)`` float32.
    """
    n_nodes, size = len(counts), packed.shape[1]
    if 4 * n_nodes * size * (1 if pattern is None else 2) <= working_memory() / 2:
        own = mean_by_node(packed, token_node, counts)
        return own if pattern is None else neighbourhood_mean(own, pattern, counts)
    result = in_a_file((n_nodes, size), scratch)
    step = max(1, int(working_memory() / 4 // (4 * n_nodes)))
    for first in range(0, size, step):
        columns = slice(first, first + step)
        own = mean_by_node(packed[:, columns], token_node, counts)
        if pattern is None:
            result[:, columns] = own
        else:
            neighbourhood_mean(own, pattern, counts, result[:, columns])
    return result


def mean_by_node(packed: torch.Tensor, token_node: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean metric of the tokens that share a node.

    Args:
        packed: ``(N, d(d+1)/2)`` of the tokens, any floating type; converted block by block.
        token_node: ``(N,)`` node of each token.
        counts: ``(M,)`` tokens per node.

    Returns:
        ``(M, d(d+1)/2)`` float32.
    """
    total = np.zeros((len(counts), packed.shape[1]), dtype=np.float32)
    for start in range(0, len(packed), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        _add_to_nodes(packed[rows].float().contiguous().numpy(), token_node[rows], total)
    shared = np.flatnonzero(counts > 1)
    total[shared] /= counts[shared, None].astype(np.float32)
    return total


def neighbourhood_mean(
    metrics: np.ndarray, pattern: csr_matrix, counts: np.ndarray, result: np.ndarray | None = None
) -> np.ndarray:
    """``E[G | z]`` by nearest-neighbour regression: the mean metric of each node and those it is linked to.

    Every token counts once, so a node weighs as many as it has duplicates. With about 30 linked nodes this also
    divides the noise of sketched metrics by about five. Time and memory traffic O(links · numbers per metric).

    Args:
        metrics: ``(M, d(d+1)/2)`` float32 packed, of the nodes.
        pattern: ``(M, M)`` links without self-links; stored entries count, whatever their values.
        counts: ``(M,)`` tokens per node.
        result: where to write; a new array by default.

    Returns:
        ``(M, d(d+1)/2)`` float32.
    """
    result = np.empty_like(metrics, dtype=np.float32) if result is None else result
    weights = counts.astype(np.float32)
    in_threads(_mean_of_linked, len(metrics), metrics, weights, pattern.indptr, pattern.indices, result)
    return result


@njit(cache=True, nogil=True)
def _add_to_nodes(packed, token_node, total):  # type: ignore[no-untyped-def]
    for token in range(len(packed)):
        row, sums = packed[token], total[token_node[token]]
        for place in range(len(row)):
            sums[place] += row[place]


@njit(cache=True, nogil=True)
def _mean_of_linked(metrics, weights, indptr, indices, result, first, last):  # type: ignore[no-untyped-def]
    for node in range(first, last):
        mean, own = result[node], metrics[node]
        weight = weights[node]
        for place in range(len(mean)):
            mean[place] = weight * own[place]
        for entry in range(indptr[node], indptr[node + 1]):
            other, share = metrics[indices[entry]], weights[indices[entry]]
            weight += share
            for place in range(len(mean)):
                mean[place] += share * other[place]
        for place in range(len(mean)):
            mean[place] /= weight
