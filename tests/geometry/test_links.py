"""Links, components and the way back of every entry against scipy's sums, searches and transposes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array
from scipy.sparse.csgraph import connected_components

from geovq.geometry import links
from geovq.geometry.links import components, mean_of_both_ways, symmetric_links


def neighbour_lists(n: int, k: int, seed: int) -> np.ndarray:
    """``(n, k)`` int32 distinct others, in no order."""
    rng = np.random.default_rng(seed)
    ranked = rng.random((n, n)) + 2 * np.eye(n)
    return ranked.argsort(axis=1)[:, :k].astype(np.int32)


def symmetric(n: int, seed: int) -> csr_matrix:
    """Positive lengths of random links, of which many nodes have none, with sorted columns."""
    half = csr_matrix(random_array((n, n), density=1.2 / n, rng=seed, dtype=np.float32))
    both = csr_matrix(half + half.T, dtype=np.float32)
    both.setdiag(0)
    both.eliminate_zeros()
    both.sort_indices()
    return both


@given(n=st.integers(2, 60), k=st.integers(1, 8), seed=st.integers(0, 999), rows=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("symmetrize", ["union", "mutual"])
def test_links_are_those_of_either_or_of_both_lists(symmetrize, n, k, seed, rows):
    lists = neighbour_lists(n, min(k, n - 1), seed)
    dense = np.zeros((n, n), dtype=bool)
    np.put_along_axis(dense, lists.astype(np.int64), True, axis=1)
    expected = csr_matrix(dense | dense.T if symmetrize == "union" else dense & dense.T)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "_BLOCK_ROWS", rows)
        found = symmetric_links(lists, symmetrize)
    assert found.dtype == bool
    assert found.data.all()
    assert np.array_equal(found.indptr, expected.indptr)
    assert np.array_equal(found.indices, expected.indices)


@given(n=st.integers(2, 80), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_components_and_means_are_those_of_scipy(n, seed):
    graph = symmetric(n, seed)
    count, labels = connected_components(graph, directed=False)
    found = components(graph)
    assert found[0] == count
    assert np.array_equal(found[1], labels)
    values = np.random.default_rng(seed).random(graph.nnz, dtype=np.float32)
    back = csr_matrix((values, graph.indices, graph.indptr), shape=graph.shape).T.tocsr().data
    expected = (values + back) * np.float32(0.5)
    mean_of_both_ways(graph, values)
    assert np.array_equal(values, expected)
