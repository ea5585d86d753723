"""Symmetric matrices stored as their upper half: the quadratic forms they define, and their means over tokens.

A metric tensor of a ``d``-dimensional token is symmetric, so ``d(d+1)/2`` numbers hold it: for d = 16
136 instead of 256. The order is row-major: (0,0), (0,1), …, (0,d-1), (1,1), ….
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array
from geovq.geometry.computing import in_a_file, in_threads, working_memory

# Rows of metrics converted to another type at a time: 36 MB at 136 numbers of float32 each.
_BLOCK_ROWS = 65_536


def as_tensor(values: Array) -> torch.Tensor:
    """View an array as a tensor without a copy; tensors pass through."""
    return values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))


def packed_size(dimension: int) -> int:
    """``d(d+1)/2``, the number of entries in the upper half of a ``(d, d)`` matrix."""
    return dimension * (dimension + 1) // 2


def packed_dimension(size: int) -> int:
    """The ``d`` for which ``d(d+1)/2 == size``; InputError if there is none."""
    dimension = (math.isqrt(8 * size + 1) - 1) // 2
    if size < 1 or packed_size(dimension) != size:
        raise InputError(f"{size} entries are no packed symmetric matrix; a (d, d) matrix packs into d(d+1)/2 entries")
    return dimension


def unpacked_positions(d: int) -> np.ndarray:
    """``(d·d,)`` places in the packed half that the entries of the full matrix, row-major, come from."""
    rows, columns = np.triu_indices(d)
    position = np.empty((d, d), dtype=np.int64)
    position[rows, columns] = position[columns, rows] = np.arange(packed_size(d))
    return position.reshape(-1)


def pack_symmetric(matrices: torch.Tensor) -> torch.Tensor:
    """Upper halves ``(…, d(d+1)/2)``, row-major, of symmetric matrices ``(…, d, d)``; InputError for other shapes."""
    if matrices.ndim < 2 or matrices.shape[-1] != matrices.shape[-2]:
        raise InputError(f"matrices have shape {tuple(matrices.shape)}; the last two dimensions must be equal")
    d = matrices.shape[-1]
    rows, columns = torch.triu_indices(d, d, device=matrices.device)
    return matrices.flatten(-2)[..., rows * d + columns]


def unpack_symmetric(packed: torch.Tensor, d: int) -> torch.Tensor:
    """Symmetric matrices ``(…, d, d)`` of upper halves ``(…, d(d+1)/2)``; InputError for another last dimension."""
    if packed.shape[-1] != packed_size(d):
        raise InputError(f"packed matrices have {packed.shape[-1]} entries; for d = {d} there must be {packed_size(d)}")
    position = torch.from_numpy(unpacked_positions(d)).to(packed.device)
    return packed[..., position].unflatten(-1, (d, d))


def quadratic_form(packed: Array, delta: Array) -> torch.Tensor:
    """``δ_iᵀ G_i δ_i`` for every row: squared lengths of displacements, each in its own metric.

    Args:
        packed: ``(N, d(d+1)/2)`` packed metric tensors, one per displacement.
        delta: ``(N, d)`` displacements.

    Returns:
        ``(N,)`` tensor; in squared pixel error when G is a pull-back metric. Never below zero.

    Raises:
        InputError: shapes that do not fit together.
    """
    packed, delta = as_tensor(packed), as_tensor(delta)
    if packed.ndim != 2 or delta.ndim != 2 or packed.shape != (len(delta), packed_size(delta.shape[1])):
        raise InputError(
            f"metrics {tuple(packed.shape)} do not fit displacements {tuple(delta.shape)}; "
            "(N, d) displacements need (N, d(d+1)/2) packed metrics"
        )
    d = delta.shape[1]
    rows, columns = torch.triu_indices(d, d, device=delta.device)
    # Every off-diagonal entry stands for itself and its mirror image.
    factor = torch.where(rows == columns, 1.0, 2.0).to(delta.dtype)
    if delta.device.type == "cpu":
        values = _quadratic_form_in_cache(packed.numpy(), delta.numpy(), rows.numpy(), columns.numpy(), factor.numpy())
        return torch.from_numpy(values).clamp_(min=0.0)
    result = torch.empty(len(delta), dtype=delta.dtype, device=delta.device)
    for start in range(0, len(delta), _BLOCK_ROWS):
        here = slice(start, start + _BLOCK_ROWS)
        products = delta[here, rows] * delta[here, columns]
        result[here] = (products * packed[here].to(delta.dtype)) @ factor
    return result.clamp_(min=0.0)


def _quadratic_form_in_cache(
    packed: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: np.ndarray, factor: np.ndarray
) -> np.ndarray:
    """The same a thousand rows at a time: temporaries stay in the processor's cache (measured: ten times faster)."""
    result = np.empty(len(delta), dtype=delta.dtype)
    for start in range(0, len(delta), 1_024):
        part = delta[start : start + 1_024]
        products = np.take(part, rows, axis=1)
        products *= np.take(part, columns, axis=1)
        products *= factor
        np.einsum("np,np->n", products, packed[start : start + 1_024], out=result[start : start + 1_024])
    return result


