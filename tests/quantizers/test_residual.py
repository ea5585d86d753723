"""Residual codebooks: one stage is a flat codebook, and stages fitted together beat greedy ones."""

import numpy as np
import pytest

from geovq.errors import InputError
from geovq.quantizers import EuclideanKMeans, PullbackKMeans, ResidualKMeans
from structured_cases import tokens_and_metrics


@pytest.mark.parametrize("seed", range(3))
def test_one_stage_is_a_flat_codebook(seed):
    tokens, metrics, _ = tokens_and_metrics()
    for flat, metric in ((EuclideanKMeans, "euclidean"), (PullbackKMeans, "pullback")):
        one = flat(20, max_iter=100, random_state=seed).fit(tokens, metrics=metrics)
        other = ResidualKMeans(20, n_stages=1, metric=metric, max_iter=100, random_state=seed)
        other.fit(tokens, metrics=metrics)
        assert other.inertia_ == pytest.approx(one.inertia_, rel=1e-3)
        assert other.tables_[0] == pytest.approx(one.cluster_centers_, abs=0.05)
        assert (other.labels_[:, 0] == one.labels_).mean() > 0.98


def test_tokens_that_are_sums_are_found_again():
    rng = np.random.default_rng(0)
    first, second = 10 * rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    tokens = (first[rng.integers(4, size=600)] + second[rng.integers(4, size=600)]).astype(np.float32)
    codebook = ResidualKMeans(16, n_stages=2, metric="euclidean").fit(tokens)
    assert codebook.inertia_ == pytest.approx(0, abs=1e-2)
    assert np.abs(codebook.decode(codebook.labels_) - tokens).max() < 0.01


def test_sizes_are_as_even_as_k_allows():
    tokens, metrics, _ = tokens_and_metrics()
    for n_codes, n_stages, sizes in ((64, 3, (4, 4, 4)), (32, 2, (8, 4)), (8, 3, (2, 2, 2))):
        assert ResidualKMeans(n_codes, n_stages=n_stages).fit(tokens, metrics=metrics).code_sizes_ == sizes


def test_the_joint_fit_gains_on_greedy_stages():
    tokens, metrics, _ = tokens_and_metrics(2_000)
    history = ResidualKMeans(64, n_stages=3).fit(tokens, metrics=metrics).cost_history_
    assert history[-1] < 0.9 * history[0]


def test_later_stages_are_zero_on_average():
    tokens, metrics, _ = tokens_and_metrics()
    codebook = ResidualKMeans(64, n_stages=3).fit(tokens, metrics=metrics)
    spread = np.abs(tokens - tokens.mean(axis=0)).mean()
    for slot in (1, 2):
        mean = codebook.tables_[slot][codebook.labels_[:, slot]].mean(axis=0)
        assert np.abs(mean).max() < 0.05 * spread


def test_k_too_small_for_the_stages_is_refused():
    tokens, metrics, _ = tokens_and_metrics(50)
    with pytest.raises(InputError, match="K=7 cannot be split into 3 sizes of at least 2: take K >= 8"):
        ResidualKMeans(7, n_stages=3).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match="0 parts"):
        ResidualKMeans(8, n_stages=0).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match=r"n_codes is 1024, which makes slots of \(1024,\) codes, .* only 50 distinct"):
        ResidualKMeans(1024, n_stages=1).fit(tokens, metrics=metrics)
