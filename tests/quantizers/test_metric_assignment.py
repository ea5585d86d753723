"""Assignment and barycentres with a metric per token, against the definitions in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from geovq.errors import InputError
from geovq.geometry.symmetric import pack_symmetric
from geovq.quantizers import metric_assignment, metric_barycentres, metric_features, nearest, nearest_by_metric
from geovq.quantizers.metric_features import MetricFeatures


def problem(n=700, d=4, k=23, seed=0, rank=None):
    """Tokens, full metrics, packed metrics and codewords."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, d, rank or d)) * rng.lognormal(size=(n, 1, 1))
    full = factors @ factors.transpose(0, 2, 1)
    tokens = rng.normal(size=(n, d)).astype(np.float32)
    return tokens, full, pack_symmetric(torch.from_numpy(full)).float(), tokens[rng.permutation(n)[:k]] + 0.1


def slow_costs(tokens, full, codewords):
    error = tokens[:, None].astype(np.float64) - codewords
    return np.einsum("nki,nij,nkj->nk", error, full, error)


@pytest.fixture(params=["cpu", "torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The CPU, its memory through the code that other devices use, and a CUDA device."""
    if request.param == "torch":
        monkeypatch.setattr(nearest, "is_cpu", lambda device: False)
        monkeypatch.setattr(metric_features, "is_cpu", lambda device: False)
        return "cpu"
    return request.param


def test_codes_are_the_cheapest(device, monkeypatch):
    monkeypatch.setattr(metric_assignment, "_ROWS_AT_ONCE", 300)
    monkeypatch.setattr(metric_features, "_ROWS", 128)
    tokens, full, packed, codewords = problem()
    costs = slow_costs(tokens, full, codewords)
    codes = nearest_by_metric(tokens, packed, codewords, device=device)
    assert codes.dtype == np.int32
    assert np.array_equal(codes, costs.argmin(axis=1))
    shifted = costs + 0.7 * np.square(tokens[:, None] - codewords).sum(axis=2)
    assert np.array_equal(nearest_by_metric(tokens, packed, codewords, 0.7, device=device), shifted.argmin(axis=1))


def test_features_give_costs_and_sums(device):
    tokens, full, packed, codewords = problem()
    features = MetricFeatures(tokens, packed, 0.3, tokens.mean(axis=0), device)
    full = full + 0.3 * np.eye(4)
    expected = slow_costs(tokens, full, codewords)
    assert np.allclose(features.costs(codewords).T, expected, rtol=1e-4, atol=1e-3)
    codes = features.nearest(codewords)
    assert np.array_equal(codes, expected.argmin(axis=1))
    matrices, vectors = features.cell_sums(codes, len(codewords))
    for code in range(len(codewords)):
        members = codes == code
        assert matrices[code] == pytest.approx(full[members].sum(axis=0), rel=1e-5, abs=1e-5)
        applied = np.einsum("nij,nj->i", full[members], tokens[members] - features.origin)
        assert vectors[code] == pytest.approx(applied, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16, "numpy"])
def test_metrics_come_in_any_floating_type(kind):
    tokens, _, packed, codewords = problem()
    given_metrics = packed.numpy() if kind == "numpy" else packed.to(kind)
    rounded = packed if kind == "numpy" else packed.to(kind).float()
    codes = nearest_by_metric(tokens, given_metrics, codewords)
    assert np.array_equal(codes, nearest_by_metric(torch.from_numpy(tokens), rounded, codewords))


def test_far_from_the_origin_digits_are_kept():
    tokens, full, packed, codewords = problem()
    costs = slow_costs(tokens + np.float32(300), full, codewords + np.float32(300))
    codes = nearest_by_metric(tokens + 300, packed, codewords + 300)
    assert (costs[np.arange(700), codes] <= costs.min(axis=1) * (1 + 1e-3) + 1e-5).all()


@given(seed=st.integers(0, 1_000), d=st.integers(1, 6), k=st.integers(1, 9), scale=st.floats(1e-2, 1e2))
@settings(max_examples=40, deadline=None)
def test_order_duplicates_and_units_do_not_matter(seed, d, k, scale):
    tokens, full, packed, codewords = problem(60, d, k, seed)
    costs = slow_costs(tokens, full, codewords)
    codes = nearest_by_metric(tokens, packed, codewords)
    best = costs.min(axis=1)
    assert (costs[np.arange(60), codes] <= best + 1e-4 * (1 + costs.max(axis=1))).all()
    order = np.random.default_rng(seed).permutation(60)
    again = np.concatenate((order, order[:7]))
    origin = codewords.mean(axis=0)
    assert np.array_equal(nearest_by_metric(tokens[again], packed[again], codewords, origin=origin), codes[again])
    scaled = nearest_by_metric(tokens * np.float32(scale), packed / scale**2, codewords * np.float32(scale))
    assert (costs[np.arange(60), scaled] <= best + 1e-4 * (1 + costs.max(axis=1))).all()


def test_singular_metrics_choose_the_nearest_of_equal_codewords():
    tokens, _, packed, codewords = problem()
    codes = nearest_by_metric(tokens, packed * 0, codewords, shift=1e-3)
    assert np.array_equal(codes, np.square(tokens[:, None] - codewords).sum(axis=2).argmin(axis=1))


def test_barycentres_minimise_the_cost_of_their_cells(device, monkeypatch):
    monkeypatch.setattr(metric_assignment, "_ROWS_AT_ONCE", 200)
    tokens, full, packed, _ = problem(500, 3)
    labels = np.arange(500) % 6
    weights = np.random.default_rng(1).integers(1, 5, size=500)
    ridge = 0.2
    mean = np.einsum("n,nij->ij", weights, full) / weights.sum()
    shifted = full + ridge * np.trace(mean) / 3 * np.eye(3)
    found = metric_barycentres(tokens, packed, labels, 6, ridge, weights, device)
    for code in range(6):
        members = labels == code

        def cost(c, members=members):
            error = tokens[members] - c
            return np.einsum("n,ni,nij,nj->", weights[members], error, shifted[members], error)

        assert found[code] == pytest.approx(minimize(cost, np.zeros(3), tol=1e-10).x, abs=1e-3)
    repeated = np.repeat(np.arange(500), weights)
    twice = metric_barycentres(tokens[repeated], packed[repeated], labels[repeated], 6, ridge, device=device)
    assert found == pytest.approx(twice, abs=1e-4)


def test_barycentres_of_equal_or_no_metrics_are_means():
    tokens, _, packed, _ = problem()
    labels = np.arange(700) % 5
    means = np.stack([tokens[labels == code].mean(axis=0) for code in range(5)])
    constant = packed[:1].expand(700, -1)
    assert metric_barycentres(tokens, constant, labels, 5) == pytest.approx(means, abs=1e-3)
    assert metric_barycentres(tokens, None, labels, 5) == pytest.approx(means, abs=1e-6)
    # Metrics that vanish in a cell leave it its plain mean.
    vanishing = packed.clone()
    vanishing[labels == 2] = 0
    assert metric_barycentres(tokens, vanishing, labels, 5)[2] == pytest.approx(means[2], abs=1e-4)


def test_bad_input_is_named(device):
    tokens, _, packed, codewords = problem(50)
    labels = np.arange(50) % 5
    broken = packed.clone()
    broken[7, 2] = np.nan
    negative = packed.clone()
    negative[9:, 0] = -1
    for call in (
        lambda metrics: nearest_by_metric(tokens, metrics, codewords, device=device),
        lambda metrics: metric_barycentres(tokens, metrics, labels, 5),
    ):
        with pytest.raises(InputError, match=r"NaN or infinity( \(first at token 7\))?;"):
            call(broken)
        with pytest.raises(InputError, match=r"need \(50, 10\); pack them with pack_symmetric"):
            call(packed[:, :9])
        with pytest.raises(InputError, match=r"dtype torch\.int64; give floating-point"):
            call(packed.long())
    with pytest.raises(InputError, match=r"negative diagonal entry \(first at token 9\)"):
        nearest_by_metric(tokens, negative, codewords, device=device)
    with pytest.raises(InputError, match="tokens have 4 dimensions, the codewords 3"):
        nearest_by_metric(tokens, packed, codewords[:, :3])
    with pytest.raises(InputError, match="codewords hold NaN"):
        nearest_by_metric(tokens, packed, codewords * np.nan)
    with pytest.raises(InputError, match="the mean metric is zero"):
        metric_barycentres(tokens, packed * 0, labels, 5)
    with pytest.raises(InputError, match="code 5 has no tokens"):
        metric_barycentres(tokens, packed, labels, 6)
    with pytest.raises(InputError, match=r"give a code in \[0, 4\) for each of 50"):
        metric_barycentres(tokens, packed, labels, 4)
    with pytest.raises(InputError, match="weights have shape"):
        metric_barycentres(tokens, packed, labels, 5, weights=np.zeros(50))
    flat = np.zeros((50, 10), np.float32)
    flat[:, 0] = 1
    with pytest.raises(InputError, match="ridge is 0 and the metrics of a cell are singular"):
        metric_barycentres(tokens, flat, labels, 5, ridge=0)
