"""Joining edges and the closest pair against all pairs."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist

from geovq.errors import InputError
from geovq.geometry import inverted_lists
from geovq.geometry.graph import build_graph
from geovq.geometry.inverted_lists import InvertedLists
from geovq.geometry.links import closest_pair, joining_edges
from geovq.geometry.neighbors import NeighborIndex


@given(
    n=st.integers(2, 300),
    d=st.integers(1, 8),
    share=st.floats(0.01, 0.99),
    gap=st.floats(0, 20),
    seed=st.integers(0, 999),
    many=st.sampled_from([20, 1_000]),
)
@settings(max_examples=80, deadline=None)
def test_closest_pair_matches_all_pairs(n, d, share, gap, seed, many):
    rng = np.random.default_rng(seed)
    inside = rng.random(n) < share
    inside[0], inside[-1] = True, False
    points = (rng.normal(size=(n, d)) * rng.exponential(size=(n, 1)) + gap * inside[:, None]).astype(np.float32)
    with patch.multiple(inverted_lists, LINED_UP_ABOVE=many, _POINTS_PER_LIST=5):
        a, b = closest_pair(points, InvertedLists(points, seed=0), inside)
    distance = cdist(points[inside], points[~inside])
    assert inside[a]
    assert not inside[b]
    assert np.linalg.norm(points[a] - points[b]) == pytest.approx(distance.min(), rel=1e-4)


def test_closest_pair_opens_only_lists_that_can_hold_it():
    """A set all of whose members sit in few lists, one of them split by the border."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(3_000, 3)).astype(np.float32)
    inside = points[:, 0] > 0.3
    a, b = closest_pair(points, InvertedLists(points, seed=1), inside)
    assert np.linalg.norm(points[a] - points[b]) == pytest.approx(
        cdist(points[inside], points[~inside]).min(), rel=1e-5
    )


def test_a_pair_beyond_all_numbers_is_named():
    points = np.array([[-3e30], [3e30]], dtype=np.float32)
    with pytest.raises(InputError, match="overflow"):
        closest_pair(points, InvertedLists(points, seed=0), np.array([True, False]))


@given(n_blobs=st.integers(1, 6), k=st.integers(1, 4), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_joining_edges_are_those_of_a_minimum_spanning_forest(n_blobs, k, seed):
    rng = np.random.default_rng(seed)
    blobs = [rng.normal(size=(int(rng.integers(k + 1, 25)), 2)) + rng.uniform(-30, 30, 2) for _ in range(n_blobs)]
    points = np.concatenate(blobs).astype(np.float32)
    index = NeighborIndex(points)
    neighbors = index.neighbors(k)
    linked = np.zeros((len(points), len(points)), dtype=bool)
    np.put_along_axis(linked, neighbors.indices, True, axis=1)
    linked |= linked.T
    edges, n_components = joining_edges(index, csr_matrix(linked), neighbors)
    _, labels = connected_components(csr_matrix(linked))
    assert n_components == labels.max() + 1
    # Contract the components: the forest is the spanning tree of the shortest gaps between them.
    gaps = np.full((n_components, n_components), np.inf)
    np.minimum.at(gaps, (labels[:, None], labels[None, :]), cdist(points, points))
    np.fill_diagonal(gaps, 0)
    expected = minimum_spanning_tree(csr_matrix(gaps)).sum() if n_components > 1 else 0.0
    ours = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1).sum()
    assert len(edges) == n_components - 1
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_graph_of_far_sets_is_joined_in_the_coordinates_of_its_search():
    """Two sets whose closest pair differs between latents and whitened coordinates."""
    rng = np.random.default_rng(1)
    left = rng.normal(size=(30, 2)) * [1.0, 8.0]
    points = np.concatenate((left, left + np.array([60.0, 2.0]))).astype(np.float32)
    metrics = np.tile(np.array([[1.0, 0.0, 1e-4]], dtype=np.float32), (60, 1))
    latent = build_graph(points, metrics, k=4)
    whitened = build_graph(points, metrics, k=4, search="whitened")
    for graph, scale in ((latent, np.ones(2)), (whitened, np.array([1.0, 0.01]))):
        rows, columns = graph.adjacency.nonzero()
        crossing = (rows < 30) & (columns >= 30)
        assert crossing.sum() == 1
        distance = cdist(points[:30] * scale, points[30:] * scale)
        found = distance[rows[crossing][0], columns[crossing][0] - 30]
        assert found == pytest.approx(distance.min(), rel=1e-4)
