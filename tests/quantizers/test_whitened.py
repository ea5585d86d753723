"""k-means in a constant metric against k-means of mapped coordinates, and against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.cluster import KMeans

from geovq.errors import InputError
from geovq.geometry.metric import posterior_metrics
from geovq.geometry.symmetric import pack_symmetric
from geovq.models.tokens import tokens_of
from geovq.quantizers import EuclideanKMeans, PosteriorKMeans, WhitenedKMeans, euclidean


def tokens_and_metrics(n=2_000, d=5, seed=0, rank=3):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(n, d)).astype(np.float32)
    factors = rng.normal(size=(n, d, rank)) * np.geomspace(0.2, 3, d)[:, None]
    return tokens, pack_symmetric(torch.from_numpy(factors @ factors.transpose(0, 2, 1))), factors


def test_cost_is_within_two_percent_of_scikit_learn_in_mapped_coordinates():
    tokens, metrics, factors = tokens_and_metrics()
    mean = np.einsum("nik,njk->ij", factors, factors) / len(tokens)
    mapped = tokens @ sqrtm(mean + 1e-3 * np.trace(mean) / 5 * np.eye(5)).real
    ours = np.mean([WhitenedKMeans(40, random_state=s).fit(tokens, metrics=metrics).inertia_ for s in range(3)])
    theirs = np.mean([KMeans(40, n_init=1, random_state=s).fit(mapped).inertia_ for s in range(3)])
    assert ours <= 1.02 * theirs


@pytest.mark.parametrize("scaling", ["full", "diagonal"])
def test_attributes_obey_their_definitions(scaling):
    tokens, metrics, factors = tokens_and_metrics()
    tokens += 30
    kmeans = WhitenedKMeans(15, scaling=scaling, ridge=1e-2, max_iter=8).fit(tokens, metrics=metrics)
    mean = np.einsum("nik,njk->ij", factors, factors) / len(tokens)
    metric = (mean if scaling == "full" else np.diag(np.diag(mean))) + 1e-2 * np.trace(mean) / 5 * np.eye(5)
    assert kmeans.mean_metric_ == pytest.approx(metric, rel=1e-5, abs=1e-5)
    error = tokens[:, None].astype(float) - kmeans.cluster_centers_
    costs = np.einsum("nki,ij,nkj->nk", error, metric, error)
    assert (costs.argmin(axis=1) == kmeans.labels_).mean() > 0.999
    assert kmeans.inertia_ == pytest.approx(costs.min(axis=1).sum(), rel=1e-4)
    assert np.array_equal(kmeans.predict(tokens), kmeans.labels_)
    assert np.array_equal(kmeans.predict(tokens, metrics), kmeans.labels_)


def test_the_identity_gives_euclidean_k_means():
    tokens, _, _ = tokens_and_metrics()
    identity = pack_symmetric(torch.eye(5)).expand(len(tokens), -1)
    one = WhitenedKMeans(20, ridge=0).fit(tokens, metrics=identity)
    other = EuclideanKMeans(20).fit(tokens)
    assert np.array_equal(one.labels_, other.labels_)
    assert one.inertia_ == pytest.approx(other.inertia_, rel=1e-6)


@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_the_cost_does_not_depend_on_the_unit_of_latents(scale, seed):
    tokens, metrics, _ = tokens_and_metrics(300, 3, seed)
    one = WhitenedKMeans(9, random_state=seed).fit(tokens, metrics=metrics)
    other = WhitenedKMeans(9, random_state=seed).fit(tokens * np.float32(scale), metrics=metrics / scale**2)
    assert other.inertia_ == pytest.approx(one.inertia_, rel=0.02)


def test_dimensions_without_metric_count_little_but_break_no_sum():
    tokens, _, _ = tokens_and_metrics(500, 3)
    metrics = np.zeros((500, 6), np.float32)
    metrics[:, 0] = 4.0
    kmeans = WhitenedKMeans(6).fit(tokens, metrics=metrics)
    along = WhitenedKMeans(6).fit(tokens[:, :1], metrics=metrics[:, :1])
    assert kmeans.inertia_ == pytest.approx(along.inertia_, rel=0.05)
    with pytest.raises(InputError, match="cannot be inverted; raise ridge"):
        WhitenedKMeans(6, ridge=0).fit(tokens, metrics=metrics)


def test_posterior_scales_by_the_precision_above_the_priors():
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.normal(size=(60, 3, 2, 2))).float()
    log_variance = torch.log(torch.tensor([0.01, 0.1, 0.9])).view(1, 3, 1, 1).expand(60, 3, 2, 2)
    metrics = posterior_metrics(log_variance, scale=0.5)
    kmeans = PosteriorKMeans(7, ridge=0).fit(tokens_of(latents), metrics=metrics)
    assert np.diag(kmeans.mean_metric_) == pytest.approx(0.5 * np.array([99, 9, 1 / 9]), rel=1e-4)
    scaled = tokens_of(latents).numpy() * np.sqrt(np.float32([49.5, 4.5, 0.5 / 9]))
    assert kmeans.inertia_ == pytest.approx(EuclideanKMeans(7).fit(scaled).inertia_, rel=1e-4)
    assert np.array_equal(PosteriorKMeans.from_state(kmeans.get_state()).predict(tokens_of(latents)), kmeans.labels_)


def test_bad_input_is_named():
    tokens, metrics, _ = tokens_and_metrics(50)
    with pytest.raises(InputError, match="WhitenedKMeans needs metrics"):
        WhitenedKMeans(2).fit(tokens)
    with pytest.raises(InputError, match="scaling is 'some'; choose"):
        WhitenedKMeans(2, scaling="some").fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match="have off-diagonal entries"):
        PosteriorKMeans(2).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match=r"shape \(49, 15\), but 50 tokens of 5 dimensions need \(50, 15\)"):
        WhitenedKMeans(2).fit(tokens, metrics=metrics[1:])
    with pytest.raises(InputError, match="the mean metric is zero"):
        WhitenedKMeans(2).fit(tokens, metrics=metrics * 0)
    with pytest.raises(InputError, match="metrics hold NaN"):
        WhitenedKMeans(2).fit(tokens, metrics=metrics * np.nan)
    with pytest.raises(InputError, match="ridge is -1"):
        WhitenedKMeans(2, ridge=-1.0).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match="lacks 'mean_metric'"):
        WhitenedKMeans.from_state(EuclideanKMeans(2).fit(tokens).get_state())
    with pytest.raises(InputError, match="settings that EuclideanKMeans does not have: ridge, scaling"):
        EuclideanKMeans.from_state(WhitenedKMeans(2).fit(tokens, metrics=metrics).get_state())


def test_codes_in_windows_are_those_at_once(monkeypatch):
    tokens, metrics, _ = tokens_and_metrics(9_000)
    kmeans = WhitenedKMeans(40, max_iter=3).fit(tokens, metrics=metrics)
    monkeypatch.setattr(euclidean, "_ROWS", 4_096)
    assert np.array_equal(kmeans.predict(tokens), kmeans.labels_)
