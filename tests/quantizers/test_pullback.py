"""k-means with a metric per token: against slow definitions, whitened k-means, and decoded digits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from geovq.errors import InputError
from geovq.geometry import computing
from geovq.geometry.symmetric import pack_symmetric
from geovq.quantizers import EuclideanKMeans, PullbackKMeans, ResidualKMeans, WhitenedKMeans, metric_features
from geovq.quantizers.lloyd import lloyd
from geovq.quantizers.metric_features import MetricFeatures


def tokens_and_metrics(n=1_200, d=4, seed=0, rank=2):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, d, rank)) * rng.lognormal(size=(n, 1, 1))
    full = factors @ factors.transpose(0, 2, 1)
    return rng.normal(size=(n, d)).astype(np.float32), pack_symmetric(torch.from_numpy(full)).float(), full


def slow_costs(tokens, full, codewords, ridge):
    error = tokens[:, None].astype(np.float64) - codewords
    rho = ridge * np.trace(full.mean(axis=0)) / tokens.shape[1]
    return np.einsum("nki,nij,nkj->nk", error, full + rho * np.eye(tokens.shape[1]), error)


def test_attributes_obey_their_definitions():
    tokens, metrics, full = tokens_and_metrics()
    tokens += 20
    calls = []
    kmeans = PullbackKMeans(15, ridge=0.01, max_iter=60)
    kmeans.fit(tokens, metrics=metrics, on_progress=lambda step, cost: calls.append((step, cost)))
    costs = slow_costs(tokens, full, kmeans.cluster_centers_, 0.01)
    rows = np.arange(len(tokens))
    assert (costs[rows, kmeans.labels_] <= costs.min(axis=1) * (1 + 1e-3) + 1e-4).all()
    assert kmeans.inertia_ == pytest.approx(costs.min(axis=1).sum(), rel=1e-4)
    assert np.array_equal(kmeans.predict(tokens, metrics), kmeans.labels_)
    assert np.array_equal(kmeans.encode_training(tokens), kmeans.labels_)
    assert calls == list(enumerate(kmeans.cost_history_))
    assert (np.diff(kmeans.cost_history_) <= 0).all()
    assert kmeans.cluster_centers_.dtype == np.float32
    # At the end every codeword is the best of its cell: the gradient of the cost vanishes.
    shifted = full + 0.01 * np.trace(full.mean(axis=0)) / 4 * np.eye(4)
    error = tokens - kmeans.cluster_centers_[kmeans.labels_]
    for code in range(15):
        members = kmeans.labels_ == code
        pull = np.einsum("nij,nj->ni", shifted[members], error[members])
        assert np.linalg.norm(pull.sum(axis=0)) < 0.05 * np.linalg.norm(pull, axis=1).sum()


def test_without_metrics_codes_follow_the_mean_metric():
    tokens, metrics, full = tokens_and_metrics()
    kmeans = PullbackKMeans(15).fit(tokens, metrics=metrics)
    constant = np.broadcast_to(full.mean(axis=0), full.shape)
    costs = slow_costs(tokens, constant, kmeans.cluster_centers_, 1e-3)
    assert (kmeans.predict(tokens) == costs.argmin(axis=1)).mean() > 0.999


def test_constant_metric_costs_what_whitened_k_means_costs():
    tokens, metrics, _ = tokens_and_metrics(rank=4)
    constant = metrics[:1].expand(len(tokens), -1)
    for seed in range(3):
        one = PullbackKMeans(30, random_state=seed).fit(tokens, metrics=constant)
        other = WhitenedKMeans(30, random_state=seed).fit(tokens, metrics=constant)
        assert one.inertia_ == pytest.approx(other.inertia_, rel=1e-3)
        assert (one.labels_ == other.labels_).mean() > 0.98


def test_its_own_cost_is_below_that_of_codebooks_with_less_geometry():
    tokens, metrics, full = tokens_and_metrics()
    ours = PullbackKMeans(30).fit(tokens, metrics=metrics)
    for other in (EuclideanKMeans(30).fit(tokens), WhitenedKMeans(30).fit(tokens, metrics=metrics)):
        assert ours.inertia_ < slow_costs(tokens, full, other.cluster_centers_, 1e-3).min(axis=1).sum()


def test_order_of_tokens_does_not_matter_to_the_passes():
    tokens, metrics, _ = tokens_and_metrics(500)
    order = np.random.default_rng(3).permutation(500)
    fits = [
        lloyd(MetricFeatures(x, g, 1e-2, np.zeros(4)), tokens[:9], 12)
        for x, g in ((tokens, metrics), (tokens[order], metrics[order]))
    ]
    assert fits[1].history == pytest.approx(fits[0].history, rel=1e-3)
    assert (fits[0].codes[order] == fits[1].codes).mean() > 0.99


@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 50), d=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_the_cost_does_not_depend_on_the_unit_of_latents(scale, seed, d):
    tokens, metrics, _ = tokens_and_metrics(250, d, seed)
    one = PullbackKMeans(7, random_state=seed).fit(tokens, metrics=metrics)
    other = PullbackKMeans(7, random_state=seed).fit(tokens * np.float32(scale), metrics=metrics / scale**2)
    assert other.inertia_ == pytest.approx(one.inertia_, rel=0.03)


@given(seed=st.integers(0, 200), n_distinct=st.integers(1, 10), copies=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_as_many_codes_as_distinct_tokens_cost_nothing(seed, n_distinct, copies):
    rng = np.random.default_rng(seed)
    distinct = rng.permutation(30)[:n_distinct, None] + np.array([[0.0, 0.5]])
    tokens = np.repeat(distinct, copies, axis=0).astype(np.float32)
    factors = rng.normal(size=(len(tokens), 2, 2)) + 2 * np.eye(2)
    metrics = pack_symmetric(torch.from_numpy(factors @ factors.transpose(0, 2, 1)))
    kmeans = PullbackKMeans(n_distinct, random_state=seed).fit(tokens, metrics=metrics)
    assert kmeans.inertia_ == pytest.approx(0, abs=0.05)


def test_dead_codes_come_back_to_life():
    rng = np.random.default_rng(0)
    tokens = np.concatenate((np.zeros((3_000, 2)), rng.normal(size=(60, 2)))).astype(np.float32)
    metrics = pack_symmetric(torch.eye(2)).expand(len(tokens), -1)
    for seed in range(5):
        kmeans = PullbackKMeans(40, random_state=seed).fit(tokens, metrics=metrics)
        assert len(np.unique(kmeans.labels_)) == 40


def test_tokens_without_metric_are_coded_by_distance():
    tokens, metrics, _ = tokens_and_metrics(400)
    metrics[::2] = 0
    kmeans = PullbackKMeans(12).fit(tokens, metrics=metrics)
    squared = np.square(tokens[:, None] - kmeans.cluster_centers_).sum(axis=2)
    assert np.array_equal(kmeans.labels_[::2], squared.argmin(axis=1)[::2])


def test_same_seed_same_codebook_and_state_round_trip():
    tokens, metrics, _ = tokens_and_metrics()
    kmeans = PullbackKMeans(10, random_state=4).fit(tokens, metrics=metrics)
    twin = PullbackKMeans(10, random_state=4).fit(tokens, metrics=metrics)
    assert np.array_equal(kmeans.cluster_centers_, twin.cluster_centers_)
    again = PullbackKMeans.from_state(kmeans.get_state())
    assert np.array_equal(again.predict(tokens, metrics), kmeans.labels_)
    assert np.array_equal(again.encode_training(tokens), kmeans.labels_)
    assert again.get_params() == kmeans.get_params()
    assert (again.inertia_, again.n_iter_) == (kmeans.inertia_, kmeans.n_iter_)
    with pytest.raises(InputError, match="1199 tokens are not those of the fit"):
        again.encode_training(tokens[1:])
    with pytest.raises(InputError, match="are not those of the fit"):
        again.encode_training(tokens + 1)


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same_codebook():
    tokens, metrics, _ = tokens_and_metrics()
    here = PullbackKMeans(20).fit(tokens, metrics=metrics)
    there = PullbackKMeans(20, device="cuda").fit(tokens, metrics=metrics.cuda())
    assert there.inertia_ == pytest.approx(here.inertia_, rel=1e-2)
    assert (there.predict(tokens, metrics) == there.labels_).mean() > 0.999


def test_the_cost_is_the_decoded_error_of_digits():
    # A decoder with a known metric: logistic pixels over four principal components of handwritten digits, in
    # latents whose units differ as those of a trained encoder do.
    images = load_digits().data / 16
    logits = np.log((images + 0.3) / (1.3 - images))
    mean = logits.mean(axis=0)
    basis = np.linalg.svd(logits - mean, full_matrices=False)[2][:4]
    unit = np.geomspace(1, 6, 4)
    tokens = ((logits - mean) @ basis.T * unit).astype(np.float32)

    def decode(z):
        return 1 / (1 + np.exp(-((z / unit) @ basis + mean)))

    jacobian = (decode(tokens) * (1 - decode(tokens)))[:, None, :] * (basis / unit[:, None])
    metrics = pack_symmetric(torch.from_numpy(jacobian @ jacobian.transpose(0, 2, 1)))

    def decoded_error(quantizer):
        coded = quantizer.cluster_centers_[quantizer.labels_]
        return np.square(decode(tokens) - decode(coded)).sum()

    fits = [PullbackKMeans(200, random_state=seed).fit(tokens, metrics=metrics) for seed in range(3)]
    for kmeans in fits:
        assert kmeans.inertia_ == pytest.approx(decoded_error(kmeans), rel=0.1)
    plain = [EuclideanKMeans(200, random_state=seed).fit(tokens) for seed in range(3)]
    assert np.mean([decoded_error(x) for x in fits]) < 0.9 * np.mean([decoded_error(x) for x in plain])


def test_bad_input_is_named():
    tokens, metrics, _ = tokens_and_metrics(50)
    with pytest.raises(InputError, match="PullbackKMeans needs metrics"):
        PullbackKMeans(2).fit(tokens)
    with pytest.raises(InputError, match="ridge is 0; it must be above 0"):
        PullbackKMeans(2, ridge=0).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match="the mean metric is zero"):
        PullbackKMeans(2).fit(tokens, metrics=metrics * 0)
    with pytest.raises(InputError, match="NaN"):
        PullbackKMeans(2).fit(tokens, metrics=metrics * np.nan)
    with pytest.raises(InputError, match="max_iter is 0"):
        PullbackKMeans(2, max_iter=0).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match="only 50 distinct tokens"):
        PullbackKMeans(51).fit(tokens, metrics=metrics)
    with pytest.raises(InputError, match=r"shape \(10, 10\), but 50 tokens"):
        PullbackKMeans(2).fit(tokens, metrics=metrics).predict(tokens, metrics[:10])


@pytest.mark.parametrize("kind", [PullbackKMeans, ResidualKMeans])
def test_features_made_in_blocks_give_the_same_codebook_and_codes(kind, monkeypatch):
    tokens, metrics, _ = tokens_and_metrics(9_000)
    settings = {"n_codes": 16, "max_iter": 4} | ({"metric": "pullback"} if kind is ResidualKMeans else {})
    at_once = kind(**settings).fit(tokens, metrics=metrics)
    monkeypatch.setattr(computing, "_working_memory", 1.0)
    monkeypatch.setattr(metric_features, "_ROWS", 4_096)
    in_blocks = kind(**settings).fit(tokens, metrics=metrics)
    for one, other in zip(at_once.tables_, in_blocks.tables_, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(at_once.labels_, in_blocks.labels_)
    assert np.array_equal(at_once.cost_history_, in_blocks.cost_history_)
    assert np.array_equal(at_once.predict(tokens[:5_000], metrics[:5_000]), in_blocks.labels_[:5_000])


def test_what_is_no_metric_is_named_when_its_block_is_reached(monkeypatch):
    tokens, metrics, _ = tokens_and_metrics(600)
    monkeypatch.setattr(computing, "_working_memory", 1.0)
    monkeypatch.setattr(metric_features, "_ROWS", 256)
    metrics[500, 3] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinity \(first at token 500\)"):
        MetricFeatures(tokens, metrics, 1e-2, np.zeros(4)).nearest(tokens[:9])


def test_with_many_codewords_most_passes_look_at_few_and_the_last_at_all(monkeypatch):
    tokens, metrics, full = tokens_and_metrics(3_000)
    every = PullbackKMeans(60).fit(tokens, metrics=metrics)
    monkeypatch.setattr(metric_features, "_ALL", 16)
    monkeypatch.setattr(metric_features, "_NEAR", 8)
    near = PullbackKMeans(60).fit(tokens, metrics=metrics)
    costs, rows = slow_costs(tokens, full, near.cluster_centers_, 1e-3), np.arange(len(tokens))
    assert (costs[rows, near.labels_] <= costs.min(axis=1) * (1 + 1e-3) + 1e-4).all()
    assert (np.diff(near.cost_history_) <= 0).all()
    assert not np.array_equal(near.cluster_centers_, every.cluster_centers_)
    assert near.inertia_ == pytest.approx(every.inertia_, rel=0.01)


@pytest.mark.parametrize("held", [True, False])
def test_the_few_codewords_of_a_token_are_those_that_cost_it_least_before(held, monkeypatch):
    monkeypatch.setattr(metric_features, "_ALL", 16)
    monkeypatch.setattr(metric_features, "_NEAR", 5)
    monkeypatch.setattr(metric_features, "_ROWS", 300)
    monkeypatch.setattr(computing, "_working_memory", None if held else 0.0)
    tokens, metrics, full = tokens_and_metrics(800)
    features = MetricFeatures(tokens, metrics, 0.0, np.zeros(4))
    before, now = tokens[:40], tokens[:40] + 0.1 * tokens[40:80]
    features.assign(before)
    near = np.argsort(slow_costs(tokens, full, before, 0.0), axis=1)[:, :5]
    costs, rows = slow_costs(tokens, full, now, 0.0), np.arange(800)
    codes, paid = features.reassign(now)
    least = np.take_along_axis(costs, near, axis=1).min(axis=1)
    assert costs[rows, codes] == pytest.approx(least, rel=1e-3, abs=1e-4)
    assert (costs[rows, codes] > costs.min(axis=1) * 1.01 + 1e-3).any()  # some cheapest one is not among the few
    assert paid == pytest.approx(costs[rows, codes], rel=1e-4, abs=1e-5)
    features.assign(now[:16])
    assert features.reassign(now[:16]) is None
