"""Geodesic k-medoids against the dense route: all distances, FasterPAM, exhaustive search."""

import kmedoids
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from geovq.errors import InputError
from geovq.geometry.graph import TokenGraph, build_graph
from geovq.geometry.paths import nearest_sources
from geovq.geometry.symmetric import pack_symmetric, quadratic_form, unpack_symmetric
from geovq.quantizers import medoids as local_search
from geovq.quantizers.geodesic import GeodesicBarycenters, GeodesicKMedoids


def tokens_and_metrics(n, d=4, seed=0, duplicates=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(12, d)) * 2
    tokens = (centers[rng.integers(12, size=n)] + rng.normal(size=(n, d))).astype(np.float32)
    tokens = np.concatenate((tokens, tokens[rng.integers(n, size=duplicates)]))
    factors = rng.normal(size=(len(tokens), d, d)).astype(np.float32) * 0.5 + np.eye(d, dtype=np.float32)
    return tokens, pack_symmetric(torch.from_numpy(factors @ factors.transpose(0, 2, 1)))


@pytest.fixture(scope="module")
def problem():
    tokens, metrics = tokens_and_metrics(1_000, duplicates=150)
    graph = build_graph(tokens, metrics, k=10)
    return tokens, metrics, graph, dijkstra(graph.adjacency)


@pytest.mark.parametrize(("cheap_round", "n_candidates", "bound"), [(50_000_000, 8, 1.01), (0, 30, 1.03)])
@pytest.mark.parametrize("exponent", [1, 2])
def test_cost_is_that_of_faster_pam(problem, exponent, cheap_round, n_candidates, bound, monkeypatch):
    """On the full table of distances; with ``cheap_round`` 0 in the economical way of large graphs."""
    monkeypatch.setattr(local_search, "_CHEAP_ROUND", cheap_round)
    tokens, _, graph, table = problem
    per_token = (table**exponent)[graph.token_node][:, graph.token_node]
    theirs = [kmedoids.fasterpam(per_token, 25, random_state=seed).loss for seed in range(5)]
    settings = {"exponent": exponent, "max_iter": 50, "n_candidates": n_candidates}
    ours = [GeodesicKMedoids(25, random_state=seed, **settings).fit(tokens, graph=graph).inertia_ for seed in range(5)]
    assert np.mean(ours) <= bound * np.mean(theirs)


@pytest.mark.parametrize("cheap_round", [50_000_000, 0])  # all members tried, or candidates as on large graphs
@pytest.mark.parametrize("exponent", [1, 2])
def test_attributes_obey_their_definitions(problem, exponent, cheap_round, monkeypatch):
    monkeypatch.setattr(local_search, "_CHEAP_ROUND", cheap_round)
    tokens, _, graph, table = problem
    fitted = GeodesicKMedoids(30, exponent=exponent, max_iter=6).fit(tokens, graph=graph)
    to_medoids = table[fitted.medoid_nodes_]
    assert len(set(fitted.medoid_nodes_)) == 30
    assert np.allclose(fitted.node_distances_, to_medoids.min(axis=0))
    assert np.allclose(to_medoids[fitted.node_codes_, np.arange(graph.n_nodes)], fitted.node_distances_)
    assert np.array_equal(fitted.labels_, fitted.node_codes_[graph.token_node])
    assert len(fitted.labels_) == len(tokens)
    assert set(fitted.labels_) == set(range(30))
    assert np.array_equal(fitted.cluster_centers_, graph.nodes[fitted.medoid_nodes_])
    cost = (fitted.node_distances_[graph.token_node] ** exponent).sum()  # duplicates count
    assert fitted.inertia_ == pytest.approx(cost)
    assert (np.diff(fitted.cost_history_) <= 0).all()
    assert len(fitted.cost_history_) == fitted.n_iter_ + 1
    assert fitted.cost_history_[-1] < 0.9 * fitted.cost_history_[0]


def test_medoids_of_small_graphs_are_the_best_of_their_cells(problem):
    tokens, _, graph, table = problem
    fitted = GeodesicKMedoids(40, max_iter=100).fit(tokens, graph=graph)
    for code, medoid in enumerate(fitted.medoid_nodes_):
        members = np.flatnonzero(fitted.node_codes_ == code)
        # Paths that leave a cell may be shorter than those the update sees, so allow for them.
        costs = graph.counts[members] @ np.square(table[np.ix_(members, members)])
        own = graph.counts[members] @ np.square(table[members, medoid])
        assert own <= 1.1 * costs.min()


