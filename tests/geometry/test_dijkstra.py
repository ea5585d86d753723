"""Compiled searches against the table of all distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from geovq.geometry.paths import heap_drop, heap_push, heap_room, nearest_labels
from geovq.quantizers.two_nearest import second_nearest_labels, two_nearest_labels


def arrays(adjacency):
    return adjacency.indptr, adjacency.indices, adjacency.data


def random_graph(n, n_edges, seed, ties):
    """A symmetric graph, not always connected; with ``ties`` its lengths are 1, 2 or 3."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(n, size=(2, n_edges))
    lengths = rng.integers(1, 4, n_edges) if ties else rng.random(n_edges) + 1e-3
    upper = coo_matrix((lengths, (np.minimum(rows, columns), np.maximum(rows, columns))), shape=(n, n)).tocsr()
    upper.setdiag(0)
    upper.eliminate_zeros()
    return (upper + upper.T).tocsr().astype(np.float32)


@given(numbers=st.lists(st.floats(0, 1e6), max_size=60))
@settings(deadline=None)
def test_the_heap_sorts(numbers):
    keys, items, size = np.empty(1), np.empty(1, np.int64), 0
    for place, number in enumerate(numbers):
        keys, items = heap_room(keys, items, size, 1)
        heap_push(keys, items, size, number, place)
        size += 1
    popped = []
    while size:
        popped.append((keys[0], items[0]))
        heap_drop(keys, items, size)
        size -= 1
    assert [key for key, _ in popped] == sorted(numbers)
    assert all(numbers[item] == key for key, item in popped)
    assert sorted(item for _, item in popped) == list(range(len(numbers)))


@given(seed=st.integers(0, 10_000), n_sources=st.integers(1, 8), ties=st.booleans())
@settings(max_examples=60, deadline=None)
def test_labels_match_the_table(seed, n_sources, ties):
    adjacency = random_graph(40, 70, seed, ties)
    sources = np.random.default_rng(seed).permutation(40)[:n_sources].astype(np.int32)
    table = dijkstra(adjacency, indices=sources)
    in_order = np.sort(np.vstack((table, np.full(40, np.inf))), axis=0)
    nodes = np.arange(40)

    distance, label, predecessor = nearest_labels(*arrays(adjacency), sources)
    assert np.allclose(distance, in_order[0])
    reached = np.isfinite(distance)
    assert np.allclose(table[label[reached], nodes[reached]], distance[reached])
    assert (label[~reached] == -1).all()
    for node in np.flatnonzero(predecessor >= 0):
        before = predecessor[node]
        assert label[before] == label[node]
        assert distance[node] == pytest.approx(distance[before] + adjacency[before, node])
    assert set(np.flatnonzero(reached & (predecessor < 0))) == set(sources)

    first, first_label, second, second_label = two_nearest_labels(*arrays(adjacency), sources)
    assert np.allclose(first, in_order[0])
    assert np.allclose(second, in_order[1])
    two = np.isfinite(second)
    assert (first_label[two] != second_label[two]).all()
    assert np.allclose(table[first_label[reached], nodes[reached]], first[reached])
    assert np.allclose(table[second_label[two], nodes[two]], second[two])
    assert (second_label[~two] == -1).all()


@given(seed=st.integers(0, 10_000), n_sources=st.integers(1, 12), ties=st.booleans())
@settings(max_examples=100, deadline=None)
def test_second_nearest_cell_by_cell_are_those_of_one_search(seed, n_sources, ties):
    ring = np.arange(40)
    joined = coo_matrix((np.full(40, 3.0), (ring, np.roll(ring, 1))), shape=(40, 40)).tocsr()
    adjacency = (random_graph(40, 50, seed, ties) + joined + joined.T).tocsr().astype(np.float32)
    sources = np.random.default_rng(seed).permutation(40)[:n_sources].astype(np.int32)
    first, first_label, *expected = two_nearest_labels(*arrays(adjacency), sources)
    found = second_nearest_labels(*arrays(adjacency), first, first_label, n_sources)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