def mean_metric(packed: Array, weights: Array | None = None) -> torch.Tensor:
    """Mean metric tensor ``(d, d)`` of ``(N, d(d+1)/2)`` packed ones, optionally weighted by ``(N,)``.

    Summed in float64, returned in float32: the constant metric closest to all tokens' in the least-squares sense.

    Raises:
        InputError: no tokens, or weights that are negative, sum to zero or do not fit.
    """
    packed = as_tensor(packed)
    d = packed_dimension(packed.shape[-1])
    if packed.ndim != 2 or len(packed) == 0:
        raise InputError(f"metrics have shape {tuple(packed.shape)}; give (N, d(d+1)/2) with N of at least 1")
    weight = torch.ones(len(packed), dtype=torch.float64) if weights is None else as_tensor(weights).double()
    weight = weight.to(packed.device)
    if weight.shape != (len(packed),) or bool((weight < 0).any()) or float(weight.sum()) <= 0:
        raise InputError(f"weights of {len(packed)} metrics must be {len(packed)} non-negative numbers, not all zero")
    total = torch.zeros(packed.shape[1], dtype=torch.float64, device=packed.device)
    for start in range(0, len(packed), _BLOCK_ROWS):
        total += weight[start : start + _BLOCK_ROWS] @ packed[start : start + _BLOCK_ROWS].double()
    return unpack_symmetric((total / weight.sum()).float(), d)


def square_root(metric: Array, ridge: float = 0.0) -> np.ndarray:
    """Symmetric square root ``(d, d)`` float64 of a metric tensor: ``‖R δ‖² = δᵀ G δ``.

    Args:
        metric: ``(d, d)`` symmetric, positive semidefinite to rounding.
        ridge: see ``metric_shift``; it makes the root of a singular metric invertible.

    Raises:
        InputError: not a square matrix, NaN, and as ``metric_shift``.
    """
    matrix = as_array(metric, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise InputError(f"the metric has shape {matrix.shape}; give one finite (d, d) matrix")
    shift = metric_shift(matrix, ridge)
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0) + shift)) @ vectors.T)


def metric_shift(metric: np.ndarray, ridge: float) -> float:
    """``ridge`` times the mean eigenvalue of a metric ``(d, d)``: what is added to all of them.

    Raises:
        InputError: ``ridge`` is negative or no number, or the metric is zero.
    """
    if not 0 <= ridge < np.inf:
        raise InputError(f"ridge is {ridge}; it is a share of the mean eigenvalue and must be at least 0")
    level = float(np.trace(metric)) / len(metric)
    if not level > 0:
        raise InputError("the mean metric is zero; the decoder ignores these latents, or its output is saturated")
    return ridge * level


def node_metrics(
    packed: torch.Tensor,
    token_node: np.ndarray,
    counts: np.ndarray,
    pattern: csr_matrix | None = None,
    scratch: Path | None = None,
) -> np.ndarray:
    """Mean metric of the tokens that share a node, with a ``pattern`` of those of the nodes linked to it as well.

    The pull-back metric of a token belongs to its image and position: the decoder reacts to the same latent differently
    in other surroundings. A codeword, and a graph whose nodes are tokens of many images, know only the latent. What a
    displacement from ``z`` costs on average over the contexts in which ``z`` occurs is ``eᵀ E[G | z] e``, so the metric
    at ``z`` is the conditional mean. Without it, shortest paths change images on the way: they hop to a look-alike in a
    context that hardly reacts (a saturated background), travel there almost for free, and hop back.

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
