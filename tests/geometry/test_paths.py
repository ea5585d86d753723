"""Shortest paths against the dense Floyd–Warshall table."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import floyd_warshall

from geovq.errors import InputError
from geovq.geometry.graph import build_graph
from geovq.geometry.paths import nearest_sources, out_of_sample_nearest, shortest_path


@pytest.fixture(scope="module")
def graph():
    return build_graph(np.random.default_rng(0).normal(size=(120, 3)), k=4)


@pytest.fixture(scope="module")
def table(graph):
    return floyd_warshall(graph.adjacency)


def test_nearest_sources_match_the_table(graph, table):
    sources = np.array([17, 3, 80, 55])
    nearest = nearest_sources(graph.adjacency, sources)
    assert np.allclose(nearest.distance, table[sources].min(axis=0))
    assert np.allclose(table[sources[nearest.source], np.arange(120)], nearest.distance)
    for node in range(120):  # the path stays in its cell and its edges add up
        before = nearest.predecessor[node]
        if before >= 0:
            assert nearest.source[before] == nearest.source[node]
            assert nearest.distance[node] == pytest.approx(nearest.distance[before] + graph.adjacency[before, node])
        else:
            assert node in sources


def test_a_source_given_twice_answers_with_its_first_place(graph):
    nearest = nearest_sources(graph.adjacency, np.array([5, 9, 5]))
    assert set(nearest.source) == {0, 1}


def test_a_path_matches_the_table(graph, table):
    nodes, length = shortest_path(graph.adjacency, 4, 90)
    assert (nodes[0], nodes[-1]) == (4, 90)
    assert length == pytest.approx(table[4, 90])
    assert sum(graph.adjacency[a, b] for a, b in pairwise(nodes)) == pytest.approx(length)
    assert shortest_path(graph.adjacency, 7, 7) == ([7], 0.0)


@pytest.mark.parametrize("density", [0.02, 0.06, 0.5])
def test_paths_between_all_pairs_are_those_of_floyd_and_warshall(density):
    rng = np.random.default_rng(3)
    n = 70
    lengths = np.triu(rng.integers(1, 6, size=(n, n)) * (rng.random((n, n)) < density), 1).astype(np.float32)
    adjacency = csr_matrix(lengths + lengths.T)
    expected = floyd_warshall(adjacency)
    for a in range(0, n, 7):
        for b in range(n):
            if not np.isfinite(expected[a, b]):
                with pytest.raises(InputError, match="no path connects"):
                    shortest_path(adjacency, a, b)
                continue
            nodes, length = shortest_path(adjacency, a, b)
            assert (nodes[0], nodes[-1], length) == (a, b, expected[a, b])
            assert sum(adjacency[i, j] for i, j in pairwise(nodes)) == length
            assert all(adjacency[i, j] > 0 for i, j in pairwise(nodes))


def test_out_of_sample_points_obey_bellman(graph, table):
    sources = np.array([10, 60])
    nearest = nearest_sources(graph.adjacency, sources)
    points = np.random.default_rng(5).normal(size=(30, 3)).astype(np.float32)
    indices, lengths = graph.attach(points, k=4)
    distance, source = out_of_sample_nearest(nearest.distance, nearest.source, indices, lengths)
    for q in range(30):
        # The slow way: a graph with the point as one node more.
        rows = np.concatenate((np.full(4, 120), indices[q]))
        columns = np.concatenate((indices[q], np.full(4, 120)))
        extra = coo_matrix((np.tile(lengths[q], 2), (rows, columns)), shape=(121, 121))
        larger = graph.adjacency.copy()
        larger.resize((121, 121))
        row = floyd_warshall(larger + extra.tocsr())[120, sources]
        assert distance[q] == pytest.approx(row.min(), rel=1e-5)
        assert row[source[q]] == pytest.approx(row.min(), rel=1e-5)


def test_disconnected_and_wrong_nodes_are_named():
    pair = coo_matrix(([1.0, 1.0], ([0, 1], [1, 0])), shape=(3, 3)).tocsr()
    nearest = nearest_sources(pair, np.array([0]))
    assert nearest.source.tolist() == [0, 0, -1]
    assert np.isinf(nearest.distance[2])
    with pytest.raises(InputError, match="no path connects nodes 0 and 2"):
        shortest_path(pair, 0, 2)
    with pytest.raises(InputError, match="nodes 0 to 2"):
        nearest_sources(pair, np.array([3]))
    with pytest.raises(InputError, match="non-empty"):
        nearest_sources(pair, np.array([], dtype=int))
    with pytest.raises(InputError, match="shapes"):
        out_of_sample_nearest(np.zeros(3), np.zeros(3), np.zeros((2, 2), int), np.zeros((2, 1)))
