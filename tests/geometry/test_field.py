"""Means of metrics against loops over tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from geovq.geometry import computing
from geovq.geometry.symmetric import mean_by_node, neighbourhood_mean, node_metrics


@given(n=st.integers(1, 40), width=st.integers(1, 20), n_nodes=st.integers(1, 12), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_mean_by_node_is_the_mean_of_its_tokens(n, width, n_nodes, seed):
    rng = np.random.default_rng(seed)
    token_node = np.concatenate((np.arange(n_nodes), rng.integers(0, n_nodes, n))).astype(np.int32)
    packed = rng.normal(size=(len(token_node), width)).astype(np.float32)
    counts = np.bincount(token_node).astype(np.int32)
    expected = np.stack([packed[token_node == node].mean(axis=0) for node in range(n_nodes)])
    assert np.allclose(mean_by_node(torch.from_numpy(packed), token_node, counts), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_types_are_averaged_in_float32(dtype):
    packed = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 6))).to(dtype)
    token_node = np.repeat(np.arange(10, dtype=np.int32), 3)
    found = mean_by_node(packed, token_node, np.full(10, 3, dtype=np.int32))
    assert found.dtype == np.float32
    assert np.allclose(found, packed.float().view(10, 3, 6).mean(dim=1), atol=1e-6)


@given(n_nodes=st.integers(1, 30), seed=st.integers(0, 999), density=st.floats(0, 0.5))
@settings(max_examples=40, deadline=None)
def test_neighbourhood_mean_weighs_nodes_by_their_tokens(n_nodes, seed, density):
    rng = np.random.default_rng(seed)
    pattern = random_array((n_nodes, n_nodes), density=density, rng=rng).tocsr()
    pattern = csr_matrix(pattern + pattern.T)
    pattern.setdiag(0)
    pattern.eliminate_zeros()
    metrics = rng.normal(size=(n_nodes, 3)).astype(np.float32)
    counts = rng.integers(1, 5, n_nodes).astype(np.int32)
    found = neighbourhood_mean(metrics, pattern, counts)
    for node in range(n_nodes):
        around = [node, *pattern.indices[pattern.indptr[node] : pattern.indptr[node + 1]]]
        assert np.allclose(found[node], np.average(metrics[around], axis=0, weights=counts[around]), atol=1e-5)


@pytest.mark.parametrize("linked", [False, True])
def test_columns_in_a_file_are_the_same_as_all_at_once(linked, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    pattern = csr_matrix(random_array((400, 400), density=0.02, rng=rng))
    pattern = csr_matrix(pattern + pattern.T) if linked else None
    token_node = np.concatenate((np.arange(400), rng.integers(0, 400, 200))).astype(np.int32)
    packed = torch.from_numpy(rng.normal(size=(600, 21))).to(torch.bfloat16)
    given = (packed, token_node, np.bincount(token_node).astype(np.int32), pattern)
    held = node_metrics(*given)
    monkeypatch.setattr(computing, "_working_memory", 4 * 4 * 400 * 8)  # eight columns at a time
    found = node_metrics(*given, scratch=tmp_path)
    assert isinstance(found, np.memmap)
    assert not isinstance(held, np.memmap)
    assert np.array_equal(found, held)
    assert not list(tmp_path.iterdir())  # it has no name
