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
from geovq.geometry.symmetric import pack_symmetric
from geovq.quantizers import geodesic
from geovq.quantizers.geodesic import GeodesicKMedoids
from geovq.quantizers.medoids import improve_medoids, within_cells
from geovq.quantizers.swaps import draw_candidates, second_nearest, swap_medoids


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


@pytest.mark.parametrize(("small_work", "bound"), [(30_000_000, 1.02), (0, 1.08)])  # 0: the economy of large graphs
@pytest.mark.parametrize("exponent", [1, 2])
def test_cost_is_near_that_of_faster_pam(problem, exponent, small_work, bound, monkeypatch):
    monkeypatch.setattr(geodesic, "_SMALL_WORK", small_work)
    tokens, _, graph, table = problem
    per_token = (table**exponent)[graph.token_node][:, graph.token_node]
    theirs = min(kmedoids.fasterpam(per_token, 25, random_state=seed).loss for seed in range(3))
    ours = [
        GeodesicKMedoids(25, exponent=exponent, max_iter=50, random_state=seed).fit(tokens, graph).inertia_
        for seed in range(3)
    ]
    assert np.median(ours) <= bound * theirs


@pytest.mark.parametrize("small_work", [30_000_000, 0])  # all members tried, or candidates as on large graphs
@pytest.mark.parametrize("exponent", [1, 2])
def test_attributes_obey_their_definitions(problem, exponent, small_work, monkeypatch):
    monkeypatch.setattr(geodesic, "_SMALL_WORK", small_work)
    tokens, _, graph, table = problem
    fitted = GeodesicKMedoids(30, exponent=exponent, max_iter=6).fit(tokens, graph)
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
    assert (np.diff(fitted.cost_history_) < 0).all()
    assert len(fitted.cost_history_) == fitted.n_iter_ + 1
    assert fitted.cost_history_[-1] < 0.9 * fitted.cost_history_[0]


def test_medoids_of_small_graphs_are_the_best_of_their_cells(problem):
    tokens, _, graph, table = problem
    fitted = GeodesicKMedoids(40, max_iter=100).fit(tokens, graph)
    for code, medoid in enumerate(fitted.medoid_nodes_):
        members = np.flatnonzero(fitted.node_codes_ == code)
        # Paths that leave a cell may be shorter than those the update sees, so allow for them.
        costs = graph.counts[members] @ np.square(table[np.ix_(members, members)])
        own = graph.counts[members] @ np.square(table[members, medoid])
        assert own <= 1.1 * costs.min()


def three_cells(graph, active=(True, True, True)):
    medoids = np.array([5, 300, 700])
    nearest = geodesic.nearest_sources(graph.adjacency, medoids)
    improved = improve_medoids(
        graph.adjacency.astype(float),
        geodesic._whitened(graph),
        graph.counts,
        nearest.source,
        nearest.distance,
        medoids,
        np.array(active),
        2,
        8,
        np.random.default_rng(0),
    )
    return medoids, nearest, improved


def test_few_candidates_find_nearly_the_best_member(problem):
    """What large graphs do: eight candidates per cell, without trying all members."""
    _, _, graph, table = problem
    _, nearest, improved = three_cells(graph)
    for code in range(3):
        members = np.flatnonzero(nearest.source == code)
        costs = np.square(table[np.ix_(members, members)]) @ graph.counts[members]
        place = dict(zip(members, costs, strict=True))
        assert place[improved[code]] <= np.quantile(costs, 0.02)


def test_inactive_cells_are_left_alone(problem):
    _, _, improved = three_cells(problem[2], active=(False, True, False))
    assert improved[[0, 2]].tolist() == [5, 700]
    assert improved[1] != 300


def test_second_nearest_matches_the_table(problem):
    _, _, graph, table = problem
    medoids = np.arange(0, 1_000, 50)
    nearest = geodesic.nearest_sources(graph.adjacency, medoids)
    adjacency = graph.adjacency.astype(float)
    cells = within_cells(adjacency, nearest.source)
    second = second_nearest(adjacency, cells, nearest.source, nearest.distance, 20)
    others = table[medoids].copy()
    others[nearest.source, np.arange(1_000)] = np.inf
    assert np.allclose(second.distance, others.min(axis=0))
    assert np.allclose(others[second.code, np.arange(1_000)], second.distance)


@pytest.mark.parametrize("exponent", [1, 2])
def test_swaps_lower_the_cost(problem, exponent):
    """Medoids crowded into one corner: updates inside cells would take many rounds to leave it."""
    _, _, graph, table = problem
    medoids = np.argsort(table[0])[:20]
    adjacency, rng = graph.adjacency.astype(float), np.random.default_rng(0)
    costs = [(table[medoids].min(axis=0) ** exponent) @ graph.counts]
    for _ in range(12):
        nearest = geodesic.nearest_sources(adjacency, medoids)
        cells = within_cells(adjacency, nearest.source)
        second = second_nearest(adjacency, cells, nearest.source, nearest.distance, 20)
        candidates = draw_candidates(graph.counts, nearest, medoids, exponent, rng)
        assert not np.isin(candidates, medoids).any()
        assert len(candidates) == len(set(nearest.source[candidates])) <= 7
        medoids = swap_medoids(adjacency, graph.counts, nearest, second, medoids, candidates, exponent)
        assert len(set(medoids)) == 20
        costs.append((table[medoids].min(axis=0) ** exponent) @ graph.counts)
    assert (np.diff(costs) <= 1e-9 * costs[0]).all()
    assert costs[-1] < 0.55**exponent * costs[0]


