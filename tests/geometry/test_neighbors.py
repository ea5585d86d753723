"""Distinct points and neighbours against brute force."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from geovq.errors import InputError
from geovq.geometry import inverted_lists
from geovq.geometry.flat_search import DeviceSearch
from geovq.geometry.neighbors import NeighborIndex, distinct


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
    found = NeighborIndex(points).neighbors(7)
    squared = cdist(points.astype(np.float64), points.astype(np.float64), "sqeuclidean")
    np.fill_diagonal(squared, np.inf)
    expected = np.sort(squared, axis=1)[:, :7]
    assert np.allclose(found.squared_distances, expected, rtol=1e-3)
    assert np.allclose(np.take_along_axis(squared, found.indices, 1), found.squared_distances, rtol=1e-3)
    assert (found.indices != np.arange(300)[:, None]).all()
    assert (found.recall, found.method) == (1.0, "flat")


def test_queries_may_be_their_own_neighbours():
    points = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    found = NeighborIndex(points).search(points[:4], 50)
    assert found.indices[:, 0].tolist() == [0, 1, 2, 3]
    assert (found.squared_distances[:, 0] == 0).all()
    assert (np.sort(found.indices, axis=1) == np.arange(50)).all()


@pytest.mark.parametrize("recall", [0.8, 0.99])
def test_inverted_file_reaches_its_recall(recall):
    rng = np.random.default_rng(2)
    points = (rng.normal(size=(6_000, 6)) * rng.uniform(0.1, 2, size=(6_000, 1))).astype(np.float32)
    found = NeighborIndex(points, recall=recall, exact_below=100).neighbors(10)
    truth = NeighborIndex(points).neighbors(10)
    true_recall = (found.squared_distances <= truth.squared_distances[:, -1:] * (1 + 1e-5)).mean()
    assert found.method.startswith("lists")
    assert true_recall >= recall - 0.015  # measured on a sample of 1,000
    assert abs(true_recall - found.recall) < 0.02
    assert (np.diff(found.squared_distances, axis=1) >= 0).all()
    assert (found.indices != np.arange(6_000)[:, None]).all()
    gaps = np.square(points[found.indices] - points[:, None]).sum(axis=2)
    assert np.allclose(gaps, found.squared_distances, rtol=1e-4, atol=1e-6)
    assert np.array_equal(found.indices, NeighborIndex(points, recall=recall, exact_below=100).neighbors(10).indices)


def test_lists_shorter_than_k_are_searched_again_in_all():
    # 2,000 points in 178 lists of about 11: at low recall one list cannot hold 300 neighbours.
    points = np.random.default_rng(3).normal(size=(2_000, 2)).astype(np.float32)
    found = NeighborIndex(points, recall=0.05, exact_below=100).neighbors(300)
    short = NeighborIndex(points, recall=1.0, exact_below=10_000).neighbors(300)
    assert (found.indices >= 0).all()
    assert (found.squared_distances >= short.squared_distances).all()
    assert found.recall < 1


@given(
    n=st.integers(5, 400),
    d=st.integers(1, 9),
    k=st.integers(1, 4),
    seed=st.integers(0, 1_000),
    offset=st.sampled_from([0.0, 500.0]),
    many=st.sampled_from([20, 1_000]),
)
@settings(max_examples=60, deadline=None)
def test_full_recall_of_the_lists_is_brute_force(n, d, k, seed, offset, many):
    rng = np.random.default_rng(seed)
    spread = rng.exponential(size=(n, 1))
    points = (rng.normal(size=(n, d)) * spread + rng.integers(0, 3, size=(n, 1)) * 8 + offset).astype(np.float32)
    with patch.multiple(inverted_lists, LINED_UP_ABOVE=many, _POINTS_PER_LIST=5):
        found = NeighborIndex(points, recall=1.0, exact_below=0).neighbors(k)
    squared = cdist(points.astype(np.float64), points.astype(np.float64), "sqeuclidean")
    np.fill_diagonal(squared, np.inf)
    assert found.recall == 1.0
    assert found.method.startswith("lists")
    assert np.allclose(found.squared_distances, np.sort(squared, axis=1)[:, :k], rtol=1e-4, atol=1e-9 * offset**2)
    assert np.allclose(np.take_along_axis(squared, found.indices, 1), found.squared_distances, rtol=1e-4)


@pytest.mark.parametrize("exact_below", [100, 10_000])
def test_an_index_answers_every_query_the_same_in_any_company(exact_below):
    rng = np.random.default_rng(4)
    points = rng.normal(size=(5_000, 4)).astype(np.float32)
    queries = np.concatenate((rng.normal(size=(600, 4)), points[:3])).astype(np.float32)
    index = NeighborIndex(points, recall=0.9, exact_below=exact_below)
    together = index.search(queries, 6)
    order = rng.permutation(len(queries))
    assert np.array_equal(index.search(queries[order], 6).indices, together.indices[order])
    for row in (0, 5, 601):
        alone = index.search(queries[row : row + 1], 6)
        assert np.array_equal(alone.indices[0], together.indices[row])
        assert np.array_equal(alone.squared_distances[0], together.squared_distances[row])
    assert together.indices[600:, 0].tolist() == [0, 1, 2]
    assert np.array_equal(NeighborIndex(points, 0.9, 0, exact_below).search(queries, 6).indices, together.indices)


def test_recall_holds_for_points_that_the_index_never_saw():
    rng = np.random.default_rng(5)
    everything = (rng.normal(size=(9_000, 5)) * rng.uniform(0.2, 1, size=(9_000, 1))).astype(np.float32)
    points, queries = everything[:8_000], everything[8_000:]
    found = NeighborIndex(points, recall=0.95, exact_below=100).search(queries, 10)
    truth = np.sort(cdist(queries, points, "sqeuclidean"), axis=1)[:, 9:10]
    assert (found.squared_distances <= truth * (1 + 1e-5)).mean() > 0.93
    assert 0.95 <= found.recall < 1


def test_an_index_lined_up_finds_the_same_and_another_knows_its_lists(monkeypatch):
    rng = np.random.default_rng(6)
    points, queries = rng.normal(size=(3_000, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    index = NeighborIndex(points, recall=0.9, exact_below=100)
    assert index.line_up() is None  # too few
    monkeypatch.setattr(inverted_lists, "LINED_UP_ABOVE", 1_000)
    before = NeighborIndex(points, recall=0.9, exact_below=100)
    index = NeighborIndex(points, recall=0.9, exact_below=100)
    order = index.line_up()
    assert np.array_equal(index.points, points[order])
    plain, lined = before.neighbors(5), index.neighbors(5)
    assert np.allclose(plain.squared_distances[order], lined.squared_distances, atol=1e-5, rtol=0.5)
    assert (plain.squared_distances[order] == lined.squared_distances).mean() > 0.95  # other rows measure the recall
    truth = np.sort(cdist(index.points, index.points, "sqeuclidean"), axis=1)[:, 5:6]
    assert (lined.squared_distances <= truth * (1 + 1e-5)).mean() > 0.88
    monkeypatch.setattr(inverted_lists.InvertedLists, "visits_for_recall", None)
    known = NeighborIndex(index.points, recall=0.9, exact_below=100, known=index.known()).search(queries, 5)
    for found, expected in zip(known, index.search(queries, 5), strict=True):
        assert np.array_equal(found, expected)


@given(n=st.integers(2, 300), d=st.integers(1, 6), seed=st.integers(0, 1_000), lattice=st.booleans())
@settings(max_examples=40, deadline=None)
def test_search_on_a_device_is_the_flat_search(n, d, seed, lattice):
    """The device's route run on the CPU; a lattice has duplicates, and many neighbours at one distance."""
    rng = np.random.default_rng(seed)
    points = rng.integers(-2, 3, size=(n, d)) if lattice else rng.normal(size=(n, d)) + 30
    points = points.astype(np.float32)
    k = min(n - 1, 7)
    flat, device = NeighborIndex(points), NeighborIndex(points)
    device._flat = DeviceSearch(device.centred, "cpu", block_numbers=1_000)
    for ours, theirs in (
        (device.neighbors(k), flat.neighbors(k)),
        (device.search(points[:9], k), flat.search(points[:9], k)),
    ):
        assert np.array_equal(ours.squared_distances, theirs.squared_distances)
        if not lattice:
            assert np.array_equal(ours.indices, theirs.indices)
        gaps = np.square(points[ours.indices] - points[: len(ours.indices), None]).sum(axis=2)
        assert np.allclose(gaps, ours.squared_distances, rtol=1e-5)
        assert all(len(set(row)) == k for row in ours.indices.tolist())


