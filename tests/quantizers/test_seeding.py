"""Draws of seeds against their definition."""

import numpy as np
import pytest

from geovq.errors import InputError
from geovq.geometry.graph import build_graph
from geovq.quantizers import lloyd
from geovq.quantizers.seeding import draw_in_proportion, geodesic_seeds
from geovq.quantizers.two_nearest import two_nearest_labels


def arrays(points, k=6):
    graph = build_graph(points, k=k)
    adjacency = graph.adjacency
    return (adjacency.indptr, adjacency.indices, adjacency.data), graph.counts.astype(float)


def test_draws_follow_their_weights_without_repeating():
    rng = np.random.default_rng(0)
    weights = np.array([0.0, 1.0, 2.0, 5.0])
    draws = np.array([draw_in_proportion(weights, 1, rng)[0] for _ in range(4_000)])
    assert np.bincount(draws, minlength=4) / 4_000 == pytest.approx(weights / 8, abs=0.03)
    for _ in range(20):
        assert sorted(draw_in_proportion(weights, 3, rng)) == [1, 2, 3]


@pytest.mark.parametrize("exponent", [1, 2])
def test_seeds_follow_weight_times_distance(exponent):
    """On a path of four nodes the second seed is drawn by weight times distance to the first."""
    points = np.array([[0.0], [1.0], [3.0], [3.0], [6.0]], dtype=np.float32)
    graph, weights = arrays(points, k=1)
    assert weights.tolist() == [1, 1, 2, 1]
    rng = np.random.default_rng(0)
    start = np.array([0], dtype=np.int32)
    draws = [geodesic_seeds(graph, weights, 2, exponent, rng, initial=start).nodes[1] for _ in range(4_000)]
    chances = weights * np.array([0.0, 1.0, 3.0, 6.0]) ** exponent
    assert np.bincount(draws, minlength=4) / 4_000 == pytest.approx(chances / chances.sum(), abs=0.03)


def test_all_nodes_can_be_seeds_once():
    points = np.random.default_rng(1).normal(size=(3_000, 2)).astype(np.float32)
    graph, weights = arrays(points)
    seeds = geodesic_seeds(graph, weights, 3_000, 2, np.random.default_rng(0)).nodes
    assert sorted(seeds) == list(range(3_000))
    warm = geodesic_seeds(graph, weights, 40, 2, np.random.default_rng(0), initial=seeds[:25]).nodes
    assert np.array_equal(warm[:25], seeds[:25])
    assert len(set(warm)) == 40


@pytest.mark.parametrize("n_initial", [0, 1, 7])
def test_seeds_know_whom_they_are_nearest_to(n_initial):
    """On a lattice, where many are equally near, as on other points."""
    rng = np.random.default_rng(2)
    for points in (rng.normal(size=(500, 2)), np.indices((20, 25)).reshape(2, -1).T):
        graph, weights = arrays(points.astype(np.float32))
        initial = rng.choice(500, n_initial, replace=False).astype(np.int32) if n_initial else None
        seeds = geodesic_seeds(graph, weights, 30, 2, np.random.default_rng(0), initial=initial)
        distance, label, _, _ = two_nearest_labels(*graph, seeds.nodes)
        assert np.array_equal(seeds.distance, distance)
        assert np.array_equal(seeds.label, label)


def test_a_graph_in_pieces_is_refused():
    pieces = (np.array([0, 1, 2, 2]), np.array([1, 0], dtype=np.int32), np.ones(2, dtype=np.float32))
    with pytest.raises(InputError, match="not connected"):
        geodesic_seeds(pieces, np.ones(3), 2, 2, np.random.default_rng(0))


@pytest.mark.parametrize("together", [1, 16])
def test_greedy_seeds_are_distinct_and_as_good_when_drawn_together(together, monkeypatch):
    monkeypatch.setattr(lloyd, "_MANY_CODES", 30)
    monkeypatch.setattr(lloyd, "_SEEDS_TOGETHER", together)
    points = np.random.default_rng(0).normal(size=(2_000, 3)).astype(np.float32)
    asked = []

    def costs_among(sample, rows):
        assert np.array_equal(points[rows], sample)

        def costs(trials):
            asked.append(len(trials))
            return np.square(sample[trials, None] - sample).sum(axis=2)

        return costs

    def cost(n_codes, seed):
        seeds = lloyd.greedy_seeds(points, n_codes, seed, costs_among)
        assert len(np.unique(seeds, axis=0)) == n_codes
        return np.square(points[:, None] - seeds).sum(axis=2).min(axis=1).sum()

    found = [cost(100, seed) for seed in range(5)]
    n_trials = 2 + int(np.log(100))
    assert asked[1] == together * n_trials
    assert sum(asked[1 : len(asked) // 5]) == 99 * n_trials
    monkeypatch.setattr(lloyd, "_MANY_CODES", 100)  # one after the other
    alone = [cost(100, seed) for seed in range(5)]
    assert np.mean(found) == pytest.approx(np.mean(alone), rel=0.03)
    assert cost(2_000, 0) == 0.0
