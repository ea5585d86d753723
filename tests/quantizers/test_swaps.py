"""Prices of swaps and repaired cells against the table of all distances."""

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import dijkstra

from geovq.geometry.graph import build_graph
from geovq.quantizers.swaps import cells_of, price_candidates, replace_medoid, swap_candidates


def problem(ties, seed=1):
    points = np.random.default_rng(seed).normal(size=(500, 3)).astype(np.float32)
    if ties:
        points = np.round(points * 2)  # a lattice: many nodes, medoids and paths at equal distances
    graph = build_graph(points, k=8)
    adjacency = graph.adjacency
    arrays = (adjacency.indptr, adjacency.indices, adjacency.data)
    return arrays, graph.counts.astype(np.float64), dijkstra(adjacency.astype(np.float64))


def cost_of(table, weights, medoids, exponent):
    return float(weights @ table[medoids].min(axis=0) ** exponent)


def best_swap(table, weights, medoids, x, exponent):
    """The lowest cost with ``x`` in place of any medoid."""
    trials = [np.where(np.arange(len(medoids)) == code, x, medoids) for code in range(len(medoids))]
    return min(cost_of(table, weights, trial, exponent) for trial in trials)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("exponent", [1, 2])
@pytest.mark.parametrize("n_codes", [1, 2, 3, 25])
def test_prices_and_repairs_are_exact(ties, exponent, n_codes):
    graph, weights, table = problem(ties)
    rng = np.random.default_rng(0)
    medoids = rng.choice(len(weights), n_codes, replace=False).astype(np.int32)
    cells = cells_of(graph, weights, medoids, exponent)
    for _ in range(5):
        before = cost_of(table, weights, cells.medoids, exponent)
        candidates = rng.choice(len(weights), 20, replace=False).astype(np.int32)
        gains, codes = price_candidates(graph, weights, cells, candidates, exponent)
        for x, gain, code in zip(candidates, gains, codes, strict=True):
            if x in cells.medoids:
                assert gain == 0
                continue
            assert before - gain == pytest.approx(best_swap(table, weights, cells.medoids, x, exponent))
            swapped = cells.medoids.copy()
            swapped[code] = x
            assert before - gain == pytest.approx(cost_of(table, weights, swapped, exponent))
        fell = swap_candidates(graph, weights, cells, candidates, exponent)
        assert fell >= 0
        assert before - fell == pytest.approx(cost_of(table, weights, cells.medoids, exponent))
        assert len(set(cells.medoids)) == n_codes
        again = cells_of(graph, weights, cells.medoids, exponent)
        for repaired, computed in zip(cells, again, strict=True):
            assert np.allclose(repaired, computed)


@pytest.mark.parametrize("ties", [False, True])
def test_long_chains_of_replacements_leave_no_trace(ties):
    """Also replacements that raise the cost, and medoids next to each other."""
    graph, weights, _ = problem(ties, seed=2)
    rng = np.random.default_rng(3)
    cells = cells_of(graph, weights, rng.choice(len(weights), 12, replace=False).astype(np.int32), 2)
    mark = np.zeros(len(weights), dtype=bool)
    keys, items = np.empty(8), np.empty(8, np.int64)
    for _ in range(300):
        x = rng.choice(np.setdiff1d(np.arange(len(weights)), cells.medoids))
        keys, items = replace_medoid(graph, weights, cells, np.int32(x), int(rng.integers(12)), 2, mark, keys, items)
    assert not mark.any()
    for repaired, computed in zip(cells, cells_of(graph, weights, cells.medoids, 2), strict=True):
        assert np.allclose(repaired, computed)


def test_the_number_of_threads_does_not_matter():
    graph, weights, _ = problem(ties=False)
    threads = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            cells = cells_of(graph, weights, np.arange(30, dtype=np.int32), 2)
            swap_candidates(graph, weights, cells, np.arange(40, 300, dtype=np.int32), 2)
            found.append(cells.medoids)
            assert torch.get_num_threads() == n_threads  # numba's own threads would have raised it
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(found[0], medoids) for medoids in found)
    assert not np.array_equal(found[0], np.arange(30))
