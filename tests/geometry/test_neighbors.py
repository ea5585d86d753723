"""Distinct points and neighbours against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from geovq.errors import InputError
from geovq.geometry.neighbors import distinct, nearest_neighbors


@given(n=st.integers(1, 60), d=st.integers(1, 4), levels=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_distinct_matches_a_dictionary(n, d, levels, seed):
    points = np.random.default_rng(seed).integers(-levels, levels, size=(n, d)).astype(np.float32)
    unique, inverse, counts = distinct(points)
    seen = {}
    for row in points:
        seen.setdefault(tuple(row), len(seen))
    assert [tuple(row) for row in unique] == list(seen)
    assert inverse.tolist() == [seen[tuple(row)] for row in points]
    assert counts.tolist() == np.bincount(inverse).tolist()


def test_distinct_takes_both_zeros_as_one():
    assert len(distinct(np.array([[0.0, 1.0], [-0.0, 1.0]], dtype=np.float32))[0]) == 1


def test_flat_search_matches_brute_force_far_from_the_origin():
    # Far away |x|² + |y|² − 2xy loses all digits of small distances.
    points = (np.random.default_rng(0).normal(size=(300, 5)) + 1_000).astype(np.float32)
    found = nearest_neighbors(points, 7)
    squared = cdist(points.astype(np.float64), points.astype(np.float64), "sqeuclidean")
    np.fill_diagonal(squared, np.inf)
    expected = np.sort(squared, axis=1)[:, :7]
    assert np.allclose(found.squared_distances, expected, rtol=1e-3)
    assert np.allclose(np.take_along_axis(squared, found.indices, 1), found.squared_distances, rtol=1e-3)
    assert (found.indices != np.arange(300)[:, None]).all()
    assert (found.recall, found.method) == (1.0, "flat")


def test_queries_may_be_their_own_neighbours():
    points = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    found = nearest_neighbors(points, 50, queries=points[:4])
    assert found.indices[:, 0].tolist() == [0, 1, 2, 3]
    assert (found.squared_distances[:, 0] == 0).all()
    assert (np.sort(found.indices, axis=1) == np.arange(50)).all()


@pytest.mark.parametrize("recall", [0.8, 0.99])
def test_inverted_file_reaches_its_recall(recall):
    rng = np.random.default_rng(2)
    points = (rng.normal(size=(6_000, 6)) * rng.uniform(0.1, 2, size=(6_000, 1))).astype(np.float32)
    found = nearest_neighbors(points, 10, recall=recall, exact_below=100)
    truth = nearest_neighbors(points, 10)
    true_recall = (found.squared_distances <= truth.squared_distances[:, -1:] * (1 + 1e-5)).mean()
    assert found.method.startswith("ivf")
    assert true_recall >= recall - 0.015  # measured on a sample of 1,000
    assert abs(true_recall - found.recall) < 0.02
    assert (np.diff(found.squared_distances, axis=1) >= 0).all()
    assert (found.indices != np.arange(6_000)[:, None]).all()
    gaps = np.square(points[found.indices] - points[:, None]).sum(axis=2)
    assert np.allclose(gaps, found.squared_distances, rtol=1e-4, atol=1e-6)
    assert np.array_equal(found.indices, nearest_neighbors(points, 10, recall=recall, exact_below=100).indices)


def test_lists_shorter_than_k_are_filled_by_exact_search():
    # 2,000 points in 178 lists of about 11: at low recall one list cannot hold 300 neighbours.
    points = np.random.default_rng(3).normal(size=(2_000, 2)).astype(np.float32)
    found = nearest_neighbors(points, 300, recall=0.05, exact_below=100)
    assert (found.indices >= 0).all()
    assert np.isfinite(found.squared_distances).all()


def test_bad_input_is_named():
    points = np.zeros((5, 2), dtype=np.float32)
    with pytest.raises(InputError, match="k is 5, but there are 4"):
        nearest_neighbors(points, 5)
    with pytest.raises(InputError, match="k is 0"):
        nearest_neighbors(points, 0)
    with pytest.raises(InputError, match="recall"):
        nearest_neighbors(points, 1, recall=1.5)
    with pytest.raises(InputError, match="3 dimensions"):
        nearest_neighbors(points, 1, queries=np.zeros((2, 3)))
    points[3, 1] = np.nan
    with pytest.raises(InputError, match="first in row 3"):
        distinct(points)
    with pytest.raises(InputError, match="matrix"):
        distinct(np.zeros(4))
