"""k-means against scikit-learn and its own definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from geovq.errors import InputError
from geovq.quantizers.euclidean import EuclideanDistortion, EuclideanKMeans
from geovq.quantizers.lloyd import lloyd


def mixture(n=4_000, d=6, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, d)) * 3
    return (centers[rng.integers(40, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def test_inertia_is_within_two_percent_of_scikit_learn():
    tokens = mixture()
    ours = np.mean([EuclideanKMeans(100, max_iter=100, random_state=s).fit(tokens).inertia_ for s in range(3)])
    theirs = np.mean([KMeans(100, n_init=1, max_iter=100, random_state=s).fit(tokens).inertia_ for s in range(3)])
    assert ours <= 1.02 * theirs


def test_attributes_obey_their_definitions():
    tokens = mixture(1_500) + 100  # an offset costs digits where it is not taken off
    kmeans = EuclideanKMeans(20, max_iter=8, random_state=1).fit(tokens)
    distance = cdist(tokens, kmeans.cluster_centers_)
    assert np.array_equal(kmeans.labels_, distance.argmin(axis=1))
    assert kmeans.inertia_ == pytest.approx(np.square(distance.min(axis=1)).sum(), rel=1e-4)
    assert np.array_equal(kmeans.predict(tokens), kmeans.labels_)
    assert np.array_equal(kmeans.encode_training(tokens), kmeans.labels_)
    assert len(kmeans.cost_history_) == kmeans.n_iter_ + 1 <= 9
    assert (np.diff(kmeans.cost_history_) <= 1e-9 * kmeans.cost_history_[0]).all()
    assert kmeans.cluster_centers_.dtype == np.float32
    assert kmeans.labels_.dtype == np.int32


@given(seed=st.integers(0, 200), n_distinct=st.integers(1, 12), copies=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_as_many_codes_as_distinct_tokens_cost_nothing(seed, n_distinct, copies):
    rng = np.random.default_rng(seed)
    distinct = rng.permutation(100)[:n_distinct, None] + np.array([[0.0, 0.5]])
    tokens = np.repeat(distinct, copies, axis=0).astype(np.float32)
    kmeans = EuclideanKMeans(n_distinct, random_state=seed).fit(tokens)
    assert len(np.unique(kmeans.labels_)) == n_distinct
    assert kmeans.inertia_ == pytest.approx(0, abs=1e-2)


def test_one_code_is_the_mean():
    tokens = mixture(500)
    kmeans = EuclideanKMeans(1).fit(tokens)
    assert np.allclose(kmeans.cluster_centers_[0], tokens.mean(axis=0), atol=1e-4)
    assert (kmeans.labels_ == 0).all()


def test_dead_codes_come_back_to_life():
    # Nearly all tokens coincide: seeds land far away and means leave codes empty unless they are moved.
    rng = np.random.default_rng(0)
    tokens = np.concatenate((np.zeros((5_000, 2)), rng.normal(size=(60, 2)))).astype(np.float32)
    for seed in range(5):
        kmeans = EuclideanKMeans(40, random_state=seed).fit(tokens)
        assert len(np.unique(kmeans.labels_)) == 40


def test_same_seed_same_codebook_and_state_round_trip():
    tokens = mixture(800)
    kmeans = EuclideanKMeans(10, random_state=4).fit(tokens)
    assert np.array_equal(kmeans.cluster_centers_, EuclideanKMeans(10, random_state=4).fit(tokens).cluster_centers_)
    again = EuclideanKMeans.from_state(kmeans.get_state())
    assert np.array_equal(again.predict(tokens), kmeans.labels_)
    assert (again.inertia_, again.n_iter_) == (kmeans.inertia_, kmeans.n_iter_)
    assert (again.random_state, again.n_codes, again.max_iter) == (4, 10, 25)


def test_one_dimension_and_one_token():
    line = np.repeat([0.0, 1.0, 10.0, 11.0], 5)[:, None]
    kmeans = EuclideanKMeans(2).fit(line)
    assert sorted(kmeans.cluster_centers_[:, 0]) == [0.5, 10.5]
    assert kmeans.inertia_ == pytest.approx(20 * 0.25)
    alone = EuclideanKMeans(1).fit(line[:1])
    assert (alone.inertia_, alone.labels_.tolist()) == (0, [0])


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_units_scale_the_cost_and_nothing_else(scale, seed):
    tokens = mixture(400, seed=seed)
    one = EuclideanKMeans(12, random_state=seed).fit(tokens)
    other = EuclideanKMeans(12, random_state=seed).fit(tokens * np.float32(scale))
    assert other.inertia_ == pytest.approx(scale**2 * one.inertia_, rel=0.02)


def test_order_of_tokens_does_not_matter_to_the_passes():
    tokens = mixture(600)
    order = np.random.default_rng(3).permutation(600)
    start = tokens[:9]
    one = lloyd(EuclideanDistortion(tokens), start, 30)
    other = lloyd(EuclideanDistortion(tokens[order]), start, 30)
    assert np.array_equal(one.codes[order], other.codes)
    assert np.allclose(one.codebook, other.codebook, atol=1e-4)


def test_progress_is_told_every_pass():
    calls = []
    kmeans = EuclideanKMeans(5).fit(mixture(300), on_progress=lambda step, cost: calls.append((step, cost)))
    assert calls == list(enumerate(kmeans.cost_history_))


def test_bad_input_is_named():
    tokens = mixture(30)
    with pytest.raises(InputError, match="n_codes is 31, but there are only 30"):
        EuclideanKMeans(31).fit(tokens)
    with pytest.raises(InputError, match="only 1 distinct"):
        EuclideanKMeans(2).fit(np.ones((9, 3)))
    with pytest.raises(InputError, match="n_codes is 0"):
        EuclideanKMeans(0).fit(tokens)
    with pytest.raises(InputError, match="max_iter is 0"):
        EuclideanKMeans(2, max_iter=0).fit(tokens)
    with pytest.raises(InputError, match="not fitted"):
        EuclideanKMeans(2).predict(tokens)
    with pytest.raises(InputError, match="2 features, but EuclideanKMeans is expecting 6 features"):
        EuclideanKMeans(2).fit(tokens).predict(tokens[:, :2])
    with pytest.raises(InputError, match="Reshape your data"):
        EuclideanKMeans(2).fit(tokens[0])
    with pytest.raises(InputError, match=r"hold NaN or infinity \(first in row 3\)"):
        EuclideanKMeans(2).fit(np.where(np.arange(30)[:, None] == 3, np.nan, tokens))
    with pytest.raises(InputError, match="lacks 'cluster_centers'"):
        EuclideanKMeans.from_state({})
