"""The controls without geometry that are no k-means: medoids, and random tokens."""

import kmedoids
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from geovq.quantizers import EuclideanKMeans, EuclideanKMedoids, RandomTokens
from geovq.quantizers.euclidean_medoids import MedoidDistortion


def rows(array):
    return {row.tobytes() for row in np.ascontiguousarray(array)}


def mixture(n=1_500, d=5, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(30, d)) * 3
    return (centers[rng.integers(30, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("kind", [EuclideanKMedoids, RandomTokens])
def test_codewords_are_tokens_and_attributes_obey_their_definitions(kind):
    tokens = mixture() + 100
    quantizer = kind(20, random_state=1).fit(tokens)
    assert rows(quantizer.cluster_centers_) <= rows(tokens)
    assert len(rows(quantizer.cluster_centers_)) == 20
    distance = cdist(tokens, quantizer.cluster_centers_)
    assert np.array_equal(quantizer.labels_, distance.argmin(axis=1))
    assert quantizer.inertia_ == pytest.approx(np.square(distance.min(axis=1)).sum(), rel=1e-4)
    assert len(quantizer.cost_history_) == quantizer.n_iter_ + 1
    assert (np.diff(quantizer.cost_history_) <= 0).all()
    again = kind(20, random_state=1).fit(tokens)
    assert np.array_equal(again.cluster_centers_, quantizer.cluster_centers_)


@given(seed=st.integers(0, 500), n=st.integers(1, 60), d=st.integers(1, 4), k=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_the_member_nearest_to_the_mean_is_the_best_medoid(seed, n, d, k):
    rng = np.random.default_rng(seed)
    points = rng.integers(-6, 6, size=(n, d)).astype(np.float32)
    codes = rng.integers(k, size=n)
    medoids = MedoidDistortion(points).best(np.zeros((k, d), np.float32), codes)
    squared = cdist(points, points, "sqeuclidean")
    for code in np.unique(codes):
        members = codes == code
        best = squared[members][:, members].sum(axis=0).min()
        assert np.square(points[members] - medoids[code]).sum() == pytest.approx(best, rel=1e-5)


def test_medoids_of_digits_cost_little_more_than_those_of_fasterpam():
    images = (load_digits().data / 16).astype(np.float32)
    squared = cdist(images, images, "sqeuclidean")
    theirs = min(kmedoids.fasterpam(squared, 30, random_state=s).loss for s in range(3))
    ours = min(EuclideanKMedoids(30, random_state=s).fit(images).inertia_ for s in range(3))
    assert ours <= 1.06 * theirs
    assert ours >= EuclideanKMeans(30).fit(images).inertia_


def test_random_tokens_are_drawn_by_their_number():
    tokens = np.repeat(np.arange(3.0), (1, 2, 7))[:, None]
    drawn = np.array([RandomTokens(1, random_state=s).fit(tokens).cluster_centers_[0, 0] for s in range(600)])
    assert np.bincount(drawn.astype(int), minlength=3) / 600 == pytest.approx([0.1, 0.2, 0.7], abs=0.06)
    assert RandomTokens(2).fit(tokens).n_iter_ == 0
