"""The neighbour graph of a token set, its edges measured by the decoder's metric.

Distinct tokens are nodes; duplicates share one. Every node is linked to its ``k`` nearest neighbours, the links
are made symmetric, the components are joined by their shortest connecting edges, and every edge gets a length:
by default the trapezoid rule ``½(‖Δ‖_{G_i} + ‖Δ‖_{G_j})`` for the straight segment in latent space, measured by
the pull-back metric (``geovq.geometry.lengths`` has two more). One graph has one unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.attach import attach
from geovq.geometry.checks import Array, as_packed, as_points, check_adjacency
from geovq.geometry.components import joining_edges
from geovq.geometry.coordinates import CANDIDATES, Search, search_coordinates, whitening
from geovq.geometry.distinct import distinct
from geovq.geometry.edges import DecodedEdges
from geovq.geometry.field import mean_by_node, neighbourhood_mean
from geovq.geometry.lengths import LengthRule, check_rule, edge_lengths, shortest_candidates
from geovq.geometry.neighbors import NeighborIndex

__all__ = ["TokenGraph", "attach", "build_graph"]


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
    search_transform: np.ndarray | None = None
    """``(d, d)`` float32 map of latents to the coordinates that neighbours are searched in; None for no change."""
    candidates: int = 1
    """Nodes near in these coordinates that are looked at for each one that is linked: the shortest edges stay."""
    search_recall: float = 0.99
    """Share of true neighbours that was asked for."""
    search_seed: int = 0
    """Seed of approximate search."""
    _indexes: dict[str, NeighborIndex] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse parts that make no graph, wherever they come from.

        Raises:
            InputError: shapes, counts or node numbers that do not fit together, or no symmetric matrix of positive
                lengths.
        """
        n_nodes, dimension = as_points(self.nodes, "nodes").shape
        check_adjacency(self.adjacency, n_nodes)
        if self.node_metrics is not None:
            as_packed(self.node_metrics, n_nodes, dimension)
        tokens = self.token_node
        if tokens.ndim != 1 or len(tokens) == 0 or tokens.min() < 0 or tokens.max() >= n_nodes:
            raise InputError(f"token_node has shape {tokens.shape}; give a node from 0 to {n_nodes - 1} for each token")
        if not np.array_equal(self.counts, np.bincount(tokens, minlength=n_nodes)) or self.counts.min() < 1:
            raise InputError(f"counts must tell how many tokens each of the {n_nodes} nodes has, at least one")

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
        if self.search_transform is not None:
            arrays["search_transform"] = self.search_transform
        return arrays

    def attributes(self) -> dict[str, Any]:
        """What is no array: numbers and words that JSON holds."""
        return {
            "unit": self.unit,
            "recall": self.recall,
            "n_components": self.n_components,
            "n_joined": self.n_joined,
            "k": self.k,
            "candidates": self.candidates,
            "search_recall": self.search_recall,
            "search_seed": self.search_seed,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> TokenGraph:
        """The graph that ``to_arrays`` and ``attributes`` describe.

        Raises:
            InputError: an array or attribute is missing, or they make no graph.
        """
        try:
            n_nodes = len(arrays["nodes"])
            adjacency = csr_matrix(
                (arrays["adjacency_data"], arrays["adjacency_indices"], arrays["adjacency_indptr"]),
                shape=(n_nodes, n_nodes),
            )
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
                search_transform=arrays.get("search_transform"),
                candidates=attributes.get("candidates", 1),  # graphs stored before there were any have none
                search_recall=attributes["search_recall"],
                search_seed=attributes["search_seed"],
            )
        except KeyError as missing:
            raise InputError(f"a stored graph lacks {missing}; build it again") from None
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"a stored graph is damaged ({error}); build it again") from None

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """Points ``(Q, d)`` in the coordinates that neighbours are searched in."""
        return search_coordinates(points, self.nodes, self.search_transform)

    def neighbor_index(self, device: torch.device | str | None = None) -> NeighborIndex:
        """The nodes prepared for searches of neighbours, by this graph's settings; built once per device."""
        key = str(torch.device("cpu" if device is None else device))
        if key not in self._indexes:
            points = self.coordinates(self.nodes)
            self._indexes[key] = NeighborIndex(points, self.search_recall, self.search_seed, device=device)
        return self._indexes[key]

    def attach(
        self,
        points: Array,
        metrics: Array | None = None,
        k: int | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Link points that are no nodes to their nearest nodes; see ``geovq.geometry.attach``."""
        return attach(self, points, metrics, k, device)


def build_graph(
    tokens: Array,
    metrics: Array | None = None,
    k: int = 20,
    symmetrize: Literal["union", "mutual"] = "union",
    recall: float = 0.99,
    seed: int = 0,
    context: Literal["neighbours", "own"] = "own",
    *,
    search: Search = "latent",
    length: LengthRule = "trapezoid",
    decoded: DecodedEdges | None = None,
    device: torch.device | str | None = None,
) -> TokenGraph:
    """Build the connected graph of ``tokens`` with edges measured by ``metrics``.

    Singular metrics are allowed: an edge along which both its metrics vanish gets a length of 10⁻⁶ times the
    mean edge, so every link stays a link.

    Args:
        tokens: ``(N, d)``; exact duplicates share a node.
        metrics: ``(N, d(d+1)/2)`` packed metric tensors (``pack_symmetric``) of any floating type, or None for
            Euclidean lengths.
        k: neighbours per distinct token.
        symmetrize: link i and j if either has the other in its list (``union``) or both do (``mutual``).
        recall: share of true neighbours that approximate search must find; see ``NeighborIndex``.
        seed: of approximate search.
        context: a node's metric is the mean over its own tokens (``own``), or over them and all linked nodes
            (``neighbours``; see ``geovq.geometry.field``).
        search: look for neighbours by distance in the latents, in coordinates ``whitened`` by the square root of the
            mean metric, where distances are pixel error on average, or by ``pullback`` length among three times as
            many that are near in whitened coordinates. Edges are measured by the metrics either way.
        length: rule for the edges; see ``geovq.geometry.lengths``.
        decoded: the decoder around the tokens, which ``simpson`` and ``chord`` look at. The first token of a node
            stands for it.
        device: where to search neighbours and measure edges; the CPU by default.

    Raises:
        InputError: an unknown setting, shapes, NaN, fewer than ``k + 1`` distinct tokens, metrics that are all zero or
            missing where they are needed, or a decoder that does not fit.
    """
    _check_choice("symmetrize", symmetrize, ("union", "mutual"))
    _check_choice("context", context, ("neighbours", "own"))
    _check_choice("search", search, get_args(Search))
    check_rule(length, decoded)
    points = as_points(tokens)
    packed = None if metrics is None else as_packed(metrics, *points.shape)
    if decoded is not None:
        decoded.check(points)
    nodes, token_node, counts = distinct(points)
    if not 1 <= k < len(nodes):
        raise InputError(
            f"k is {k}, but the {len(points)} tokens hold only {len(nodes)} distinct ones; "
            "k must be at least 1 and below that number"
        )
    transform = None if search == "latent" else whitening(packed, search)
    index = NeighborIndex(search_coordinates(nodes, nodes, transform), recall, seed, device=device)
    candidates = CANDIDATES if search == "pullback" else 1
    neighbors = index.neighbors(min(candidates * k, len(nodes) - 1))
    near, node_metrics = neighbors.indices[:, :k], None
    if packed is not None and search == "pullback":
        node_metrics = mean_by_node(packed, token_node, counts)
        if context == "neighbours":
            # Over those near by the mean metric: the mean over the shortest edges would favour small metrics.
            node_metrics = neighbourhood_mean(node_metrics, _symmetric_pattern(near, symmetrize), counts)
        near = shortest_candidates(neighbors.indices, nodes, node_metrics, k)
    pattern = _symmetric_pattern(near, symmetrize)
    joining, n_components = joining_edges(index, pattern, neighbors)
    if len(joining):
        pattern = pattern + _pattern_of_edges(joining, len(nodes))
    pattern.sort_indices()
    recall_found = neighbors.recall
    del index, neighbors, near  # their memory is needed for the metrics
    if packed is not None and node_metrics is None:
        node_metrics = mean_by_node(packed, token_node, counts)
        if context == "neighbours":
            node_metrics = neighbourhood_mean(node_metrics, pattern, counts)
    first_tokens = None if decoded is None else np.unique(token_node, return_index=True)[1]
    return TokenGraph(
        nodes=nodes,
        node_metrics=node_metrics,
        counts=counts,
        token_node=token_node,
        adjacency=edge_lengths(pattern, nodes, node_metrics, length, decoded, first_tokens, device),
        unit="latent" if packed is None and decoded is None else "pixel",
        recall=recall_found,
        n_components=n_components,
        n_joined=len(joining),
        k=k,
        search_transform=transform,
        candidates=candidates,
        search_recall=recall,
        search_seed=seed,
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose {' or '.join(map(repr, choices))}")


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