def test_one_code_is_the_medoid_of_all(problem):
    tokens, _, graph, table = problem
    fitted = GeodesicKMedoids(1).fit(tokens, graph=graph)
    costs = np.square(table) @ graph.counts
    assert fitted.medoid_nodes_[0] == costs.argmin()
    assert fitted.inertia_ == pytest.approx(costs.min())


def test_as_many_codes_as_nodes_cost_nothing():
    tokens, metrics = tokens_and_metrics(60, duplicates=20)
    graph = build_graph(tokens, metrics, k=5)
    fitted = GeodesicKMedoids(60).fit(tokens, graph=graph)
    assert fitted.inertia_ == 0
    assert sorted(fitted.medoid_nodes_) == list(range(60))
    with pytest.raises(InputError, match="n_codes is 61, but there are only 60 distinct"):
        GeodesicKMedoids(61).fit(tokens, graph=graph)


def test_training_tokens_predict_their_labels_and_distances(problem):
    tokens, metrics, graph, _ = problem
    fitted = GeodesicKMedoids(30).fit(tokens, graph=graph)
    codes, distances = fitted.encode(tokens, metrics)
    assert np.array_equal(codes, fitted.labels_)
    assert np.allclose(distances, fitted.node_distances_[graph.token_node])
    assert np.array_equal(fitted.predict(tokens), fitted.labels_)
    assert np.array_equal(fitted.encode_training(tokens), fitted.labels_)


def test_new_tokens_get_the_code_that_the_larger_graph_gives(problem):
    tokens, _, graph, _ = problem
    fitted = GeodesicKMedoids(30).fit(tokens, graph=graph)
    queries, own = tokens_and_metrics(40, seed=0)
    queries = queries + 0.05
    codes, distances = fitted.encode(queries, own)
    indices, lengths = graph.attach(queries, own)
    n = graph.n_nodes
    rows, columns = np.repeat(np.arange(40), graph.k) + n, indices.reshape(-1)
    for q in range(40):
        mask = rows == n + q
        extra = coo_matrix((lengths.reshape(-1)[mask], (rows[mask] - q, columns[mask])), shape=(n + 1, n + 1))
        larger = graph.adjacency.copy()
        larger.resize((n + 1, n + 1))
        row = dijkstra(larger + extra.tocsr(), indices=n)[fitted.medoid_nodes_]
        assert distances[q] == pytest.approx(row.min(), rel=1e-5)
        assert row[codes[q]] == pytest.approx(row.min(), rel=1e-5)


def test_same_seed_same_codebook_and_state_round_trip(problem):
    tokens, metrics, graph, _ = problem
    fitted = GeodesicKMedoids(20, exponent=1, random_state=7, n_candidates=5).fit(tokens, graph=graph)
    twin = GeodesicKMedoids(20, exponent=1, random_state=7, n_candidates=5).fit(tokens, graph=graph)
    assert np.array_equal(fitted.medoid_nodes_, twin.medoid_nodes_)
    stored = TokenGraph.from_arrays(graph.to_arrays(), graph.attributes())
    again = GeodesicKMedoids.from_state(fitted.get_state(), stored)
    assert np.array_equal(again.predict(tokens, metrics), fitted.labels_)
    assert again.inertia_ == fitted.inertia_
    assert (again.exponent, again.n_candidates, again.random_state) == (1, 5, 7)
    assert np.array_equal(again.labels_, fitted.labels_)


@given(seed=st.integers(0, 100), scale=st.sampled_from([1e-2, 30.0]))
@settings(max_examples=10, deadline=None)
def test_the_unit_of_lengths_does_not_matter(seed, scale):
    tokens, metrics = tokens_and_metrics(80, d=2, seed=seed, duplicates=10)
    graph = build_graph(tokens, metrics, k=5)
    scaled = build_graph(tokens, metrics * scale**2, k=5)
    one = GeodesicKMedoids(6, random_state=seed).fit(tokens, graph=graph)
    other = GeodesicKMedoids(6, random_state=seed).fit(tokens, graph=scaled)
    assert other.inertia_ == pytest.approx(one.inertia_ * scale**2, rel=1e-3)


