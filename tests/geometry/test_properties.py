"""What must hold for every token graph, whatever the tokens; and bad input at the door."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components, dijkstra

from geovq.errors import InputError
from geovq.geometry.edges import DecodedEdges
from geovq.geometry.graph import TokenGraph, build_graph
from geovq.geometry.neighbors import centre_of, search_coordinates, whitening
from geovq.geometry.symmetric import pack_symmetric
from surfaces import Flat, Sphere

SETTINGS = {
    "search": st.sampled_from(["latent", "whitened", "pullback"]),
    "context": st.sampled_from(["own", "neighbours"]),
}


def clustered(n, d, seed):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) + 6 * rng.integers(0, 3, size=(n, 1))).astype(np.float32)


def random_metrics(n, d, seed, rank=None):
    factors = np.random.default_rng(seed).normal(size=(n, d, rank or d)).astype(np.float32)
    return pack_symmetric(torch.from_numpy(factors @ factors.transpose(0, 2, 1)))


@given(n=st.integers(8, 50), d=st.integers(1, 5), k=st.integers(1, 5), seed=st.integers(0, 999), **SETTINGS)
@settings(max_examples=30, deadline=None)
def test_graphs_are_symmetric_positive_and_connected(n, d, k, seed, search, context):
    points, metrics = clustered(n, d, seed), random_metrics(n, d, seed, rank=1)
    graph = build_graph(points, metrics, k=k, search=search, context=context, symmetrize="mutual")
    assert connected_components(graph.adjacency)[0] == 1
    assert (graph.adjacency.data > 0).all()
    assert (graph.adjacency != graph.adjacency.T).nnz == 0
    assert graph.adjacency.diagonal().max() == 0
    assert graph.n_joined == graph.n_components - 1
    assert graph.counts.sum() == n


@given(n=st.integers(8, 40), d=st.integers(1, 4), seed=st.integers(0, 999), **SETTINGS)
@settings(max_examples=30, deadline=None)
def test_permuting_tokens_permutes_the_graph(n, d, seed, search, context):
    points, metrics = clustered(n, d, seed), random_metrics(n, d, seed)
    order = np.random.default_rng(seed).permutation(n)
    graph = build_graph(points, metrics, k=3, search=search, context=context)
    moved = build_graph(points[order], metrics[order], k=3, search=search, context=context)
    expected = graph.adjacency.toarray()[np.ix_(order, order)]
    assert np.allclose(moved.adjacency.toarray(), expected, rtol=1e-4)
    assert np.allclose(moved.node_metrics, graph.node_metrics[order], rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 999), scale=st.sampled_from([2.0**-12, 0.3, 1.7, 2.0**12]), **SETTINGS)
@settings(max_examples=30, deadline=None)
def test_pixel_lengths_know_no_latent_unit(seed, scale, search, context):
    """Latents times s with metrics over s² are the same images: same links, same lengths."""
    points, metrics = clustered(40, 3, seed), random_metrics(40, 3, seed)
    graph = build_graph(points, metrics, k=4, search=search, context=context)
    scaled = build_graph(points * np.float32(scale), metrics / scale**2, k=4, search=search, context=context)
    assert np.allclose(scaled.adjacency.toarray(), graph.adjacency.toarray(), rtol=1e-3)


@given(seed=st.integers(0, 999), copies=st.integers(1, 30), **SETTINGS)
@settings(max_examples=30, deadline=None)
def test_duplicates_of_tokens_change_counts_only(seed, copies, search, context):
    rng = np.random.default_rng(seed)
    points = clustered(30, 3, seed)
    # One metric: no mean changes by counting twice. A tenth of the identity keeps the digits of short edges.
    metrics = np.tile(random_metrics(1, 3, seed) + 0.1 * pack_symmetric(torch.eye(3)), (30, 1))
    again = rng.integers(0, 30, copies)
    graph = build_graph(points, metrics, k=4, search=search, context=context)
    more = build_graph(
        np.concatenate((points, points[again])),
        np.concatenate((metrics, metrics[again])),
        k=4,
        search=search,
        context=context,
    )
    assert np.allclose(more.adjacency.toarray(), graph.adjacency.toarray(), rtol=1e-4)
    assert np.array_equal(more.nodes, points)
    assert np.array_equal(more.token_node[30:], again)
    assert np.array_equal(more.counts, 1 + np.bincount(again, minlength=30))


@given(seed=st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_tokens_of_one_number_are_a_chain(seed):
    points = np.sort(np.random.default_rng(seed).normal(size=(20, 1)).astype(np.float32), axis=0)
    graph = build_graph(points, np.full((20, 1), 4.0, dtype=np.float32), k=1)
    rows, columns = graph.adjacency.nonzero()
    assert np.allclose(
        np.asarray(graph.adjacency[rows, columns]).reshape(-1),
        2 * np.abs(points[rows] - points[columns])[:, 0],
        rtol=1e-4,
    )
    assert connected_components(graph.adjacency)[0] == 1


def test_narrow_metrics_make_the_graph_of_their_values():
    points, metrics = clustered(60, 4, 0), random_metrics(60, 4, 0).bfloat16()
    points[50:] = points[:10]
    narrow = build_graph(points, metrics, k=5, context="neighbours", search="whitened")
    wide = build_graph(points, metrics.float(), k=5, context="neighbours", search="whitened")
    assert narrow.node_metrics.dtype == np.float32
    assert np.array_equal(narrow.adjacency.toarray(), wide.adjacency.toarray())


def test_whitened_links_are_the_nearest_by_the_mean_metric():
    points, metrics = clustered(60, 3, 1), random_metrics(60, 3, 1)
    mean = np.zeros((3, 3))
    rows, columns = np.triu_indices(3)
    mean[rows, columns] = mean[columns, rows] = metrics.numpy().astype(np.float64).mean(axis=0)
    gaps = (points[:, None] - points[None]).astype(np.float64)
    distance = np.einsum("ija,ab,ijb->ij", gaps, mean, gaps)
    np.fill_diagonal(distance, np.inf)
    linked = np.zeros((60, 60), dtype=bool)
    np.put_along_axis(linked, np.argsort(distance, axis=1)[:, :4], True, axis=1)
    graph = build_graph(points, metrics, k=4, search="whitened")
    assert np.array_equal((graph.adjacency.toarray() > 0) & (linked | linked.T), linked | linked.T)
    assert graph.n_edges == (linked | linked.T).sum() // 2 + graph.n_joined
    again = TokenGraph.from_arrays(graph.to_arrays(), graph.attributes())
    assert np.array_equal(again.search_transform, graph.search_transform)
    assert np.array_equal(again.attach(points[:9] + 0.1)[0], graph.attach(points[:9] + 0.1)[0])


@pytest.mark.parametrize("context", ["own", "neighbours"])
def test_pullback_links_are_the_shortest_edges_among_three_times_as_many_near_by_the_mean_metric(context):
    points = np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32)  # one component
    metrics, k = random_metrics(60, 3, 2), 4
    near = build_graph(points, metrics, k=k, search="whitened", context=context)
    rows, columns = np.triu_indices(3)
    tensors = np.zeros((60, 3, 3))
    tensors[:, rows, columns] = tensors[:, columns, rows] = near.node_metrics
    gaps = (points[:, None] - points[None]).astype(np.float64)
    speed = np.sqrt(np.einsum("ija,iab,ijb->ij", gaps, tensors, gaps))
    length = (speed + speed.T) / 2
    mapped = search_coordinates(points, centre_of(points), near.search_transform).astype(np.float64)
    distance = np.linalg.norm(mapped[:, None] - mapped[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    linked = np.zeros((60, 60), dtype=bool)
    for node, candidates in enumerate(np.argsort(distance, axis=1)[:, : 3 * k]):
        linked[node, candidates[np.argsort(length[node, candidates])[:k]]] = True
    linked |= linked.T
    graph = build_graph(points, metrics, k=k, search="pullback", context=context)
    dense = graph.adjacency.toarray()
    assert np.allclose(dense[linked], length[linked], rtol=1e-4)
    assert (dense > 0).sum() == linked.sum() + 2 * graph.n_joined
    assert np.array_equal(graph.node_metrics, near.node_metrics)

    again = TokenGraph.from_arrays(graph.to_arrays(), graph.attributes())
    nodes, lengths = again.attach(points[:9] + 0.1)
    assert (np.diff(lengths) >= 0).all()
    all_nodes, all_lengths = near.attach(points[:9] + 0.1, k=3 * k)
    assert np.array_equal(nodes, np.take_along_axis(all_nodes, np.argsort(all_lengths, axis=1)[:, :k], axis=1))


@pytest.mark.parametrize("stretch", [4, 16])
def test_paths_on_a_stretched_sheet_need_neighbours_by_the_metric(stretch):
    """A plane whose chart is drawn out: with neighbours by latent distance its paths are far too long."""
    sheet = Flat(np.array([[1, 0], [0, stretch], [0, 0]]))
    latents = sheet.sample(3_000, 0)
    ends = np.random.default_rng(0).choice(3_000, 40, replace=False)
    worst = {}
    for search in ("latent", "whitened", "pullback"):
        graph = build_graph(latents, sheet.metric(latents), k=20, search=search)
        found = dijkstra(graph.adjacency, directed=False, indices=ends[:20])[:, ends[20:]]
        nodes = torch.from_numpy(graph.nodes).double()
        exact = sheet.distance(nodes[ends[:20].repeat(20)], nodes[np.tile(ends[20:], 20)]).reshape(20, 20)
        worst[search] = np.quantile(np.abs(found / exact - 1), 0.95)
    assert worst["whitened"] < 0.03
    assert worst["pullback"] < 0.03
    assert worst["latent"] > 3 * worst["whitened"]


def test_a_singular_mean_metric_keeps_tokens_apart():
    """The decoder ignores the second number; tokens that differ in it alone are still two nodes with neighbours."""
    points = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), axis=-1).reshape(-1, 2).astype(np.float32)
    metrics = np.tile(np.array([[1.0, 0.0, 0.0]], dtype=np.float32), (30, 1))
    graph = build_graph(points, metrics, k=2, search="whitened")
    mapped = search_coordinates(points, centre_of(graph.nodes), whitening(torch.from_numpy(metrics)))
    assert len(np.unique(mapped, axis=0)) == 30
    assert graph.n_nodes == 30
    assert (graph.adjacency.data > 0).all()
    _, attached = graph.attach(points + np.array([0.0, 0.4], dtype=np.float32))
    indices, _ = graph.attach(points + np.array([0.0, 0.4], dtype=np.float32))
    assert np.isfinite(attached).all()
    assert (points[indices, 0] == points[:, None, 0]).all()  # what differs in the ignored number only is nearest


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_found(value):
    points, metrics = clustered(20, 2, 0), random_metrics(20, 2, 0).numpy()
    spoiled = points.copy()
    spoiled[7, 1] = value
    with pytest.raises(InputError, match="tokens hold NaN or infinity \\(first in row 7\\)"):
        build_graph(spoiled, k=3)
    worse = metrics.copy()
    worse[4, 2] = value
    with pytest.raises(InputError, match="metrics hold NaN or infinity \\(first at token 4\\)"):
        build_graph(points, worse, k=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": -3}, "k is -3"),
        ({"k": 20}, "only 20 distinct"),
        ({"k": 25}, "only 20 distinct"),
        ({"tokens": np.zeros((20, 2))}, "only 1 distinct"),
        ({"tokens": np.zeros((1, 2)), "metrics": None}, "1 tokens hold only 1 distinct"),
        ({"tokens": np.zeros((0, 2)), "metrics": None}, "at least one row"),
        ({"tokens": np.zeros(20), "metrics": None}, "matrix"),
        ({"tokens": np.zeros((20, 2, 1)), "metrics": None}, "matrix"),
        ({"metrics": np.ones((19, 3))}, r"need \(20, 3\)"),
        ({"metrics": np.ones((20, 4))}, r"need \(20, 3\)"),
        ({"metrics": torch.ones(20, 3, dtype=torch.int64)}, "dtype torch.int64"),
        ({"metrics": np.zeros((20, 3))}, "every edge has length zero"),
        ({"metrics": np.zeros((20, 3)), "search": "whitened"}, "metric is zero"),
        ({"metrics": np.tile([1.0, 0.0, -1.0], (20, 1))}, "negative diagonal entry \\(first at token 0\\)"),
        ({"metrics": None, "search": "whitened"}, "no metrics to whiten by"),
        ({"recall": 0.0}, "recall is 0"),
        ({"recall": 1.01}, "recall is 1.01"),
        ({"symmetrize": "sum"}, "symmetrize is 'sum'; choose 'union' or 'mutual'"),
        ({"context": "image"}, "context is 'image'"),
        ({"search": "pixel"}, "search is 'pixel'"),
        ({"length": "simpson"}, "length is 'simpson', which asks the decoder"),
        ({"length": "chord", "decoded": DecodedEdges(Sphere().train())}, "train mode"),
    ],
)
def test_bad_input_is_named(change, words):
    arguments = {"tokens": clustered(20, 2, 0), "metrics": random_metrics(20, 2, 0), "k": 3}
    with pytest.raises(InputError, match=words) as caught:
        build_graph(**(arguments | change))
    assert "\n" not in str(caught.value)


def test_as_many_neighbours_as_there_are_others_make_a_complete_graph():
    points = clustered(9, 2, 0)
    graph = build_graph(points, k=8)
    assert graph.adjacency.nnz == 72
    assert (graph.n_components, graph.n_joined) == (1, 0)
    pair = build_graph(points[:2], k=1)
    assert np.allclose(pair.adjacency.toarray()[0, 1], np.linalg.norm(points[0] - points[1]))
