"""k-medoids on the token graph: codewords are tokens, and cells are made by shortest paths."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_points
from geovq.geometry.graph import TokenGraph, attach
from geovq.geometry.paths import NearestSource, nearest_sources, out_of_sample_nearest
from geovq.geometry.symmetric import mean_metric
from geovq.progress import progress
from geovq.quantizers.base import (
    Progress,
    check_at_least,
    check_fitted,
    check_n_codes,
    state_value,
)
from geovq.quantizers.medoids import improve_medoids, within_cells
from geovq.quantizers.seeding import geodesic_seeds
from geovq.quantizers.swaps import draw_candidates, second_nearest, swap_medoids

# Edges that passes over a small graph may visit in all before it counts as large: about a second.
_SMALL_WORK = 30_000_000
# Sets of swap candidates per round: at least so many, and on small graphs so many times nodes per codeword.
_FEWEST_SWAPS = 2
_SWAPS_PER_NODE = 6


class GeodesicKMedoids:
    """Medoids that minimise ``Σ_tokens d(token, medoid)^exponent`` with shortest-path distances ``d``.

    Seeding draws tokens in proportion to ``d^exponent`` in rounds, each answered by one multi-source pass
    (Arthur, Vassilvitskii 2007, in batches). Then assignment (one multi-source pass gives every token its
    nearest medoid), update of all medoids inside their cells (``improve_medoids``) and swaps between cells
    (``swap_medoids``) alternate; since only improvements are accepted, the cost never rises. Every token counts,
    duplicates by their number. No distance matrix is ever held: memory does not depend on K.

    ``inertia_`` is the cost, in the graph's unit to the power ``exponent``.

    Args:
        n_codes: K.
        exponent: 1 or 2.
        max_iter: rounds of updates at most; fewer once no medoid moves.
        n_candidates: members tried per cell and round at one pass over the graph each; on small graphs more
            are tried, down to all.
        random_state: of seeding and candidates; the same number gives the same codebook.
    """

    name: ClassVar[str] = "geodesic"
    rule: ClassVar[str] = "smallest graph geodesic to a medoid"
    needs_graph: ClassVar[bool] = True

    cluster_centers_: np.ndarray
    inertia_: float
    n_iter_: int
    labels_: np.ndarray | None
    cost_history_: np.ndarray
    medoid_nodes_: np.ndarray
    """``(K,)`` int32 nodes of the graph that are codewords."""
    node_codes_: np.ndarray
    """``(M,)`` int32 code of every node."""
    node_distances_: np.ndarray
    """``(M,)`` float64 distance of every node to its medoid."""

    def __init__(
        self,
        n_codes: int,
        *,
        exponent: int = 2,
        max_iter: int = 10,
        n_candidates: int = 8,
        random_state: int = 0,
    ) -> None:
        self.n_codes = n_codes
        self.exponent = exponent
        self.max_iter = max_iter
        self.n_candidates = n_candidates
        self.random_state = random_state

    def fit(self, tokens: Array, graph: TokenGraph | None = None, on_progress: Progress | None = None) -> Self:
        """Fit to the tokens that ``graph`` was built from.

        Raises:
            InputError: no graph, tokens that are not the graph's, a graph that is not connected, or more
                codewords than distinct tokens.
        """
        self._check_settings()
        if graph is None:
            raise InputError("GeodesicKMedoids needs a graph; build one with build_graph(tokens, metrics)")
        _check_tokens(tokens, graph)
        check_n_codes(self.n_codes, graph.n_nodes)
        rng = np.random.default_rng(self.random_state)
        # Dijkstra works in float64: converted once here instead of in every pass.
        adjacency = graph.adjacency.astype(np.float64)
        weights = graph.counts.astype(np.float64)
        coordinates = _whitened(graph)
        affordable = _SMALL_WORK // max(1, adjacency.nnz)
        medoids, nearest = geodesic_seeds(adjacency, weights, self.n_codes, self.exponent, affordable, rng)
        history = [self._cost(weights, nearest)]
        if on_progress is not None:
            on_progress(0, history[0])
        active = np.ones(self.n_codes, dtype=bool)
        n_candidates = max(self.n_candidates, affordable)
        n_swaps = max(_FEWEST_SWAPS, min(affordable, _SWAPS_PER_NODE * graph.n_nodes // self.n_codes))
        with progress("geodesic k-medoids", total=self.max_iter) as advance:
            for step in range(1, self.max_iter + 1):
                before, began = nearest, medoids
                improved = improve_medoids(
                    adjacency,
                    coordinates,
                    weights,
                    nearest.source,
                    nearest.distance,
                    medoids,
                    active,
                    self.exponent,
                    n_candidates,
                    rng,
                )
                medoids, nearest = self._accept(adjacency, weights, improved, medoids, nearest)
                medoids, nearest = self._swap(adjacency, weights, medoids, nearest, n_swaps, rng)
                if np.array_equal(medoids, began):
                    break
                history.append(self._cost(weights, nearest))
                # A cell that kept its medoid and its members has nothing new to find.
                changed = before.source != nearest.source
                active = medoids != began
                active[before.source[changed]] = True
                active[nearest.source[changed]] = True
                if on_progress is not None:
                    on_progress(step, history[-1])
                advance()
        self.medoid_nodes_ = medoids.astype(np.int32)
        self.cost_history_ = np.array(history)
        self._complete(graph, nearest.source, nearest.distance)
        return self

    def predict(self, tokens: Array, metrics: Array | None = None) -> np.ndarray:
        """Codes ``(N,)`` int32 by the smallest geodesic from each token via its neighbours to a medoid."""
        return self.encode(tokens, metrics)[0]

    def encode(self, tokens: Array, metrics: Array | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(N,)`` int32 and geodesic distances ``(N,)`` float64 to the medoids.

        Args:
            tokens: ``(N, d)``, training tokens or others.
            metrics: ``(N, d(d+1)/2)`` packed metrics of the tokens; see ``geovq.geometry.graph.attach``.

        Raises:
            InputError: not fitted, or arguments that do not fit the graph.
        """
        check_fitted(self)
        indices, lengths = attach(self._graph, tokens, metrics)
        distance, code = out_of_sample_nearest(self.node_distances_, self.node_codes_, indices, lengths)
        return code, distance

    def encode_training(self, tokens: Array) -> np.ndarray:
        """Codes of the tokens that the graph was built from, read off their nodes.

        Raises:
            InputError: not fitted, or other tokens.
        """
        check_fitted(self)
        _check_tokens(tokens, self._graph)
        return self.node_codes_[self._graph.token_node]

    def get_state(self) -> dict[str, np.ndarray]:
        """Medoids, codes and distances of the nodes, cost history and settings, without the graph."""
        check_fitted(self)
        return {
            "cluster_centers": self.cluster_centers_,
            "medoid_nodes": self.medoid_nodes_,
            "node_codes": self.node_codes_,
            "node_distances": self.node_distances_,
            "cost_history": self.cost_history_,
            "exponent": np.array(self.exponent),
            "max_iter": np.array(self.max_iter),
            "n_candidates": np.array(self.n_candidates),
            "random_state": np.array(self.random_state),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray], graph: TokenGraph | None = None) -> Self:
        """The fitted quantizer on the graph it was fitted to.

        Raises:
            InputError: no graph, or one with another number of nodes.
        """
        if graph is None:
            raise InputError("the state of GeodesicKMedoids needs its graph; give the one it was fitted to")
        values = {key: state_value(state, key, "GeodesicKMedoids") for key in _STATE_KEYS}
        if len(values["node_codes"]) != graph.n_nodes:
            raise InputError(
                f"the state holds {len(values['node_codes'])} nodes, the graph {graph.n_nodes}; "
                "give the graph it was fitted to"
            )
        quantizer = cls(
            len(values["medoid_nodes"]),
            exponent=int(values["exponent"].item()),
            max_iter=int(values["max_iter"].item()),
            n_candidates=int(values["n_candidates"].item()),
            random_state=int(values["random_state"].item()),
        )
        quantizer.medoid_nodes_ = values["medoid_nodes"]
        quantizer.cost_history_ = values["cost_history"]
        quantizer._complete(graph, values["node_codes"], values["node_distances"])
        return quantizer

    def _complete(self, graph: TokenGraph, codes: np.ndarray, distances: np.ndarray) -> None:
        """All attributes that follow from medoids, codes, distances and cost history."""
        self._graph = graph
        self.node_codes_ = codes.astype(np.int32)
        self.node_distances_ = distances
        self.cluster_centers_ = graph.nodes[self.medoid_nodes_]
        self.labels_ = self.node_codes_[graph.token_node]
        self.inertia_ = float(self.cost_history_[-1])
        self.n_iter_ = len(self.cost_history_) - 1

    def _swap(
        self,
        adjacency: csr_matrix,
        weights: np.ndarray,
        medoids: np.ndarray,
        nearest: NearestSource,
        n_swaps: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, NearestSource]:
        """Medoids and assignment after ``n_swaps`` sets of candidates."""
        second = None
        for _ in range(n_swaps if self.n_codes > 1 else 0):
            if second is None:
                cells = within_cells(adjacency, nearest.source)
                second = second_nearest(adjacency, cells, nearest.source, nearest.distance, self.n_codes)
                del cells
            candidates = draw_candidates(weights, nearest, medoids, self.exponent, rng)
            swapped = swap_medoids(adjacency, weights, nearest, second, medoids, candidates, self.exponent)
            if not np.array_equal(swapped, medoids):
                medoids, nearest = self._accept(adjacency, weights, swapped, medoids, nearest)
                second = None
        return medoids, nearest

    def _accept(
        self,
        adjacency: csr_matrix,
        weights: np.ndarray,
        improved: np.ndarray,
        medoids: np.ndarray,
        nearest: NearestSource,
    ) -> tuple[np.ndarray, NearestSource]:
        """The improved medoids with their assignment; that the cost does not rise is proven, and checked here."""
        if np.array_equal(improved, medoids):
            return medoids, nearest
        reached = nearest_sources(adjacency, improved)
        old, new = self._cost(weights, nearest), self._cost(weights, reached)
        if new > old * (1 + 1e-9):
            raise RuntimeError(f"the cost rose from {old} to {new}: a fault of this program")
        return improved, reached

    def _cost(self, weights: np.ndarray, nearest: NearestSource) -> float:
        return float(weights @ nearest.distance**self.exponent)

    def _check_settings(self) -> None:
        if self.exponent not in (1, 2):
            raise InputError(f"exponent is {self.exponent}; choose 1 (sum of distances) or 2 (sum of their squares)")
        check_at_least(self.max_iter, 0, "max_iter")
        check_at_least(self.n_candidates, 1, "n_candidates")


_STATE_KEYS = (
    "medoid_nodes",
    "node_codes",
    "node_distances",
    "cost_history",
    "exponent",
    "max_iter",
    "n_candidates",
    "random_state",
)


def _check_tokens(tokens: Array, graph: TokenGraph) -> None:
    """Tokens must be those of the graph: their number, and a sample of them, tell."""
    points = as_points(tokens)
    same = points.shape == (len(graph.token_node), graph.nodes.shape[1])
    if same:
        sample = np.linspace(0, len(points) - 1, num=min(1_000, len(points)), dtype=np.int64)
        same = np.array_equal(points[sample], graph.nodes[graph.token_node[sample]])
    if not same:
        raise InputError(
            f"the tokens {points.shape} are not the {len(graph.token_node)} that the graph was built from; "
            "give the same tokens in the same order"
        )


def _whitened(graph: TokenGraph) -> np.ndarray:
    """Coordinates whose straight distance is that of the mean metric; latents where there is none."""
    if graph.node_metrics is None:
        return graph.nodes
    values, vectors = torch.linalg.eigh(mean_metric(graph.node_metrics, graph.counts).double())
    return graph.nodes @ (vectors * values.clamp(min=0).sqrt()).float().numpy()
