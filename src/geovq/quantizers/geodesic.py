"""k-medoids on the token graph: cells are made by shortest paths; codewords are tokens, or means of their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np

from geovq.configuration.fields import Count, Positive, Seed
from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array, as_points, check_lengths
from geovq.geometry.graph import TokenGraph
from geovq.geometry.paths import out_of_sample_nearest
from geovq.quantizers.base import CodebookEstimator, Training, check_fitted, check_n_codes
from geovq.quantizers.medoids import search_medoids
from geovq.quantizers.metric_assignment import metric_barycentres


@dataclass(eq=False, repr=False)
class GeodesicKMedoids(CodebookEstimator):
    """Medoids that minimise ``Σ_tokens d(token, medoid)^exponent`` with shortest-path distances ``d``.

    D² seeding, then swaps of medoids for other nodes while that lowers the cost, all by searches of the graph that stay
    near the medoid in question (``geovq.quantizers.medoids``). Every token counts, duplicates by their number. No
    distance matrix is ever held: memory does not depend on K. A cell is never empty, since it holds its medoid.

    ``inertia_`` is the cost, in the graph's unit to the power ``exponent``.

    Args:
        n_codes: K.
        exponent: 1 or 2.
        max_iter: rounds of swaps at most; fewer once one lowers the cost by less than a thousandth.
        n_candidates: nodes tried per codeword and round; on small graphs more, up to all.
        init: nodes of the graph to start from, such as the ``medoid_nodes_`` of a smaller codebook; seeds are drawn
            for the codewords still missing. None: all are drawn.
        random_state: of seeds and candidates; the same number gives the same codebook on any number of threads.
    """

    rule: ClassVar[str] = "smallest graph geodesic to a medoid"
    needs_graph: ClassVar[bool] = True
    state_attributes = (*CodebookEstimator.state_attributes, "medoid_nodes_", "node_codes_", "node_distances_")
    passing_settings: ClassVar[tuple[str, ...]] = ("init", "device")
    least_settings: ClassVar[Mapping[str, int]] = {**CodebookEstimator.least_settings, "max_iter": 0}

    medoid_nodes_: np.ndarray = field(init=False)
    """``(K,)`` int32 nodes of the graph that are medoids."""
    node_codes_: np.ndarray = field(init=False)
    """``(M,)`` int32 code of every node."""
    node_distances_: np.ndarray = field(init=False)
    """``(M,)`` float64 distance of every node to its medoid."""

    n_codes: int = 8
    _: KW_ONLY
    exponent: Literal[1, 2] = 2
    max_iter: Count = 8
    n_candidates: Count = 8
    init: Array | None = None
    random_state: Seed = 0
    device: str | None = None

    def _fit(self, given: Training) -> dict[str, Any]:
        points, graph = given.points, given.graph
        if graph is None:
            raise InputError(f"{type(self).__name__} needs a graph; build one with build_graph(tokens, metrics)")
        _check_same_tokens(points, graph)
        check_n_codes(self.n_codes, graph.n_nodes, len(points))
        adjacency = graph.adjacency
        check_lengths(adjacency)
        found = search_medoids(
            (adjacency.indptr, adjacency.indices, adjacency.data),
            graph.counts.astype(np.float64),
            self.n_codes,
            self.exponent,
            self.max_iter,
            self.n_candidates,
            np.random.default_rng(self.random_state),
            initial=self._initial(graph.n_nodes),
            on_round=given.on_progress,
        )
        self._graph = graph
        return {
            "medoid_nodes_": found.nodes,
            "node_codes_": found.codes,
            "node_distances_": found.distances,
            "cost_history_": found.history,
            "cluster_centers_": self._codewords(graph, found.nodes, found.codes),
            "labels_": found.codes[graph.token_node],
        }

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 by the smallest geodesic from each token via its neighbours to a medoid."""
        return self.encode(tokens, metrics)[0]

    def encode(self, tokens: Array, metrics: Array | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(N,)`` int32 and geodesic distances ``(N,)`` float64 to the medoids.

        Args:
            tokens: ``(N, d)``, training tokens or others.
            metrics: ``(N, d(d+1)/2)`` packed metrics of the tokens; see ``TokenGraph.attach``.

        Raises:
            InputError: not fitted, or arguments that do not fit the graph.
        """
        points = self._check_tokens(tokens)
        indices, lengths = self._graph.attach(points, metrics, device=self.device)
        distance, code = out_of_sample_nearest(self.node_distances_, self.node_codes_, indices, lengths)
        return code, distance

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes of the tokens that the graph was built from, read off their nodes; InputError for other tokens."""
        check_fitted(self)
        _check_same_tokens(as_points(tokens), self._graph)
        return self.node_codes_[self._graph.token_node]

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], graph: TokenGraph | None = None) -> Self:
        """The fitted quantizer on its graph; InputError without one, or for another number of nodes."""
        if graph is None:
            raise InputError(f"the state of {cls.__name__} needs its graph; give the one it was fitted to")
        quantizer = super().from_state(state)
        if len(quantizer.node_codes_) != graph.n_nodes:
            raise InputError(
                f"the state holds {len(quantizer.node_codes_)} nodes, the graph {graph.n_nodes}; "
                "give the graph it was fitted to"
            )
        quantizer._graph = graph
        quantizer.labels_ = quantizer.node_codes_[graph.token_node]
        return quantizer

    def _codewords(self, graph: TokenGraph, medoids: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """``(K, d)`` what a code decodes to."""
        return graph.nodes[medoids]

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.exponent not in (1, 2):
            raise InputError(f"exponent is {self.exponent}; choose 1 (sum of distances) or 2 (sum of their squares)")

    def _initial(self, n_nodes: int) -> np.ndarray | None:
        """The nodes to start from."""
        if self.init is None:
            return None
        initial = as_array(self.init)
        if initial.ndim != 1 or not 1 <= len(initial) <= self.n_codes or len(np.unique(initial)) < len(initial):
            raise InputError(
                f"init has shape {initial.shape}; give between 1 and n_codes={self.n_codes} distinct nodes of the graph"
            )
        if not np.issubdtype(initial.dtype, np.integer) or initial.min() < 0 or initial.max() >= n_nodes:
            raise InputError(f"init must hold whole numbers from 0 to {n_nodes - 1}, the nodes of the graph")
        return initial


@dataclass(eq=False, repr=False)
class GeodesicBarycenters(GeodesicKMedoids):
    """The cells of ``GeodesicKMedoids``, each decoded to the barycentre of its nodes: ``(Σw(G + ρI))⁻¹ Σw(G + ρI)z``.

    The sums are over the nodes ``z`` of a cell, ``w`` tokens at each, ``G`` their metrics as the graph has them. The
    point of smallest ``Σw(c − z)ᵀ(G + ρI)(c − z)`` need not be a token, and lies closer to them all than the medoid.
    ``inertia_`` stays the cost of the medoids, which make the cells.

    Args:
        ridge: ``ρ`` as a share of the mean eigenvalue of the mean metric; the others are those of the parent.
    """

    rule: ClassVar[str] = "smallest graph geodesic to the medoid of a cell"

    _: KW_ONLY
    ridge: Positive = 1e-3

    def _codewords(self, graph: TokenGraph, medoids: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """``(K, d)`` barycentres; plain means where the graph has no metrics."""
        return metric_barycentres(
            graph.nodes, graph.node_metrics, codes, self.n_codes, self.ridge, graph.counts, self.device
        )


def _check_same_tokens(points: np.ndarray, graph: TokenGraph) -> None:
    """Tokens must be those of the graph: their number, and a sample of them, tell."""
    same = points.shape == (len(graph.token_node), graph.nodes.shape[1])
    if same:
        sample = np.linspace(0, len(points) - 1, num=min(1_000, len(points)), dtype=np.int64)
        same = np.array_equal(points[sample], graph.nodes[graph.token_node[sample]])
    if not same:
        raise InputError(
            f"the tokens {points.shape} are not the {len(graph.token_node)} that the graph was built from; "
            "give the same tokens in the same order"
        )
