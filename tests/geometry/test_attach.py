"""Attaching points: settings of the graph, coincidence, and one index for all calls."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from geovq.errors import InputError
from geovq.geometry import neighbors
from geovq.geometry.edges import DecodedEdges
from geovq.geometry.graph import TokenGraph, build_graph
from geovq.geometry.symmetric import pack_symmetric
from surfaces import Sphere


def random_metrics(n, d, seed=0):
    factors = np.random.default_rng(seed).normal(size=(n, d, d)).astype(np.float32)
    return pack_symmetric(torch.from_numpy(factors @ factors.transpose(0, 2, 1)))


def test_recall_seed_and_k_are_the_graph_s(monkeypatch):
    points = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    graph = build_graph(points, k=7, recall=0.6, seed=5)
    seen = []

    class Recorded(neighbors.NeighborIndex):
        def __init__(self, points, recall, seed, **more):
            seen.append((len(points), recall, seed, more))
            super().__init__(points, recall, seed, **more)

    monkeypatch.setattr("geovq.geometry.graph.NeighborIndex", Recorded)
    again = TokenGraph.from_arrays(graph.to_arrays(), graph.attributes())
    indices, _ = again.attach(points[:4] + 0.01)
    again.attach(points + 0.01, k=3)
    again.attach(points[:1])
    assert indices.shape == (4, 7)
    assert seen == [(80, 0.6, 5, {"device": None, "known": None})]  # one index for three calls


def test_a_point_is_attached_the_same_in_any_company():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(25_000, 3)).astype(np.float32)  # enough for approximate search
    graph = build_graph(points, random_metrics(25_000, 3), k=5, recall=0.9, search="whitened")
    queries = np.concatenate((rng.normal(size=(300, 3)), points[:20])).astype(np.float32)
    indices, lengths = graph.attach(queries)
    for row in (0, 17, 310):
        alone, its_lengths = graph.attach(queries[row : row + 1])
        assert np.array_equal(alone[0], indices[row])
        assert np.array_equal(its_lengths[0], lengths[row])
    assert indices[300:, 0].tolist() == list(range(20))
    assert (lengths[300:, 0] == 0).all()
    assert np.isinf(lengths[300:, 1:]).all()
    assert graph.recall < 1


def test_whitened_search_finds_the_nearest_by_the_mean_metric():
    rng = np.random.default_rng(2)
    points, queries = rng.normal(size=(200, 2)).astype(np.float32), rng.normal(size=(9, 2)).astype(np.float32)
    metrics = np.tile(np.array([[100.0, 0.0, 0.01]], dtype=np.float32), (200, 1))
    graph = build_graph(points, metrics, k=4, search="whitened")
    indices, lengths = graph.attach(queries)
    distance = cdist(queries * [10, 0.1], points * [10, 0.1])
    assert np.array_equal(indices, np.argsort(distance, axis=1)[:, :4])
    assert np.allclose(lengths, np.sort(distance, axis=1)[:, :4], rtol=1e-4)
    assert not np.array_equal(indices, build_graph(points, metrics, k=4).attach(queries)[0])


def test_metrics_of_points_may_be_half_as_wide():
    points = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
    metrics = random_metrics(40, 3).bfloat16()
    graph = build_graph(points, metrics.float(), k=4)
    own = random_metrics(6, 3, seed=1).bfloat16()
    found, expected = graph.attach(points[:6] + 0.1, own), graph.attach(points[:6] + 0.1, own.float())
    assert np.array_equal(found[1], expected[1])


def test_bad_input_is_named():
    points = np.random.default_rng(4).normal(size=(30, 2)).astype(np.float32)
    euclidean, measured = build_graph(points, k=3), build_graph(points, random_metrics(30, 2), k=3)
    with pytest.raises(InputError, match="Euclidean lengths"):
        euclidean.attach(points, random_metrics(30, 2))
    with pytest.raises(InputError, match="points have 3 dimensions, the graph's nodes 2"):
        measured.attach(np.zeros((4, 3)))
    with pytest.raises(InputError, match=r"need \(4, 3\)"):
        measured.attach(points[:4], np.ones((5, 3)))
    with pytest.raises(InputError, match="points hold NaN"):
        measured.attach(np.full((1, 2), np.nan))
    with pytest.raises(InputError, match="k is 0"):
        measured.attach(points, k=0)
    with pytest.raises(InputError, match="matrix"):
        measured.attach(points[0])
    chords = build_graph(points, k=3, length="chord", decoded=DecodedEdges(Sphere()))
    with pytest.raises(InputError, match="build it with metrics"):
        chords.attach(points)
