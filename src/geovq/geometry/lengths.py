"""Lengths of a graph's edges, by the metric tensors of their ends, or by looking at the decoder between them.

| rule | length of the edge between ``z_i`` and ``z_j = z_i + Δ`` | looks at the decoder |
|---|---|---|
| ``trapezoid`` | ``½(‖Δ‖_{G_i} + ‖Δ‖_{G_j})`` | no |
| ``simpson`` | ``⅙(‖Δ‖_{G_i} + 4‖Δ‖_{G_mid} + ‖Δ‖_{G_j})`` | one directional derivative per end |
| ``chord`` | ``‖D(z_j) − D(z_i)‖`` | one decoded image per end, one per node |

The first two are quadrature rules for the length of the straight segment, ``∫ ‖Δ‖_{G(z_i + sΔ)} ds`` over s from 0
to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.checks import check_choice
from geovq.geometry.computing import in_threads
from geovq.geometry.edges import DecodedEdges
from geovq.geometry.links import mean_of_both_ways
from geovq.geometry.symmetric import quadratic_form, unpacked_positions
from geovq.progress import progress

RELATIVE_FLOOR = 1e-6
"""Shortest edge, as a share of the mean edge: where a metric is singular along an edge, its length would be
zero, and sparse matrices drop zeros as missing edges."""

LengthRule = Literal["trapezoid", "simpson", "chord"]

# Edges whose displacements exist at a time where the decoder is looked at, and where a device measures them: 2 GB there
# at 136 numbers per metric.
_DECODED_EDGES = 65_536
_DEVICE_EDGES = 1 << 20


def check_rule(length: str, decoded: DecodedEdges | None) -> None:
    """Raise InputError for an unknown rule, one without the decoder it needs, or a decoder that no rule looks at."""
    check_choice("length", length, get_args(LengthRule))
    if length != "trapezoid" and decoded is None:
        raise InputError(f"length is {length!r}, which asks the decoder; give decoded=DecodedEdges(decoder, latents)")
    if length == "trapezoid" and decoded is not None:
        raise InputError("decoded was given, but length is 'trapezoid'; choose 'simpson' or 'chord', or leave it out")


def edge_lengths(
    adjacency: csr_matrix,
    nodes: np.ndarray,
    node_metrics: np.ndarray | None,
    length: LengthRule = "trapezoid",
    decoded: DecodedEdges | None = None,
    node_tokens: np.ndarray | None = None,
    device: torch.device | str | None = None,
) -> csr_matrix:
    """The same pattern with lengths by one of the rules above; trapezoid without metrics is ``‖Δ‖``.

    Every stored entry (i, j) first gets what is known from its own row: ``‖Δ‖_{G_i}``, or the decoder around the token
    of node i. The mean with the entry back is the rule. No metric is gathered per edge. Lengths are floored at
    ``RELATIVE_FLOOR`` times their mean.

    Args:
        adjacency: symmetric pattern with sorted indices; its data are not read.
        nodes: ``(M, d)`` float32.
        node_metrics: ``(M, d(d+1)/2)`` packed float32. Without them Simpson's rule asks the decoder for the speed at
            the ends, too; the chord needs none.
        length: the rule.
        decoded: the decoder, for ``simpson`` and ``chord``.
        node_tokens: ``(M,)`` token that stands for each node in ``decoded``; by default node i is token i.
        device: where to measure by metrics; the CPU by default.

    Raises:
        InputError: a rule that does not fit, or all lengths are zero.
    """
    check_rule(length, decoded)
    if decoded is None:
        local = row_local_lengths(adjacency, nodes, node_metrics, device)
    else:
        tokens = np.arange(len(nodes)) if node_tokens is None else node_tokens
        local = np.empty(adjacency.nnz, dtype=np.float32)
        if length == "simpson" and node_metrics is not None:
            local = row_local_lengths(adjacency, nodes, node_metrics, device)
        _look_at_decoder(adjacency, nodes, decoded, tokens, length, local, node_metrics is not None)
    if node_metrics is not None or decoded is not None:
        mean_of_both_ways(adjacency, local)
    mean = float(local.mean(dtype=np.float64)) if len(local) else 1.0
    if not np.isfinite(mean):
        raise InputError("edge lengths overflow float32; scale the latents or the metrics down")
    if not mean > 0:
        raise InputError("every edge has length zero under these metrics; the decoder does not react to its latents")
    np.maximum(local, np.float32(RELATIVE_FLOOR * mean), out=local)
    return csr_matrix((local, adjacency.indices, adjacency.indptr), shape=adjacency.shape)


def shortest_candidates(candidates: np.ndarray, nodes: np.ndarray, node_metrics: np.ndarray, k: int) -> np.ndarray:
    """Of each node's candidates ``(M, c)`` the ``k`` that its shortest edges lead to, ``(M, k)`` int32.

    Edges have the trapezoid length; of equally long ones the earlier candidate comes first.
    """
    result = np.empty((len(candidates), k), dtype=np.int32)
    weights = np.where(np.equal(*np.triu_indices(nodes.shape[1])), 1, 2).astype(np.float32)
    in_threads(_rank_rows, len(nodes), candidates, nodes, node_metrics, weights, result)
    return result


def row_local_lengths(
    adjacency: csr_matrix, nodes: np.ndarray, node_metrics: np.ndarray | None, device: torch.device | str | None = None
) -> np.ndarray:
    """``‖x_j − x_i‖_{G_i}`` for every stored entry (i, j), float32, in the order of ``adjacency.data``."""
    if node_metrics is not None and device is not None and torch.device(device).type != "cpu":
        return _lengths_on_device(adjacency, nodes, node_metrics, torch.device(device))
    result = np.empty(adjacency.nnz, dtype=np.float32)
    links = (adjacency.indptr, adjacency.indices, nodes)
    if node_metrics is None:
        in_threads(_euclidean_rows, len(nodes), *links, result)
    else:
        widest = int(np.diff(adjacency.indptr).max())
        in_threads(_metric_rows, len(nodes), *links, node_metrics, unpacked_positions(nodes.shape[1]), widest, result)
    return result


def _lengths_on_device(
    adjacency: csr_matrix, nodes: np.ndarray, node_metrics: np.ndarray, device: torch.device
) -> np.ndarray:
    """The same with one metric gathered per edge, which a device has the bandwidth for."""
    points, metrics = torch.from_numpy(nodes).to(device), torch.from_numpy(node_metrics).to(device)
    result = np.empty(adjacency.nnz, dtype=np.float32)
    for rows, columns, part in _blocks_of_edges(adjacency, _DEVICE_EDGES):
        i, j = torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)
        result[part] = quadratic_form(metrics[i], points[j] - points[i]).sqrt().cpu().numpy()
    return result


def _look_at_decoder(
    adjacency: csr_matrix,
    nodes: np.ndarray,
    decoded: DecodedEdges,
    tokens: np.ndarray,
    length: LengthRule,
    local: np.ndarray,
    has_ends: bool,
) -> None:
    """Fill ``local`` with what the decoder says about every entry in the context of its row's token.

    Simpson's rule is the mean over both directions of ``⅓(‖Δ‖_{G_i} + 2‖Δ‖_{G_mid})``; with ``has_ends`` the first of
    these speeds already stands in ``local``.
    """
    with progress(f"edges, {length}", total=adjacency.nnz) as advance:
        for rows, columns, part in _blocks_of_edges(adjacency, _DECODED_EDGES):
            start, end = nodes[rows], nodes[columns]
            if length == "chord":
                local[part] = decoded.chords(tokens[rows], start, end)
            else:
                ends = local[part] if has_ends else decoded.speeds(tokens[rows], start, end - start)
                local[part] = (ends + 2 * decoded.speeds(tokens[rows], (start + end) / 2, end - start)) / 3
            advance(len(rows))


def _blocks_of_edges(adjacency: csr_matrix, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, slice]]:
    """Rows, columns and places of the stored entries, ``size`` at a time."""
    for start in range(0, adjacency.nnz, size):
        part = slice(start, min(start + size, adjacency.nnz))
        rows = np.searchsorted(adjacency.indptr, np.arange(part.start, part.stop), side="right") - 1
        yield rows, adjacency.indices[part], part


@njit(cache=True, nogil=True)
def _euclidean_rows(indptr, indices, nodes, result, first, last):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        for entry in range(indptr[row], indptr[row + 1]):
            squared = np.float32(0)
            for dim in range(nodes.shape[1]):
                gap = nodes[indices[entry], dim] - nodes[row, dim]
                squared += gap * gap
            result[entry] = np.sqrt(squared)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _metric_rows(indptr, indices, nodes, node_metrics, positions, widest, result, first, last):  # type: ignore[no-untyped-def]
    """``√(ΔᵀGΔ)``, the metric of a row unpacked once; all its neighbours are fetched before any is measured, which
    overlaps the waiting for memory."""
    dimension = nodes.shape[1]
    metric, pushed = np.empty((dimension, dimension), np.float32), np.empty(dimension, np.float32)
    gaps = np.empty((widest, dimension), np.float32)
    for row in range(first, last):
        begin, end = indptr[row], indptr[row + 1]
        own = nodes[row]
        for place in range(end - begin):
            other, gap = nodes[indices[begin + place]], gaps[place]
            for a in range(dimension):
                gap[a] = other[a] - own[a]
        for a in range(dimension):
            for b in range(dimension):
                metric[a, b] = node_metrics[row, positions[a * dimension + b]]
        for place in range(end - begin):
            gap = gaps[place]
            pushed[:] = 0
            for a in range(dimension):
                factor, metric_row = gap[a], metric[a]
                for b in range(dimension):
                    pushed[b] += factor * metric_row[b]
            squared = np.float32(0)
            for a in range(dimension):
                squared += pushed[a] * gap[a]
            result[begin + place] = np.sqrt(max(squared, np.float32(0)))


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _rank_rows(candidates, nodes, node_metrics, weights, result, first, last):  # type: ignore[no-untyped-def]
    """``ΔᵀGΔ`` is the packed metric times the packed ``ΔΔᵀ`` with doubled off-diagonal entries."""
    dimension, k = nodes.shape[1], result.shape[1]
    products, lengths = np.empty(len(weights), np.float32), np.empty(k, np.float32)
    for row in range(first, last):
        count = 0
        for place in range(candidates.shape[1]):
            other = candidates[row, place]
            entry = 0
            for a in range(dimension):
                gap = nodes[other, a] - nodes[row, a]
                for b in range(a, dimension):
                    products[entry] = weights[entry] * gap * (nodes[other, b] - nodes[row, b])
                    entry += 1
            here, there = np.float32(0), np.float32(0)
            for entry in range(len(weights)):
                here += products[entry] * node_metrics[row, entry]
                there += products[entry] * node_metrics[other, entry]
            length = np.sqrt(max(here, np.float32(0))) + np.sqrt(max(there, np.float32(0)))
            slot = count
            while slot > 0 and lengths[slot - 1] > length:
                if slot < k:
                    lengths[slot], result[row, slot] = lengths[slot - 1], result[row, slot - 1]
                slot -= 1
            if slot < k:
                lengths[slot], result[row, slot] = length, other
                count = min(count + 1, k)