@pytest.mark.gpu
def test_search_on_cuda_is_the_flat_search():
    points = np.random.default_rng(6).normal(size=(30_000, 16)).astype(np.float32)
    torch.set_float32_matmul_precision("high")
    try:
        device = NeighborIndex(points, device="cuda").neighbors(20)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    flat = NeighborIndex(points, exact_below=100_000).neighbors(20)
    assert (device.indices == flat.indices).mean() > 0.9999
    assert np.allclose(device.squared_distances, flat.squared_distances, rtol=1e-6)


def test_equal_distances_go_to_the_lower_index():
    points = np.array([[0.0], [1.0], [-1.0], [2.0], [-2.0]], dtype=np.float32)
    assert NeighborIndex(points).neighbors(4).indices[0].tolist() == [1, 2, 3, 4]


def test_huge_coordinates_are_named():
    points = np.array([[-3e30], [3e30], [1.0]], dtype=np.float32)
    with pytest.raises(InputError, match="overflow float32"):
        NeighborIndex(points).neighbors(2)


def test_bad_input_is_named():
    points = np.zeros((5, 2), dtype=np.float32)
    with pytest.raises(InputError, match="k is 5, but there are 4 points"):
        NeighborIndex(points).neighbors(5)
    with pytest.raises(InputError, match="k is 0"):
        NeighborIndex(points).neighbors(0)
    with pytest.raises(InputError, match="recall"):
        NeighborIndex(points, recall=1.5).neighbors(1)
    with pytest.raises(InputError, match="3 dimensions"):
        NeighborIndex(points).search(np.zeros((2, 3)), 1)
    with pytest.raises(InputError, match="k is 6, but there are 5"):
        NeighborIndex(points).search(points, 6)
    with pytest.raises(InputError, match="k is 1, but there are 0"):
        NeighborIndex(points[:1]).neighbors(1)
    points[3, 1] = np.nan
    with pytest.raises(InputError, match="first in row 3"):
        distinct(points)
    with pytest.raises(InputError, match="matrix"):
        distinct(np.zeros(4))
