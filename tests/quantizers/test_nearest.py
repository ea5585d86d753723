"""Nearest codewords and sums of cells, on both of their paths, against numpy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.quantizers import nearest


def rows_and_weights(n=3_000, p=11, k=37, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)).astype(np.float32), rng.normal(size=(k, p)).astype(np.float32)


@pytest.fixture(params=["cpu", "blocks", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The CPU, its memory through the blocks that other devices use, and a CUDA device."""
    if request.param == "blocks":
        monkeypatch.setattr(nearest, "is_cpu", lambda device: False)
        monkeypatch.setattr(nearest, "_DEVICE_BLOCK", 5_000)
        return "cpu"
    return request.param


def test_nearest_codes(device):
    x, c = rows_and_weights()
    squared = np.square(x[:, None].astype(float) - c).sum(axis=2)
    assert np.array_equal(nearest.nearest_codes(x, c, device), squared.argmin(axis=1))


def test_lowest_products(device):
    rows, weights = rows_and_weights(p=160)
    products = rows.astype(float) @ weights.T
    given = torch.from_numpy(rows).to(device), torch.from_numpy(weights).to(device)
    assert np.array_equal(nearest.lowest_products(*given)[:, 0], products.argmin(axis=1))
    if nearest.is_cpu(device):
        assert np.array_equal(nearest.lowest_products(*given, 5), products.argsort(axis=1)[:, :5])


def test_cell_sums(device):
    rows, _ = rows_and_weights()
    codes = np.random.default_rng(1).integers(1, 9, size=len(rows))
    expected = np.zeros((10, rows.shape[1]))
    np.add.at(expected, codes, rows)
    sums = nearest.cell_sums(torch.from_numpy(rows).to(device), codes, 10)
    assert sums.dtype == np.float64
    assert sums == pytest.approx(expected, rel=1e-12, abs=1e-10)


@given(threads=st.integers(1, 5), p=st.integers(1, 7), n=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_cell_sums_do_not_depend_on_threads(threads, p, n):
    rows = torch.from_numpy(np.random.default_rng(n).normal(size=(n, p)).astype(np.float32))
    codes = np.arange(n) % 3
    alone = nearest.cell_sums(rows, codes, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(nearest.cell_sums(rows, codes, 3), alone)
    finally:
        torch.set_num_threads(before)


def test_overflow_is_named():
    x, c = rows_and_weights()
    with pytest.raises(InputError, match="overflow float32; scale the tokens"):
        nearest.nearest_codes(x * np.float32(1e30), c)
