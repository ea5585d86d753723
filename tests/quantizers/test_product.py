"""Product codebooks: one block is k-means, blocks of independent axes are coded apart, axes are dealt evenly."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.quantizers import EuclideanKMeans, ProductKMeans, PullbackKMeans
from geovq.quantizers.additive_tables import principal_axes
from geovq.quantizers.product import deal_axes
from structured_cases import tokens_and_metrics


@pytest.mark.parametrize("seed", range(3))
def test_one_part_is_k_means(seed):
    tokens, metrics, _ = tokens_and_metrics()
    for flat, metric in ((EuclideanKMeans, "euclidean"), (PullbackKMeans, "pullback")):
        one = flat(20, max_iter=100, random_state=seed).fit(tokens, metrics=metrics)
        other = ProductKMeans(20, n_parts=1, metric=metric, max_iter=100, random_state=seed)
        other.fit(tokens, metrics=metrics)
        assert other.inertia_ == pytest.approx(one.inertia_, rel=1e-2)


def test_euclidean_blocks_are_each_a_k_means_of_its_own():
    tokens, _, _ = tokens_and_metrics(1_000)
    codebook = ProductKMeans(32, n_parts=2, metric="euclidean", max_iter=100).fit(tokens)
    axes = principal_axes(tokens, np.eye(4))
    y = axes.coordinates(tokens)
    blocks = deal_axes(axes.variances, (8, 4))
    apart = [
        EuclideanKMeans(size, max_iter=100, random_state=part).fit(np.ascontiguousarray(y[:, block])).inertia_
        for part, (block, size) in enumerate(zip(blocks, (8, 4), strict=True))
    ]
    assert codebook.inertia_ == pytest.approx(sum(apart), rel=2e-2)


def test_rows_of_different_parts_are_orthogonal_in_the_mean_metric():
    tokens, metrics, _ = tokens_and_metrics()
    codebook = ProductKMeans(36, n_parts=2).fit(tokens, metrics=metrics)
    # Differences of rows lie in the block of the part.
    one, other = (np.diff(table.astype(np.float64), axis=0) for table in codebook.tables_)
    inner = one @ codebook.mean_metric_ @ other.T
    lengths = np.sqrt([np.einsum("ki,ij,kj->k", x, codebook.mean_metric_, x) for x in (one, other)])
    assert np.abs(inner / lengths[0][:, None] / lengths[1]).max() < 1e-3
    assert [np.linalg.matrix_rank(x, tol=1e-3 * np.abs(x).max()) for x in (one, other)] == [2, 2]


def test_principal_axes_are_uncorrelated_and_keep_lengths():
    tokens, _, full = tokens_and_metrics()
    metric = full.mean(axis=0)
    axes = principal_axes(tokens, metric)
    y = axes.coordinates(tokens).astype(np.float64)
    covariance = y.T @ y / len(y)
    assert covariance == pytest.approx(np.diag(axes.variances), abs=1e-4 * axes.variances[0])
    error = tokens - axes.origin
    assert np.square(y).sum(axis=1) == pytest.approx(np.einsum("ni,ij,nj->n", error, metric, error), rel=1e-3)
    assert axes.origin + y @ axes.directions.T == pytest.approx(tokens, abs=1e-3)


@given(logs=st.lists(st.floats(-5, 5), min_size=6, max_size=6), sizes=st.sampled_from([(8, 8), (32, 16), (4, 4, 4)]))
@settings(max_examples=50, deadline=None)
def test_axes_are_dealt_evenly(logs, sizes):
    variances = np.exp(np.sort(logs)[::-1])
    blocks = deal_axes(variances, sizes)
    assert sorted(np.concatenate(blocks)) == list(range(6))
    assert len({len(block) for block in blocks}) == 1

    def imbalance(parts):
        loads = [
            np.log(variances[list(part)]).sum() - 2 * np.log(size) for part, size in zip(parts, sizes, strict=True)
        ]
        return max(loads) - min(loads)

    dealt = imbalance(blocks)
    worst = max(imbalance(np.array_split(order, len(sizes))) for order in itertools.permutations(range(6)))
    rounding = 1e-12
    assert dealt <= worst + rounding
    if worst > 1e-6:
        assert dealt <= max(0.75 * worst, np.ptp(np.log(variances)) + 2 * np.log(2)) + rounding


def test_parts_that_do_not_divide_are_refused():
    tokens, metrics, _ = tokens_and_metrics(50)
    for n_parts in (3, 0, 8):
        with pytest.raises(
            InputError,
            match=f"n_parts is {n_parts}, which does not divide the 4 dimensions of the tokens; choose one of 1, 2, 4",
        ):
            ProductKMeans(512, n_parts=n_parts).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match="K=3 cannot be split into 2 sizes of at least 2"):
        ProductKMeans(3, n_parts=2).fit(tokens, metrics=metrics)