def test_a_single_swap_is_the_best_of_all_swaps(problem):
    """With one candidate all nodes are its own, so the price is exact and the best medoid to give up is found."""
    _, _, graph, table = problem
    medoids = np.array([5, 6, 300, 301, 700])
    adjacency = graph.adjacency.astype(float)
    nearest = geodesic.nearest_sources(adjacency, medoids)
    cells = within_cells(adjacency, nearest.source)
    second = second_nearest(adjacency, cells, nearest.source, nearest.distance, 5)
    for candidate in range(10, 1_000, 90):
        swapped = swap_medoids(adjacency, graph.counts, nearest, second, medoids, np.array([candidate]), 2)
        costs = [np.square(table[medoids].min(axis=0)) @ graph.counts]
        for place in range(5):
            trial = medoids.copy()
            trial[place] = candidate
            costs.append(np.square(table[trial].min(axis=0)) @ graph.counts)
        assert np.square(table[swapped].min(axis=0)) @ graph.counts == pytest.approx(min(costs))


def test_one_code_is_the_medoid_of_all(problem):
    tokens, _, graph, table = problem
    fitted = GeodesicKMedoids(1).fit(tokens, graph)
    costs = np.square(table) @ graph.counts
    assert fitted.medoid_nodes_[0] == costs.argmin()
    assert fitted.inertia_ == pytest.approx(costs.min())


def test_as_many_codes_as_nodes_cost_nothing():
    tokens, metrics = tokens_and_metrics(60, duplicates=20)
    graph = build_graph(tokens, metrics, k=5)
    fitted = GeodesicKMedoids(60).fit(tokens, graph)
    assert fitted.inertia_ == 0
    assert sorted(fitted.medoid_nodes_) == list(range(60))
    with pytest.raises(InputError, match="n_codes is 61, but there are only 60 distinct"):
        GeodesicKMedoids(61).fit(tokens, graph)


def test_training_tokens_predict_their_labels_and_distances(problem):
    tokens, metrics, graph, _ = problem
    fitted = GeodesicKMedoids(30).fit(tokens, graph)
    codes, distances = fitted.encode(tokens, metrics)
    assert np.array_equal(codes, fitted.labels_)
    assert np.allclose(distances, fitted.node_distances_[graph.token_node])
    assert np.array_equal(fitted.predict(tokens), fitted.labels_)
    assert np.array_equal(fitted.encode_training(tokens), fitted.labels_)


def test_new_tokens_get_the_code_that_the_larger_graph_gives(problem):
    tokens, _, graph, _ = problem
    fitted = GeodesicKMedoids(30).fit(tokens, graph)
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
    fitted = GeodesicKMedoids(20, exponent=1, random_state=7, n_candidates=5).fit(tokens, graph)
    twin = GeodesicKMedoids(20, exponent=1, random_state=7, n_candidates=5).fit(tokens, graph)
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
    one = GeodesicKMedoids(6, random_state=seed).fit(tokens, graph)
    other = GeodesicKMedoids(6, random_state=seed).fit(tokens, scaled)
    assert other.inertia_ == pytest.approx(one.inertia_ * scale**2, rel=1e-3)


@given(seed=st.integers(0, 100), n_codes=st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_the_order_of_tokens_matters_only_for_the_draws(seed, n_codes):
    """Cells and cost of the same medoids are the same whatever the order of the tokens."""
    tokens, metrics = tokens_and_metrics(60, d=2, seed=seed, duplicates=10)
    graph = build_graph(tokens, metrics, k=5)
    fitted = GeodesicKMedoids(n_codes, random_state=seed).fit(tokens, graph)
    order = np.random.default_rng(seed).permutation(70)
    moved = build_graph(tokens[order], metrics[order], k=5)
    medoids = [int(np.flatnonzero((moved.nodes == center).all(axis=1))[0]) for center in fitted.cluster_centers_]
    nearest = geodesic.nearest_sources(moved.adjacency, np.array(medoids))
    assert np.allclose(nearest.distance[moved.token_node], fitted.node_distances_[graph.token_node][order], rtol=1e-4)


def test_bad_input_is_named(problem):
    tokens, _, graph, _ = problem
    with pytest.raises(InputError, match="needs a graph"):
        GeodesicKMedoids(3).fit(tokens)
    with pytest.raises(InputError, match="not the 1150 that the graph was built from"):
        GeodesicKMedoids(3).fit(tokens[:-1], graph)
    with pytest.raises(InputError, match="not the 1150"):
        GeodesicKMedoids(3).fit(tokens[::-1], graph)
    with pytest.raises(InputError, match="exponent is 3"):
        GeodesicKMedoids(3, exponent=3).fit(tokens, graph)
    with pytest.raises(InputError, match="n_codes is 0"):
        GeodesicKMedoids(0).fit(tokens, graph)
    with pytest.raises(InputError, match="not fitted"):
        GeodesicKMedoids(3).predict(tokens)
    with pytest.raises(InputError, match="needs its graph"):
        GeodesicKMedoids.from_state({})
    arrays = graph.to_arrays()
    arrays["adjacency_data"] = np.array([1.0, 1.0], dtype=np.float32)
    arrays["adjacency_indices"] = np.array([1, 0], dtype=np.int32)
    arrays["adjacency_indptr"] = np.minimum(np.arange(graph.n_nodes + 1), 2).astype(np.int32)
    with pytest.raises(InputError, match="not connected"):
        GeodesicKMedoids(3).fit(tokens, TokenGraph.from_arrays(arrays, graph.attributes()))
