"""The token graph against its definition, edge by edge."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from geovq.errors import InputError
from geovq.geometry import graph as graph_module
from geovq.geometry import inverted_lists
from geovq.geometry.graph import TokenGraph, build_graph
from geovq.geometry.lengths import RELATIVE_FLOOR
from geovq.geometry.neighbors import NeighborIndex
from geovq.geometry.symmetric import pack_symmetric


def random_metrics(n, d, seed=0):
    factors = np.random.default_rng(seed).normal(size=(n, d, d)).astype(np.float32)
    return factors @ factors.transpose(0, 2, 1)


def brute_force_pattern(points, k, symmetrize="union"):
    squared = cdist(points, points)
    np.fill_diagonal(squared, np.inf)
    directed = np.zeros(squared.shape, dtype=bool)
    np.put_along_axis(directed, np.argsort(squared, axis=1)[:, :k], True, axis=1)
    return directed | directed.T if symmetrize == "union" else directed & directed.T


@pytest.mark.parametrize("symmetrize", ["union", "mutual"])
def test_edges_and_trapezoid_lengths_match_the_definition(symmetrize):
    points = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    metrics = random_metrics(150, 4)
    graph = build_graph(points, pack_symmetric(torch.from_numpy(metrics)), k=5, symmetrize=symmetrize)
    pattern = brute_force_pattern(points, 5, symmetrize)
    dense = graph.adjacency.toarray()
    assert graph.unit == "pixel"
    assert ((dense > 0) >= pattern).all()
    assert (dense > 0).sum() == pattern.sum() + 2 * graph.n_joined  # no edge stored twice or added up
    for i, j in zip(*np.nonzero(dense), strict=True):
        delta = (points[j] - points[i]).astype(np.float64)
        expected = (np.sqrt(delta @ metrics[i] @ delta) + np.sqrt(delta @ metrics[j] @ delta)) / 2
        assert dense[i, j] == pytest.approx(expected, rel=1e-4)
    assert np.array_equal(dense, dense.T)
    assert connected_components(graph.adjacency)[0] == 1


def test_euclidean_lengths_without_metrics():
    points = np.random.default_rng(1).normal(size=(80, 3)).astype(np.float32)
    graph = build_graph(points, k=6)
    dense = graph.adjacency.toarray()
    expected = np.where(brute_force_pattern(points, 6), cdist(points, points), 0)
    assert graph.unit == "latent"
    assert graph.node_metrics is None
    assert np.allclose(dense, expected, rtol=1e-5)
    assert (graph.n_components, graph.n_joined, graph.recall) == (1, 0, 1.0)


def test_duplicates_share_a_node_and_its_mean_metric():
    base = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    tokens = np.concatenate((base, base[[7, 7, 3]]))
    metrics = pack_symmetric(torch.from_numpy(random_metrics(43, 3)))
    graph = build_graph(tokens, metrics, k=4)
    assert graph.n_nodes == 40
    assert graph.counts[[7, 3, 0]].tolist() == [3, 2, 1]
    assert graph.token_node[40:].tolist() == [7, 7, 3]
    assert np.allclose(graph.node_metrics[7], metrics[[7, 40, 41]].mean(dim=0), rtol=1e-5)
    assert np.allclose(graph.node_metrics[0], metrics[0])
    assert graph.adjacency.diagonal().max() == 0
    assert (graph.adjacency.data > 0).all()


def test_blobs_are_joined_by_their_shortest_edges():
    rng = np.random.default_rng(3)
    offsets = np.array([[0, 0], [40, 0], [0, 50], [60, 60], [40, 20]])
    blobs = [rng.normal(size=(size, 2)) + o for size, o in zip((60, 30, 20, 9, 7), offsets, strict=True)]
    points = np.concatenate(blobs).astype(np.float32)
    blob = np.repeat(np.arange(5), [60, 30, 20, 9, 7])
    graph = build_graph(points, k=6)
    assert (graph.n_components, graph.n_joined) == (5, 4)
    assert connected_components(graph.adjacency)[0] == 1
    rows, columns = graph.adjacency.nonzero()
    crossing = blob[rows] < blob[columns]
    # Kruskal over all pairs of blobs is the truth.
    distance = cdist(points, points)
    gaps = sorted((distance[np.ix_(blob == a, blob == b)].min(), a, b) for a in range(5) for b in range(a + 1, 5))
    group, expected = list(range(5)), []
    for gap, a, b in gaps:
        if group[a] != group[b]:
            expected.append(gap)
            group = [group[b] if g == group[a] else g for g in group]
    ours = np.sort(distance[rows[crossing], columns[crossing]])
    assert np.allclose(ours, expected, rtol=1e-5)


def test_many_singletons_of_a_mutual_graph_are_joined_minimally():
    rng = np.random.default_rng(4)
    points = (rng.normal(size=(200, 2)) * rng.exponential(size=(200, 1))).astype(np.float32)
    graph = build_graph(points, k=2, symmetrize="mutual")
    assert graph.n_components > 20
    assert graph.n_joined == graph.n_components - 1
    assert connected_components(graph.adjacency)[0] == 1
    # The same by Kruskal over every pair, starting from the mutual edges.
    _, group = connected_components(brute_force_pattern(points, 2, "mutual"))
    distance = cdist(points, points)
    rows, columns = np.triu_indices(200, 1)
    expected = []
    for index in np.argsort(distance[rows, columns]):
        a, b = group[rows[index]], group[columns[index]]
        if a != b:
            expected.append(distance[rows[index], columns[index]])
            group[group == a] = b
    added = graph.adjacency.toarray() * ~brute_force_pattern(points, 2, "mutual")
    assert np.allclose(np.sort(added[np.triu_indices(200, 1)])[-len(expected) :], np.sort(expected), rtol=1e-5)


def test_singular_metrics_keep_their_edges():
    points = np.random.default_rng(5).normal(size=(50, 2)).astype(np.float32)
    metrics = np.zeros((50, 3), dtype=np.float32)
    metrics[:25, 0] = 1.0
    graph = build_graph(points, metrics, k=3)
    assert (graph.adjacency.data > 0).all()
    assert graph.adjacency.data.min() < 1e-4
    assert graph.adjacency.nnz == build_graph(points, k=3).adjacency.nnz
    assert RELATIVE_FLOOR > 0
    with pytest.raises(InputError, match="every edge has length zero"):
        build_graph(points, np.zeros((50, 3)), k=3)


def test_attach_uses_both_ends_and_knows_its_nodes():
    rng = np.random.default_rng(6)
    points = rng.normal(size=(60, 3)).astype(np.float32)
    metrics, own = random_metrics(60, 3), random_metrics(8, 3, seed=1)
    graph = build_graph(points, pack_symmetric(torch.from_numpy(metrics)), k=5)
    queries = np.concatenate((rng.normal(size=(7, 3)), points[11:12])).astype(np.float32)
    indices, lengths = graph.attach(queries, pack_symmetric(torch.from_numpy(own)))
    _, node_lengths = graph.attach(queries)
    assert indices.shape == (8, 5)
    for q in range(7):
        nearest = np.argsort(cdist(queries[q : q + 1], points)[0])[:5]
        assert indices[q].tolist() == nearest.tolist()
        for place, node in enumerate(nearest):
            delta = (points[node] - queries[q]).astype(np.float64)
            there, here = np.sqrt(delta @ metrics[node] @ delta), np.sqrt(delta @ own[q] @ delta)
            assert lengths[q, place] == pytest.approx((there + here) / 2, rel=1e-4)
            assert node_lengths[q, place] == pytest.approx(there, rel=1e-4)
    assert indices[7, 0] == 11
    assert lengths[7].tolist() == [0] + [np.inf] * 4


def test_storage_round_trip():
    points = np.random.default_rng(7).normal(size=(50, 3)).astype(np.float32)
    for metrics in (None, pack_symmetric(torch.from_numpy(random_metrics(50, 3)))):
        graph = build_graph(points, metrics, k=4)
        arrays = graph.to_arrays()
        assert all(array.dtype in (np.float32, np.int32) for array in arrays.values())
        again = TokenGraph.from_arrays(arrays, graph.attributes())
        assert (again.adjacency != graph.adjacency).nnz == 0
        assert again.attributes() == graph.attributes()
        assert again.to_arrays().keys() == arrays.keys()
        del arrays["counts"]
        with pytest.raises(InputError, match="lacks 'counts'"):
            TokenGraph.from_arrays(arrays, graph.attributes())


@given(seed=st.integers(0, 50), scale=st.sampled_from([1e-3, 0.5, 100.0]), d=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_permutation_and_scale(seed, scale, d):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(40, d)).astype(np.float32)
    metrics = pack_symmetric(torch.from_numpy(random_metrics(40, d, seed)))
    graph = build_graph(points, metrics, k=4)
    order = rng.permutation(40)
    moved = build_graph(points[order], metrics[order], k=4)
    assert np.allclose(moved.adjacency.toarray(), graph.adjacency.toarray()[np.ix_(order, order)], rtol=1e-5)
    scaled = build_graph(points, metrics * scale**2, k=4)
    assert np.allclose(scaled.adjacency.toarray(), graph.adjacency.toarray() * scale, rtol=1e-4)


def test_bad_input_is_named():
    points = np.random.default_rng(8).normal(size=(10, 2)).astype(np.float32)
    with pytest.raises(InputError, match="only 10 distinct"):
        build_graph(points, k=10)
    with pytest.raises(InputError, match="only 1 distinct"):
        build_graph(np.ones((10, 2)), k=3)
    with pytest.raises(InputError, match=r"need \(10, 3\)"):
        build_graph(points, np.ones((10, 2)), k=3)
    with pytest.raises(InputError, match="symmetrize"):
        build_graph(points, k=3, symmetrize="sum")
    with pytest.raises(InputError, match="first at token 4"):
        build_graph(points, np.where(np.arange(10)[:, None] == 4, np.nan, np.ones((10, 3))), k=3)
    with pytest.raises(InputError, match="Euclidean lengths"):
        build_graph(points, k=3).attach(points, np.ones((10, 3)))


def test_neighbourhood_mean_is_the_mean_over_tokens_around_a_node() -> None:
    """Each node's metric by a loop over tokens: its own and those of the nodes it is linked to."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(60, 2)).astype(np.float32)
    tokens = np.concatenate((tokens, tokens[:10]))  # duplicates have metrics of their own
    factors = rng.normal(size=(70, 2, 2))
    packed = pack_symmetric(torch.from_numpy(factors @ factors.transpose(0, 2, 1)).float()).numpy()
    graph = build_graph(tokens, packed, k=4, context="neighbours")
    for node in (0, 5, 33, 59):
        around = {node, *graph.adjacency[[node]].indices.tolist()}
        members = [i for i in range(70) if graph.token_node[i] in around]
        assert graph.node_metrics is not None
        np.testing.assert_allclose(graph.node_metrics[node], packed[members].mean(axis=0), rtol=1e-4)


