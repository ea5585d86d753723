"""Shortest paths on a token graph: nearest sources, distances, paths, out-of-sample points.

All functions take a symmetric ``scipy.sparse`` CSR matrix of strictly positive edge lengths; distances come
in its unit. One multi-source pass answers "which source is nearest, and how far" for every node at once, at
the price of a single run of Dijkstra's algorithm, whatever the number of sources.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, check_lengths
from geovq.geometry.dijkstra import nearest_labels
from geovq.geometry.relaxation import relaxed_labels


class NearestSource(NamedTuple):
    """For every node: the distance to its nearest source, which source that is, and the node before it."""

    distance: np.ndarray
    """``(M,)`` float64; infinite where no source can be reached."""
    source: np.ndarray
    """``(M,)`` int32 index into the given sources; −1 where none can be reached."""
    predecessor: np.ndarray
    """``(M,)`` int32 previous node on the path from the source; −1 at sources and unreached nodes."""


def nearest_sources(adjacency: csr_matrix, sources: Array, device: torch.device | str | None = None) -> NearestSource:
    """Distance to, and index of, the nearest of ``sources`` for every node, in one pass.

    The nodes of one source form a Voronoi cell that contains, with each node, its whole path from the source.
    A node given twice answers with its first place in ``sources``. On a CUDA ``device`` edges are relaxed there
    (``geovq.geometry.relaxation``); by default, Dijkstra's algorithm runs on the CPU.

    Raises:
        InputError: no source, one that is no node, or an edge without a positive, finite length.
    """
    nodes = _check_nodes(adjacency, sources, "sources")
    if device is not None and torch.device(device).type != "cpu":
        return NearestSource(*relaxed_labels(adjacency.indptr, adjacency.indices, adjacency.data, nodes, device))
    return NearestSource(*nearest_labels(adjacency.indptr, adjacency.indices, adjacency.data, nodes))


def distances_from(adjacency: csr_matrix, source_nodes: Array, limit: float = np.inf) -> np.ndarray:
    """Rows ``(S, M)`` of the distance matrix, float64: one run per source, for small use.

    Distances above ``limit`` come back infinite.

    Raises:
        InputError: no source, one that is no node, or an edge without a positive, finite length.
    """
    nodes = _check_nodes(adjacency, source_nodes, "source_nodes")
    return dijkstra(adjacency, directed=True, indices=nodes, limit=limit)


def shortest_path(adjacency: csr_matrix, a: int, b: int) -> tuple[list[int], float]:
    """The nodes from ``a`` to ``b`` (both included) and the length of the path.

    Raises:
        InputError: ``a`` or ``b`` is no node, no path connects them, or an edge has no positive, finite length.
    """
    _check_nodes(adjacency, np.array([a, b]), "a and b")
    distance, predecessor = dijkstra(adjacency, directed=True, indices=a, return_predecessors=True)
    if not np.isfinite(distance[b]):
        raise InputError(f"no path connects nodes {a} and {b}; join the components of the graph first")
    nodes = [int(b)]
    while nodes[-1] != a:
        nodes.append(int(predecessor[nodes[-1]]))
    return nodes[::-1], float(distance[b])


def out_of_sample_nearest(
    node_distance: np.ndarray, node_source: np.ndarray, attach_indices: np.ndarray, attach_lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest source of points that are no nodes: ``min_j (length to node j + distance of node j)``.

    This is Bellman's equation with the point as a node whose edges are its attachments, so training tokens
    get the distance and the source they had in the graph.

    Args:
        node_distance: ``(M,)`` distance of each node to its nearest source.
        node_source: ``(M,)`` that source.
        attach_indices: ``(Q, k)`` nodes a point is attached to.
        attach_lengths: ``(Q, k)`` lengths of these attachments.

    Returns:
        ``(Q,)`` float64 distances and ``(Q,)`` int32 sources.

    Raises:
        InputError: shapes that do not fit together.
    """
    if attach_indices.shape != attach_lengths.shape or attach_indices.ndim != 2:
        raise InputError(
            f"attachments have shapes {attach_indices.shape} and {attach_lengths.shape}; both must be (Q, k)"
        )
    totals = node_distance[attach_indices] + attach_lengths
    best = totals.argmin(axis=1)[:, None]
    distance = np.take_along_axis(totals, best, axis=1)[:, 0]
    source = node_source[np.take_along_axis(attach_indices, best, axis=1)[:, 0]]
    return distance, source.astype(np.int32)


def _check_nodes(adjacency: csr_matrix, nodes: Array, name: str) -> np.ndarray:
    check_lengths(adjacency)
    array = np.atleast_1d(as_array(nodes))
    n_nodes = adjacency.shape[0]
    if array.ndim != 1 or len(array) == 0 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} must be a non-empty list of node numbers, not {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= n_nodes:
        raise InputError(f"{name} name node {array.min()} to {array.max()}, but the graph has nodes 0 to {n_nodes - 1}")
    return array
