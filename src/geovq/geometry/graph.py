"""The neighbour graph of a token set, its edges measured by the decoder's metric.

Distinct tokens are nodes; duplicates share one. Every node is linked to its ``k`` nearest neighbours in
latent space, the links are made symmetric, the components are joined by their shortest connecting edges, and
every edge gets the trapezoid length ``½(‖Δ‖_{G_i} + ‖Δ‖_{G_j})``: the length of the straight segment in
latent space, measured by the pull-back metric and integrated with the metric of its two ends. One graph has
one unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_metrics, as_points
from geovq.geometry.components import joining_edges
from geovq.geometry.field import neighbourhood_mean
from geovq.geometry.lengths import edge_lengths
from geovq.geometry.neighbors import distinct, nearest_neighbors
from geovq.geometry.symmetric import as_tensor, quadratic_form


@dataclass(frozen=True)
class TokenGraph:
    """Distinct tokens, their links and the lengths of these.

    ``N`` tokens, ``M`` distinct ones (nodes), ``d`` dimensions.
    """

    nodes: np.ndarray
    """``(M, d)`` float32 distinct tokens, in the order of their first occurrence."""
    node_metrics: np.ndarray | None
    """``(M, d(d+1)/2)`` float32 packed metric of a node, as ``context`` asks; None in a Euclidean graph."""
    counts: np.ndarray
    """``(M,)`` int32 tokens per node."""
    token_node: np.ndarray
    """``(N,)`` int32 node of each token."""
    adjacency: csr_matrix
    """``(M, M)`` float32 symmetric edge lengths, all positive, indices int32 and sorted."""
    unit: Literal["latent", "pixel"]
    """Of the lengths: latent L2, or root-summed pixel error in images of [0, 1]."""
    recall: float
    """Measured share of true neighbours in the neighbour lists."""
    n_components: int
    """Connected components before they were joined."""
    n_joined: int
    """Edges added to join them."""
    k: int
    """Neighbours asked for per node."""

    @property
    def n_nodes(self) -> int:
        """``M``."""
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        """Undirected edges."""
        return self.adjacency.nnz // 2

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays for storage; ``attributes`` holds the rest."""
        arrays = {
            "nodes": self.nodes,
            "counts": self.counts,
            "token_node": self.token_node,
            "adjacency_indptr": self.adjacency.indptr,
            "adjacency_indices": self.adjacency.indices,
            "adjacency_data": self.adjacency.data,
        }
        if self.node_metrics is not None:
            arrays["node_metrics"] = self.node_metrics
        return arrays

    def attributes(self) -> dict[str, Any]:
        """What is no array: numbers and words that JSON holds."""
        return {
            "unit": self.unit,
            "recall": self.recall,
            "n_components": self.n_components,
            "n_joined": self.n_joined,
            "k": self.k,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> TokenGraph:
        """The graph that ``to_arrays`` and ``attributes`` describe.

        Raises:
            InputError: an array or attribute is missing.
        """
        try:
            n_nodes = len(arrays["nodes"])
            adjacency = csr_matrix(
                (arrays["adjacency_data"], arrays["adjacency_indices"], arrays["adjacency_indptr"]),
                shape=(n_nodes, n_nodes),
            )
            adjacency.has_sorted_indices = True
            return cls(
                nodes=arrays["nodes"],
                node_metrics=arrays.get("node_metrics"),
                counts=arrays["counts"],
                token_node=arrays["token_node"],
                adjacency=adjacency,
                unit=attributes["unit"],
                recall=attributes["recall"],
                n_components=attributes["n_components"],
                n_joined=attributes["n_joined"],
                k=attributes["k"],
            )
        except KeyError as missing:
            raise InputError(f"a stored graph lacks {missing}; build it again") from None

    def attach(
        self, points: Array, metrics: Array | None = None, k: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Link points that are no nodes to their nearest nodes; see ``attach``."""
        return attach(self, points, metrics, k)


def build_graph(
    tokens: Array,
    metrics: Array | None = None,
    k: int = 20,
    symmetrize: Literal["union", "mutual"] = "union",
    recall: float = 0.99,
    seed: int = 0,
    context: Literal["neighbours", "own"] = "own",
) -> TokenGraph:
    """Build the connected graph of ``tokens`` with edges measured by ``metrics``.

    Singular metrics are allowed: an edge along which both its metrics vanish gets a length of 10⁻⁶ times the
    mean edge, so every link stays a link.

    Args:
        tokens: ``(N, d)``; exact duplicates share a node.
        metrics: ``(N, d(d+1)/2)`` packed metric tensors (``pack_symmetric``), or None for Euclidean lengths.
        k: neighbours per distinct token, by Euclidean distance in latent space.
        symmetrize: link i and j if either has the other in its list (``union``) or both do (``mutual``).
        recall: share of true neighbours that approximate search must find; see ``nearest_neighbors``.
        seed: of approximate search.
        context: a node's metric is the mean over its own tokens (``own``), or over them and all linked nodes
            (``neighbours``; see ``geovq.geometry.field``).

    Raises:
        InputError: shapes, NaN, fewer than ``k + 1`` distinct tokens, metrics that are all zero.
    """
    if symmetrize not in ("union", "mutual"):
        raise InputError(f"symmetrize is {symmetrize!r}; choose 'union' or 'mutual'")
    if context not in ("neighbours", "own"):
        raise InputError(f"context is {context!r}; choose 'neighbours' or 'own'")
    points = as_points(tokens)
    packed = None if metrics is None else as_metrics(metrics, *points.shape)
    nodes, token_node, counts = distinct(points)
    if k >= len(nodes):
        raise InputError(
            f"k is {k}, but the {len(points)} tokens hold only {len(nodes)} distinct ones; k must be below that number"
        )
    neighbors = nearest_neighbors(nodes, k, recall=recall, seed=seed)
    pattern = _symmetric_pattern(neighbors.indices, symmetrize)
    joining, n_components = joining_edges(nodes, pattern, neighbors, recall, seed)
    if len(joining):
        pattern = pattern + _pattern_of_edges(joining, len(nodes))
    pattern.sort_indices()
    node_metrics = None if packed is None else _mean_by_node(packed, token_node, counts)
    if node_metrics is not None and context == "neighbours":
        node_metrics = neighbourhood_mean(node_metrics, pattern, counts)
    return TokenGraph(
        nodes=nodes,
        node_metrics=node_metrics,
        counts=counts,
        token_node=token_node,
        adjacency=edge_lengths(pattern, nodes, node_metrics),
        unit="latent" if packed is None else "pixel",
        recall=neighbors.recall,
        n_components=n_components,
        n_joined=len(joining),
        k=k,
    )


def attach(
    graph: TokenGraph, points: Array, metrics: Array | None = None, k: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Link points that need not be nodes to their nearest nodes, with local lengths.

    Args:
        graph: to attach to.
        points: ``(Q, d)``.
        metrics: ``(Q, d(d+1)/2)`` packed metrics of the points: the length is then the trapezoid rule over
            point and node. Without them it is the length in the node's metric; in a Euclidean graph it is L2.
        k: links per point; by default the graph's.

    Returns:
        ``(Q, k)`` int32 nodes, nearest first, and ``(Q, k)`` float32 lengths in the graph's unit. A point
        that coincides with a node *is* that node: its length to it is 0 and to all others infinite, so
        shortest paths from it are the graph's own.

    Raises:
        InputError: shapes that do not fit, NaN, or metrics given to a Euclidean graph.
    """
    queries = as_points(points, "points")
    dimension = graph.nodes.shape[1]
    if metrics is not None and graph.node_metrics is None:
        raise InputError(
            "metrics were given, but the graph has Euclidean lengths; leave them out or build it with metrics"
        )
    own = None if metrics is None else as_tensor(as_metrics(metrics, len(queries), dimension))
    neighbors = nearest_neighbors(graph.nodes, min(graph.k if k is None else k, graph.n_nodes), queries=queries)
    indices = neighbors.indices
    k = indices.shape[1]
    lengths = np.empty(indices.shape, dtype=np.float32)
    chunk = max(1, 16_384 // k)
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        near = indices[part].reshape(-1)
        delta = torch.from_numpy(graph.nodes[near] - queries[part].repeat(k, axis=0))
        if graph.node_metrics is None:
            length = delta.square().sum(dim=1).sqrt()
        else:
            length = quadratic_form(graph.node_metrics[near], delta).sqrt()
            if own is not None:
                length = (length + quadratic_form(own[part].repeat_interleave(k, dim=0), delta).sqrt()) / 2
        lengths[part] = length.view(-1, k).numpy()
    coincident = neighbors.squared_distances[:, 0] == 0
    lengths[coincident, 0] = 0
    lengths[coincident, 1:] = np.inf
    return indices, lengths


def _symmetric_pattern(indices: np.ndarray, symmetrize: str) -> csr_matrix:
    """Boolean symmetric pattern of directed neighbour lists ``(M, k)``; never the sum of both directions."""
    n_nodes, k = indices.shape
    pointers = np.arange(0, n_nodes * k + 1, k, dtype=np.int64)
    columns = indices.reshape(-1).copy()  # sorted in place below; the lists keep their order
    directed = csr_matrix((np.ones(len(columns), dtype=bool), columns, pointers), shape=(n_nodes, n_nodes))
    directed.sort_indices()
    reverse = directed.T.tocsr()
    both = directed.maximum(reverse) if symmetrize == "union" else directed.multiply(reverse)
    return csr_matrix(both, dtype=bool)


def _pattern_of_edges(edges: np.ndarray, n_nodes: int) -> csr_matrix:
    rows = np.concatenate((edges[:, 0], edges[:, 1]))
    columns = np.concatenate((edges[:, 1], edges[:, 0]))
    return csr_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n_nodes, n_nodes))


def _mean_by_node(packed: np.ndarray, token_node: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean metric of the tokens that share a node."""
    total = torch.zeros(len(counts), packed.shape[1])
    total.index_add_(0, torch.from_numpy(token_node), torch.from_numpy(packed))
    return total.div_(torch.from_numpy(counts).to(torch.float32)[:, None]).numpy()