def test_a_constant_field_is_left_alone_by_averaging() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(80, 3)).astype(np.float32)
    packed = np.tile(pack_symmetric(torch.diag(torch.tensor([1.0, 2.0, 3.0]))).numpy(), (80, 1))
    own = build_graph(tokens, packed, k=5, context="own")
    mean = build_graph(tokens, packed, k=5, context="neighbours")
    np.testing.assert_allclose(own.adjacency.data, mean.adjacency.data, rtol=1e-5)


def broken(graph, change):
    """The arrays of a graph after a change of its edge lengths, or of another array."""
    arrays = {name: array.copy() for name, array in graph.to_arrays().items()}
    change(arrays)
    return arrays


def set_edge(length, both=True):
    """Give the first stored edge of node 0 another length, in both directions or one."""

    def change(arrays):
        indptr, indices, data = (arrays[f"adjacency_{part}"] for part in ("indptr", "indices", "data"))
        other = indices[0]
        back = indptr[other] + np.flatnonzero(indices[indptr[other] : indptr[other + 1]] == 0)[0]
        data[[0, back] if both else [0]] = length

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_edge(0.0), "edge lengths: 2 zero of [0-9]+ stored ones.*merge nodes"),
        (set_edge(-1.0), "2 negative of"),
        (set_edge(np.nan), "2 NaN of"),
        (set_edge(np.inf), "2 infinite of"),
        (set_edge(7.0, both=False), "1 edges have another length each way"),
        (lambda arrays: arrays["adjacency_indices"].__setitem__(0, 39), "not symmetric|no valid CSR"),
        (lambda arrays: arrays["adjacency_indices"].__setitem__(0, 40), "build (the graph|it) again"),
        (lambda arrays: arrays.update(adjacency_data=arrays["adjacency_data"][1:]), "build (the graph|it) again"),
        (lambda arrays: arrays.update(counts=arrays["counts"][1:]), "counts must tell"),
        (lambda arrays: arrays["token_node"].__setitem__(0, 40), "token_node has shape"),
        (lambda arrays: arrays["nodes"].__setitem__((3, 1), np.nan), "nodes hold NaN"),
        (lambda arrays: arrays.update(node_metrics=arrays["node_metrics"][:, 1:]), "metrics have shape"),
    ],
)
def test_parts_that_make_no_graph_are_refused(change, message):
    points = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    graph = build_graph(points, pack_symmetric(torch.from_numpy(random_metrics(40, 3))), k=4)
    assert np.array_equal(TokenGraph.from_arrays(graph.to_arrays(), graph.attributes()).nodes, graph.nodes)
    with pytest.raises(InputError, match=message) as caught:
        TokenGraph.from_arrays(broken(graph, change), graph.attributes())
    assert "\n" not in str(caught.value)


