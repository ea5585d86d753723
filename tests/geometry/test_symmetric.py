"""Packed symmetric matrices against dense algebra."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.geometry import symmetric
from geovq.geometry.symmetric import (
    mean_metric,
    pack_symmetric,
    packed_dimension,
    quadratic_form,
    square_root,
    unpack_symmetric,
)


def random_metrics(n, d, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, d, d))
    return torch.from_numpy((factors @ factors.transpose(0, 2, 1)).astype(np.float32))


def test_order_is_row_major_upper_half():
    matrix = torch.tensor([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert pack_symmetric(matrix).tolist() == [1, 2, 3, 4, 5, 6]


@given(d=st.integers(1, 9), n=st.integers(1, 5), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_pack_unpack_round_trip_and_quadratic_form(d, n, seed):
    dense = random_metrics(n, d, seed)
    packed = pack_symmetric(dense)
    assert packed.shape == (n, d * (d + 1) // 2)
    assert packed_dimension(packed.shape[1]) == d
    assert torch.equal(unpack_symmetric(packed, d), dense.triu() + dense.triu(1).mT)
    delta = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(n, d)).astype(np.float32))
    expected = torch.einsum("ni,nij,nj->n", delta.double(), dense.double(), delta.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(symmetric, "_BLOCK_ROWS", 2)
        assert torch.allclose(quadratic_form(packed, delta).double(), expected, rtol=1e-4)


def test_mean_metric_is_the_weighted_mean(monkeypatch):
    monkeypatch.setattr(symmetric, "_BLOCK_ROWS", 3)
    dense = random_metrics(7, 3)
    weights = np.array([1, 0, 2, 5, 1, 1, 3])
    expected = np.average(dense.numpy().astype(np.float64), axis=0, weights=weights)
    assert np.allclose(mean_metric(pack_symmetric(dense), weights), expected, rtol=1e-6)
    assert np.allclose(mean_metric(pack_symmetric(dense)), dense.mean(dim=0), rtol=1e-5)


@given(d=st.integers(1, 8), seed=st.integers(0, 100), singular=st.booleans())
@settings(max_examples=30, deadline=None)
def test_square_root_turns_the_metric_into_a_norm(d, seed, singular):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, 1 if singular else d))
    metric, delta = factor @ factor.T, rng.normal(size=(5, d))
    root = square_root(metric)
    assert np.allclose(root, root.T)
    level = np.trace(metric) / d
    assert np.allclose(
        np.square(delta @ root).sum(axis=1), np.einsum("ni,ij,nj->n", delta, metric, delta), atol=1e-9 * level
    )
    with_ridge = square_root(metric, 1e-6)
    assert np.allclose(with_ridge @ with_ridge, metric + 1e-6 * level * np.eye(d), rtol=1e-6, atol=1e-9 * level)
    assert np.linalg.eigvalsh(with_ridge)[0] > 0.9e-3 * np.sqrt(level)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pack_symmetric(torch.zeros(3, 4)), "last two dimensions"),
        (lambda: unpack_symmetric(torch.zeros(5), 3), "there must be 6"),
        (lambda: packed_dimension(7), "7 entries"),
        (lambda: square_root(np.zeros((2, 2))), "metric is zero"),
        (lambda: square_root(np.ones((2, 3))), "one finite"),
        (lambda: square_root(np.full((2, 2), np.nan)), "one finite"),
        (lambda: square_root(np.eye(2), -1.0), "ridge is -1"),
        (lambda: quadratic_form(torch.zeros(4, 6), torch.zeros(4, 2)), "do not fit"),
        (lambda: mean_metric(torch.ones(2, 3), np.array([0.0, 0.0])), "weights"),
    ],
)
def test_wrong_shapes_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()