@given(seed=st.integers(0, 100), n_codes=st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_the_order_of_tokens_matters_only_for_the_draws(seed, n_codes):
    """Cells and cost of the same medoids are the same whatever the order of the tokens."""
    tokens, metrics = tokens_and_metrics(60, d=2, seed=seed, duplicates=10)
    graph = build_graph(tokens, metrics, k=5)
    fitted = GeodesicKMedoids(n_codes, random_state=seed).fit(tokens, graph=graph)
    order = np.random.default_rng(seed).permutation(70)
    moved = build_graph(tokens[order], metrics[order], k=5)
    medoids = [int(np.flatnonzero((moved.nodes == center).all(axis=1))[0]) for center in fitted.cluster_centers_]
    nearest = nearest_sources(moved.adjacency, np.array(medoids))
    assert np.allclose(nearest.distance[moved.token_node], fitted.node_distances_[graph.token_node][order], rtol=1e-4)


def test_bad_input_is_named(problem):
    tokens, _, graph, _ = problem
    with pytest.raises(InputError, match="needs a graph"):
        GeodesicKMedoids(3).fit(tokens)
    with pytest.raises(InputError, match="not the 1150 that the graph was built from"):
        GeodesicKMedoids(3).fit(tokens[:-1], graph=graph)
    with pytest.raises(InputError, match="not the 1150"):
        GeodesicKMedoids(3).fit(tokens[::-1], graph=graph)
    with pytest.raises(InputError, match="exponent is 3"):
        GeodesicKMedoids(3, exponent=3).fit(tokens, graph=graph)
    with pytest.raises(InputError, match="n_codes is 0"):
        GeodesicKMedoids(0).fit(tokens, graph=graph)
    with pytest.raises(InputError, match="not fitted"):
        GeodesicKMedoids(3).predict(tokens)
    with pytest.raises(InputError, match="needs its graph"):
        GeodesicKMedoids.from_state({})
    arrays = graph.to_arrays()
    arrays["adjacency_data"] = np.array([1.0, 1.0], dtype=np.float32)
    arrays["adjacency_indices"] = np.array([1, 0], dtype=np.int32)
    arrays["adjacency_indptr"] = np.minimum(np.arange(graph.n_nodes + 1), 2).astype(np.int32)
    with pytest.raises(InputError, match="not connected"):
        GeodesicKMedoids(3).fit(tokens, graph=TokenGraph.from_arrays(arrays, graph.attributes()))


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf])
def test_edges_without_length_are_refused(problem, length):
    tokens, _, graph, _ = problem
    graph = TokenGraph.from_arrays(
        {name: array.copy() for name, array in graph.to_arrays().items()}, graph.attributes()
    )
    graph.adjacency.data[:10] = length
    with pytest.raises(InputError, match=r"10 (zero|negative|NaN|infinite) of"):
        GeodesicKMedoids(20).fit(tokens, graph=graph)
    with pytest.raises(InputError, match=r"10 (zero|negative|NaN|infinite) of"):
        nearest_sources(graph.adjacency, np.array([0, 1]))


def test_a_smaller_codebook_starts_a_larger_one(problem):
    tokens, _, graph, _ = problem
    small = GeodesicKMedoids(20).fit(tokens, graph=graph)
    cold = GeodesicKMedoids(40, max_iter=0).fit(tokens, graph=graph)
    warm = GeodesicKMedoids(40, max_iter=0, init=small.medoid_nodes_).fit(tokens, graph=graph)
    assert np.array_equal(warm.medoid_nodes_[:20], small.medoid_nodes_)
    assert warm.inertia_ < min(small.inertia_, cold.inertia_)
    assert GeodesicKMedoids.from_state(warm.get_state(), graph).init is None
    for init, message in (([0, 0], "distinct"), (np.arange(41), "between 1 and"), ([5_000], "whole numbers")):
        with pytest.raises(InputError, match=message):
            GeodesicKMedoids(40, init=np.array(init)).fit(tokens, graph=graph)


def test_barycentres_lower_the_metric_distortion_of_the_same_cells(problem):
    tokens, _, graph, _ = problem
    medoid = GeodesicKMedoids(30).fit(tokens, graph=graph)
    barycentre = GeodesicBarycenters(30).fit(tokens, graph=graph)
    assert np.array_equal(medoid.labels_, barycentre.labels_)
    assert barycentre.inertia_ == medoid.inertia_

    def distortion(fitted):
        displacement = graph.nodes - fitted.cluster_centers_[fitted.node_codes_]
        return graph.counts @ quadratic_form(graph.node_metrics, displacement).numpy()

    assert distortion(barycentre) < 0.95 * distortion(medoid)
    code = 7  # against the definition, in float64
    inside = np.flatnonzero(barycentre.node_codes_ == code)
    metrics = unpack_symmetric(torch.from_numpy(graph.node_metrics[inside]), 4).double().numpy()
    metrics *= graph.counts[inside, None, None]
    expected = np.linalg.solve(metrics.sum(axis=0), np.einsum("nij,nj->i", metrics, graph.nodes[inside]))
    assert np.allclose(barycentre.cluster_centers_[code], expected, atol=2e-2)
    again = GeodesicBarycenters.from_state(barycentre.get_state(), graph)
    assert np.array_equal(again.cluster_centers_, barycentre.cluster_centers_)
