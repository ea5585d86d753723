"""Points that are no nodes of a graph: linked to their nearest nodes, with lengths in the graph's unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_packed, as_points
from geovq.geometry.symmetric import quadratic_form

if TYPE_CHECKING:
    from geovq.geometry.graph import TokenGraph

# Links measured at a time: their metrics take 9 MB at 136 numbers each.
_LINKS = 16_384


def attach(
    graph: TokenGraph,
    points: Array,
    metrics: Array | None = None,
    k: int | None = None,
    device: torch.device | str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Link points that need not be nodes to their nearest nodes, with local lengths.

    Nodes are searched as the graph's own neighbours were: in the same coordinates, with its recall and seed, and as
    many candidates of which the shortest links stay. The index is built at the first call and kept with the graph. What
    a point is linked to depends on the point alone.

    Args:
        graph: to attach to.
        points: ``(Q, d)``.
        metrics: ``(Q, d(d+1)/2)`` packed metrics of the points: the length is then the trapezoid rule over
            point and node. Without them it is the length in the node's metric; in a Euclidean graph it is L2.
        k: links per point; by default the graph's.
        device: where to search; see ``NeighborIndex``.

    Returns:
        ``(Q, k)`` int32 nodes, nearest first in the search's coordinates (shortest first with candidates), and
        ``(Q, k)`` float32 lengths in the graph's unit. A point that coincides with a node *is* that node: its length to
        it is 0 and to all others infinite, so shortest paths from it are the graph's own.

    Raises:
        InputError: shapes that do not fit, NaN, ``k`` below 1, metrics given to a Euclidean graph, or a graph in pixel
            error that was built without metrics (by chords alone).
    """
    queries = as_points(points, "points")
    dimension = graph.nodes.shape[1]
    if queries.shape[1] != dimension:
        raise InputError(f"points have {queries.shape[1]} dimensions, the graph's nodes {dimension}; they must agree")
    if graph.node_metrics is None and graph.unit == "pixel":
        raise InputError("the graph has decoded lengths but no metrics to attach by; build it with metrics")
    if metrics is not None and graph.node_metrics is None:
        raise InputError(
            "metrics were given, but the graph has Euclidean lengths; leave them out or build it with metrics"
        )
    own = None if metrics is None else as_packed(metrics, len(queries), dimension)
    index = graph.neighbor_index(device)
    kept = min(graph.k if k is None else k, graph.n_nodes)
    indices = index.search(graph.coordinates(queries), min(graph.candidates * kept, graph.n_nodes)).indices
    k = indices.shape[1]
    lengths = np.empty(indices.shape, dtype=np.float32)
    chunk = max(1, _LINKS // k)
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        near = indices[part].reshape(-1)
        delta = torch.from_numpy(graph.nodes[near] - queries[part].repeat(k, axis=0))
        if graph.node_metrics is None:
            length = delta.square().sum(dim=1).sqrt()
        else:
            length = quadratic_form(graph.node_metrics[near], delta).sqrt()
            if own is not None:
                length = (length + quadratic_form(own[part].float().repeat_interleave(k, dim=0), delta).sqrt()) / 2
        same = (delta == 0).all(dim=1).view(-1, k)
        length = length.view(-1, k).masked_fill(same.any(dim=1, keepdim=True), torch.inf).masked_fill(same, 0)
        lengths[part] = length.numpy()
    if k > kept:
        order = np.argsort(lengths, axis=1, kind="stable")[:, :kept]
        indices, lengths = np.take_along_axis(indices, order, axis=1), np.take_along_axis(lengths, order, axis=1)
    return indices, lengths
