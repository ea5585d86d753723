"""Scalar codebooks: best levels and best numbers of them, against trying everything."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.quantizers import ScalarLevels
from geovq.quantizers.scalar import lengths_along
from geovq.quantizers.scalar_levels import best_levels, share_levels
from structured_cases import tokens_and_metrics


def slow_levels(values, weights, n_levels):
    """The best of all ways to cut the sorted values in pieces."""
    order = np.argsort(values)
    y, w = values[order], weights[order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(y)), n_levels - 1):
        total = 0.0
        for a, b in itertools.pairwise((0, *cuts, len(y))):
            if w[a:b].sum() > 0:
                total += (w[a:b] * np.square(y[a:b] - np.average(y[a:b], weights=w[a:b]))).sum()
        best = min(best, total)
    return best


@given(seed=st.integers(0, 500), n=st.integers(5, 11), rounded=st.booleans())
@settings(max_examples=40, deadline=None)
def test_levels_are_the_best_of_all(seed, n, rounded):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=n).round() if rounded else rng.normal(size=n)) * 3
    weights = rng.exponential(size=n) * (rng.random(n) > 0.2) + 1e-3
    levels = best_levels(values.astype(np.float32), weights.astype(np.float32), 5)
    for n_levels in range(1, 6):
        assert levels.distortions[n_levels - 1] == pytest.approx(slow_levels(values, weights, n_levels), abs=1e-4)
        placed = levels.values(n_levels)
        assert (np.diff(placed) >= 0).all()
        reached = (weights * np.square(values[:, None] - placed).min(axis=1)).sum()
        assert reached == pytest.approx(levels.distortions[n_levels - 1], abs=1e-4)
    assert (np.diff(levels.distortions) <= 0).all()


def test_levels_of_a_gaussian_are_those_of_max():
    # Max 1960, table 1: outermost level and distortion of the best 4- and 8-level quantizers of a unit Gaussian.
    values = np.random.default_rng(0).normal(size=400_000).astype(np.float32)
    levels = best_levels(values, None, 8)
    for n_levels, outermost, distortion in ((2, 0.7980, 0.3634), (4, 1.510, 0.1175), (8, 2.152, 0.03454)):
        assert levels.values(n_levels)[-1] == pytest.approx(outermost, rel=0.02)
        assert levels.distortions[n_levels - 1] / len(values) == pytest.approx(distortion, rel=0.02)


@given(seed=st.integers(0, 500), n_codes=st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_levels_are_shared_as_well_as_possible(seed, n_codes):
    rng = np.random.default_rng(seed)
    distortions = [np.sort(rng.exponential(size=12) ** 3)[::-1] for _ in range(3)]
    levels = share_levels(distortions, n_codes)
    assert np.prod(levels) <= n_codes

    def total(numbers):
        return sum(each[number - 1] for each, number in zip(distortions, numbers, strict=True))

    least = min(total(numbers) for numbers in itertools.product(range(1, 13), repeat=3) if np.prod(numbers) <= n_codes)
    assert total(levels) == pytest.approx(least)


def test_axes_that_do_not_pay_have_no_slot():
    rng = np.random.default_rng(0)
    tokens = (rng.normal(size=(2_000, 4)) * [10, 10, 0.1, 0.1]).astype(np.float32)
    codebook = ScalarLevels(64, metric="euclidean").fit(tokens)
    assert codebook.code_sizes_ == (8, 8)
    # A distortion of 0.03454 per unit variance (Max 1960) on two axes, all of it on the others.
    assert codebook.inertia_ / 2_000 == pytest.approx(2 * 100 * 0.03454 + 2 * 0.01, rel=0.1)


def test_metrics_decide_which_axes_pay():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(1_000, 3)).astype(np.float32)
    metrics = torch.tensor([[100.0, 0, 0, 1, 0, 1]]).expand(1_000, -1)
    table = ScalarLevels(4).fit(tokens, metrics=metrics).tables_
    assert len(table) == 1
    assert np.ptp(table[0], axis=0) == pytest.approx([3.0, 0, 0], abs=0.3)


@given(seed=st.integers(0, 20), n_codes=st.integers(2, 300))
@settings(max_examples=15, deadline=None)
def test_there_are_never_more_codes_than_k(seed, n_codes):
    tokens, metrics, _ = tokens_and_metrics(300, 4, seed)
    codebook = ScalarLevels(n_codes, max_iter=3).fit(tokens, metrics=metrics)
    assert 2 <= np.prod(codebook.code_sizes_) <= n_codes
    assert min(codebook.code_sizes_) >= 2


def test_lengths_along_directions_are_quadratic_forms():
    _, metrics, full = tokens_and_metrics(50)
    directions = np.random.default_rng(1).normal(size=(4, 3))
    expected = np.einsum("ir,nij,jr->nr", directions, full + 0.5 * np.eye(4), directions)
    assert lengths_along(metrics, directions, 0.5) == pytest.approx(expected, rel=1e-3)


def test_one_code_is_refused():
    tokens, metrics, _ = tokens_and_metrics(50)
    with pytest.raises(InputError, match="n_codes is 1; it must be at least 2"):
        ScalarLevels(1).fit(tokens, metrics=metrics)
