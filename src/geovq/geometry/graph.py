"""The neighbour graph of a token set, its edges measured by the decoder's metric.

Distinct tokens are nodes; duplicates share one. Every node is linked to its ``k`` nearest neighbours, the links
are made symmetric, the components are joined by their shortest connecting edges, and every edge gets a length:
by default the trapezoid rule ``½(‖Δ‖_{G_i} + ‖Δ‖_{G_j})`` for the straight segment in latent space, measured by
the pull-back metric (``geovq.geometry.lengths`` has two more). One graph has one unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_packed, as_points, check_adjacency, check_choice
from geovq.geometry.edges import DecodedEdges
from geovq.geometry.lengths import (
    LengthRule,
    check_rule,
    edge_lengths,
    shortest_candidates,
)
from geovq.geometry.links import joining_edges, symmetric_links
from geovq.geometry.neighbors import KnownLists, NeighborIndex, centre_of, distinct, search_coordinates, whitening
from geovq.geometry.symmetric import node_metrics, quadratic_form

Search = Literal["latent", "whitened", "pullback"]

CANDIDATES = 3
"""Neighbours that ``search="pullback"`` looks at for each one it keeps."""

# Links measured at a time: their metrics take 9 MB at 136 numbers each.
_LINKS = 16_384
# What is stored of a graph beside its adjacency: arrays, of which some may be missing, and numbers and words.
_ARRAYS = ("nodes", "node_metrics", "counts", "token_node", "search_transform")
_LISTS = tuple(f"search_{part}" for part in KnownLists._fields)
_ATTRIBUTES = ("unit", "recall", "n_components", "n_joined", "k", "candidates", "search_recall", "search_seed")


@dataclass(frozen=True)
class TokenGraph:
    """Distinct tokens, their links and the lengths of these.

    ``N`` tokens, ``M`` distinct ones (nodes), ``d`` dimensions.
    """

    nodes: np.ndarray
    """``(M, d)`` float32 distinct tokens by their first occurrences, or list by list of ``search_lists``."""
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
    search_lists: KnownLists | None = None
    """The inverted file that nodes lie in, of more than a million of them: near ones lie together, then, and so do the
    numbers that searches of the graph read."""
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
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        arrays |= {} if self.search_lists is None else dict(zip(_LISTS, self.search_lists, strict=True))
        return arrays | {f"adjacency_{part}": getattr(self.adjacency, part) for part in ("indptr", "indices", "data")}

    def attributes(self) -> dict[str, Any]:
        """What is no array: numbers and words that JSON holds."""
        return {name: getattr(self, name) for name in _ATTRIBUTES}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> TokenGraph:
        """The graph that ``to_arrays`` and ``attributes`` describe.

        Raises:
            InputError: an array or attribute is missing, or they make no graph.
        """
        attributes = {"candidates": 1, **attributes}  # graphs stored before there were any have none
        try:
            parts = tuple(arrays[f"adjacency_{part}"] for part in ("data", "indices", "indptr"))
            return cls(
                adjacency=csr_matrix(parts, shape=(len(arrays["nodes"]), len(arrays["nodes"]))),
                node_metrics=arrays.get("node_metrics"),
                search_transform=arrays.get("search_transform"),
                search_lists=KnownLists(*(arrays[name] for name in _LISTS)) if _LISTS[0] in arrays else None,
                nodes=arrays["nodes"],
                counts=arrays["counts"],
                token_node=arrays["token_node"],
                **{name: attributes[name] for name in _ATTRIBUTES},
            )
        except KeyError as missing:
            raise InputError(f"a stored graph lacks {missing}; build it again") from None
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"a stored graph is damaged ({error}); build it again") from None

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """Points ``(Q, d)`` in the coordinates that neighbours are searched in."""
        return search_coordinates(points, self._centre, self.search_transform)

    @cached_property
    def _centre(self) -> np.ndarray:
        return centre_of(self.nodes)

    def neighbor_index(self, device: torch.device | str | None = None) -> NeighborIndex:
        """The nodes prepared for searches of neighbours, by this graph's settings; built once per device."""
        key = str(torch.device("cpu" if device is None else device))
        if key not in self._indexes:
            points = self.coordinates(self.nodes)
            settings = (self.search_recall, self.search_seed)
            self._indexes[key] = NeighborIndex(points, *settings, device=device, known=self.search_lists)
        return self._indexes[key]

    def attach(
        self,
        points: Array,
        metrics: Array | None = None,
        k: int | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Link points that need not be nodes to their nearest nodes, with local lengths.

        Nodes are searched as the graph's own neighbours were: in the same coordinates, with its recall and seed, and as
        many candidates of which the shortest links stay. The index is built at the first call and kept with the graph.
        What a point is linked to depends on the point alone.

        Args:
            points: ``(Q, d)``.
            metrics: ``(Q, d(d+1)/2)`` packed metrics of the points: the length is then the trapezoid rule over
                point and node. Without them it is the length in the node's metric; in a Euclidean graph it is L2.
            k: links per point; by default the graph's.
            device: where to search (see ``NeighborIndex``) and to measure the links.

        Returns:
            ``(Q, k)`` int32 nodes, nearest first in the search's coordinates (shortest first with candidates), and
            ``(Q, k)`` float32 lengths in the graph's unit. A point that coincides with a node *is* that node: its
            length to it is 0 and to all others infinite, so shortest paths from it are the graph's own.

        Raises:
            InputError: shapes that do not fit, NaN, ``k`` below 1, metrics given to a Euclidean graph, or a graph in
                pixel error that was built without metrics (by chords alone).
        """
        queries = as_points(points, "points")
        dimension = self.nodes.shape[1]
        if queries.shape[1] != dimension:
            raise InputError(
                f"points have {queries.shape[1]} dimensions, the graph's nodes {dimension}; they must agree"
            )
        if self.node_metrics is None and self.unit == "pixel":
            raise InputError("the graph has decoded lengths but no metrics to attach by; build it with metrics")
        if metrics is not None and self.node_metrics is None:
            raise InputError(
                "metrics were given, but the graph has Euclidean lengths; leave them out or build it with metrics"
            )
        own = None if metrics is None else as_packed(metrics, len(queries), dimension)
        index = self.neighbor_index(device)
        kept = min(self.k if k is None else k, self.n_nodes)
        indices = index.search(self.coordinates(queries), min(self.candidates * kept, self.n_nodes)).indices
        k = indices.shape[1]
        target = torch.device("cpu" if device is None else device)
        node_metrics: Array | None = self.node_metrics
        if node_metrics is not None and target.type != "cpu":
            node_metrics = torch.from_numpy(node_metrics).to(target)
        lengths = np.empty(indices.shape, dtype=np.float32)
        chunk = max(1, _LINKS // k)
        for start in range(0, len(queries), chunk):
            part = slice(start, start + chunk)
            near = indices[part].reshape(-1)
            delta = torch.from_numpy(self.nodes[near] - queries[part].repeat(k, axis=0)).to(target)
            if node_metrics is None:
                length = delta.square().sum(dim=1).sqrt()
            else:
                length = quadratic_form(node_metrics[near], delta).sqrt()
                if own is not None:
                    there = own[part].to(target).float().repeat_interleave(k, dim=0)
                    length = (length + quadratic_form(there, delta).sqrt()) / 2
            same = (delta == 0).all(dim=1).view(-1, k)
            length = length.view(-1, k).masked_fill(same.any(dim=1, keepdim=True), torch.inf).masked_fill(same, 0)
            lengths[part] = length.cpu().numpy()
        if k > kept:
            order = np.argsort(lengths, axis=1, kind="stable")[:, :kept]
            indices, lengths = np.take_along_axis(indices, order, axis=1), np.take_along_axis(lengths, order, axis=1)
        return indices, lengths


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
    scratch: Path | None = None,
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
            (``neighbours``; see ``node_metrics``).
        search: look for neighbours by distance in the latents, in coordinates ``whitened`` by the square root of the
            mean metric, where distances are pixel error on average, or by ``pullback`` length among three times as
            many that are near in whitened coordinates. Edges are measured by the metrics either way.
        length: rule for the edges; see ``geovq.geometry.lengths``.
        decoded: the decoder around the tokens, which ``simpson`` and ``chord`` look at. The first token of a node
            stands for it.
        device: where to search neighbours and measure edges; the CPU by default.
        scratch: folder for metrics of nodes that the working memory cannot hold; see ``node_metrics``.

    Raises:
        InputError: an unknown setting, shapes, NaN, fewer than ``k + 1`` distinct tokens, metrics that are all zero or
            missing where they are needed, or a decoder that does not fit.
    """
    check_choice("symmetrize", symmetrize, ("union", "mutual"))
    check_choice("context", context, ("neighbours", "own"))
    check_choice("search", search, get_args(Search))
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
    index = NeighborIndex(search_coordinates(nodes, centre_of(nodes), transform), recall, seed, device=device)
    order = index.line_up()
    if order is not None:
        nodes, counts = nodes[order], counts[order]
        place = np.empty_like(order, dtype=np.int32)
        place[order] = np.arange(len(order), dtype=np.int32)
        token_node = place[token_node]
    candidates = CANDIDATES if search == "pullback" else 1
    neighbors = index.neighbors(min(candidates * k, len(nodes) - 1))
    near, metrics_here = neighbors.indices[:, :k], None
    if packed is not None and search == "pullback":
        # Over those near by the mean metric: the mean over the shortest edges would favour small metrics.
        linked = symmetric_links(near, symmetrize) if context == "neighbours" else None
        metrics_here = node_metrics(packed, token_node, counts, linked, scratch)
        near = shortest_candidates(neighbors.indices, nodes, metrics_here, k)
    pattern = symmetric_links(near, symmetrize)
    joining, n_components = joining_edges(index, pattern, neighbors)
    recall_found, lists = neighbors.recall, None if order is None else index.known()
    del index, neighbors, near, order  # their memory is needed for the metrics
    if len(joining):
        ends = np.concatenate((joining, joining[:, ::-1])).T
        pattern = pattern + csr_matrix((np.ones(len(ends[0]), dtype=bool), tuple(ends)), shape=pattern.shape)
    pattern.sort_indices()
    if packed is not None and metrics_here is None:
        linked = pattern if context == "neighbours" else None
        metrics_here = node_metrics(packed, token_node, counts, linked, scratch)
    first_tokens = None if decoded is None else np.unique(token_node, return_index=True)[1]
    return TokenGraph(
        nodes=nodes,
        node_metrics=metrics_here,
        counts=counts,
        token_node=token_node,
        adjacency=edge_lengths(pattern, nodes, metrics_here, length, decoded, first_tokens, device),
        unit="latent" if packed is None and decoded is None else "pixel",
        recall=recall_found,
        n_components=n_components,
        n_joined=len(joining),
        k=k,
        search_transform=transform,
        candidates=candidates,
        search_recall=recall,
        search_seed=seed,
        search_lists=lists,
    )