def test_a_graph_made_by_hand_is_checked_too():
    points = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    graph = build_graph(points, k=4)
    adjacency = graph.adjacency.copy()
    adjacency.data[:] = 0
    with pytest.raises(InputError, match="zero of"):
        dataclasses.replace(graph, adjacency=adjacency)
    with pytest.raises(InputError, match="shape"):
        dataclasses.replace(graph, adjacency=graph.adjacency[:39])
    order = np.random.default_rng(2).permutation(graph.adjacency.indptr[1])  # an order of its own is allowed
    adjacency = graph.adjacency.copy()
    adjacency.indices[: len(order)], adjacency.data[: len(order)] = adjacency.indices[order], adjacency.data[order]
    adjacency.has_sorted_indices = False
    assert dataclasses.replace(graph, adjacency=adjacency).n_edges == graph.n_edges


def coarse_only(centroids):
    """Groups of few points alone: those of the lists."""

    def checked(points, seed):
        assert len(points) < 100
        return centroids(points, seed)

    return checked


@pytest.mark.parametrize("search", ["whitened", "pullback"])
def test_nodes_lined_up_by_their_lists_make_the_same_graph(search, monkeypatch) -> None:
    rng = np.random.default_rng(8)
    tokens = rng.normal(size=(1_200, 4)).astype(np.float32)
    tokens[700:750] = tokens[:50]
    metrics = pack_symmetric(torch.from_numpy(random_metrics(1_200, 4)))
    settings = {"k": 6, "recall": 1.0, "context": "neighbours", "search": search}
    plain = build_graph(tokens, metrics, **settings)
    monkeypatch.setattr(graph_module, "NeighborIndex", partial(NeighborIndex, exact_below=100))
    monkeypatch.setattr(inverted_lists, "LINED_UP_ABOVE", 1_000)
    lined = build_graph(tokens, metrics, **settings)
    assert plain.search_lists is None
    assert lined.search_lists is not None
    place = np.empty(plain.n_nodes, dtype=np.int64)  # of every node of the plain graph in the other
    place[plain.token_node] = lined.token_node
    assert (place != np.arange(plain.n_nodes)).any()
    assert np.array_equal(lined.nodes[place], plain.nodes)
    assert np.array_equal(lined.counts[place], plain.counts)
    assert np.allclose(lined.node_metrics[place], plain.node_metrics, rtol=1e-4)
    moved = lined.adjacency[place][:, place]
    moved.sort_indices()
    assert np.array_equal(moved.indices, plain.adjacency.indices)
    assert np.allclose(moved.data, plain.adjacency.data, rtol=1e-4)
    # Linked nodes lie nearer in memory: what it is for.
    rows, columns = lined.adjacency.nonzero()
    before, after = plain.adjacency.nonzero()
    assert np.abs(rows - columns).mean() < 0.7 * np.abs(before - after).mean()
    # Stored with its lists it attaches as before, and groups no points again.
    stored = TokenGraph.from_arrays(lined.to_arrays(), lined.attributes())
    queries = np.concatenate((rng.normal(size=(40, 4)).astype(np.float32), tokens[:3]))
    expected, expected_lengths = plain.attach(queries)
    monkeypatch.setattr(inverted_lists, "_centroids", coarse_only(inverted_lists._centroids))
    near, lengths = stored.attach(queries)
    assert np.array_equal(near, place[expected])
    assert np.allclose(lengths, expected_lengths, rtol=1e-3)


def test_local_order_halves_a_line_again_and_again() -> None:
    values = np.random.default_rng(9).permutation(1_024)
    direction = np.array([3.0, -1.0, 2.0], dtype=np.float32)
    ordered = values[inverted_lists.local_order(values[:, None].astype(np.float32) * direction)]
    for size in (512, 256, 32, 4, 2):
        parts = np.sort(ordered.reshape(-1, size), axis=1)
        assert (np.diff(parts, axis=1) == 1).all()
