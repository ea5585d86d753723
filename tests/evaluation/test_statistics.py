import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from geovq.errors import InputError
from geovq.evaluation import statistics
from geovq.evaluation.statistics import (
    bootstrap_mean,
    bootstrap_means,
    mean_and_standard_error,
    paired_bootstrap,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_standard_error_is_scipys():
    values = normal(50)
    mean, error = mean_and_standard_error(values)
    assert mean == pytest.approx(float(values.mean()), rel=1e-5)
    assert error == pytest.approx(stats.sem(values.double().numpy()))
    assert math.isnan(mean_and_standard_error(values[:1])[1])


def test_interval_agrees_with_scipys_bootstrap():
    values = normal(200).exp()
    mean, low, high = bootstrap_mean(values, n=20_000)
    peer = stats.bootstrap((values.numpy(),), np.mean, n_resamples=20_000, method="percentile", random_state=0)
    assert mean == pytest.approx(float(values.mean()), rel=1e-5)
    assert (low, high) == pytest.approx(tuple(peer.confidence_interval), rel=0.02)


def test_interval_covers_at_its_level():
    inside = 0
    for seed in range(300):
        _, low, high = bootstrap_mean(normal(60, seed=seed), n=300, seed=seed, level=0.8)
        inside += low <= 0 <= high
    assert 0.72 < inside / 300 < 0.88


def test_rows_of_a_table_are_resampled_too():
    # all variation lies between seeds: an interval over images alone would have no width
    table = torch.tensor([[1.0], [2.0], [6.0]]).expand(3, 500)
    means = bootstrap_means(table, n=20_000)
    expected = float(np.var([1, 2, 6]) / 3)
    assert float(means.var()) == pytest.approx(expected, rel=0.05)
    assert float(bootstrap_means(table[:1], n=100).var()) == 0


def test_table_variance_is_the_pigeonholes():
    """Owen (2007), theorem 3: the resampling variance of a crossed table, here by enumeration."""
    table = normal(2, 3).double()
    means = bootstrap_means(table, n=200_000, seed=1)
    values = []
    for rows in np.ndindex(2, 2):
        for columns in np.ndindex(3, 3, 3):
            values.append(float(table[list(rows)][:, list(columns)].mean()))
    assert float(means.mean()) == pytest.approx(np.mean(values), abs=0.01)
    assert float(means.var()) == pytest.approx(np.var(values), rel=0.03)


def test_pairs_see_what_separate_intervals_hide():
    base = 10 * normal(300)
    a, b = base + 0.3 + 0.1 * normal(300, seed=1), base + 0.1 * normal(300, seed=2)
    difference = paired_bootstrap(a, b, n=999)
    assert difference.mean == pytest.approx(float((a - b).mean()), rel=1e-4)
    assert 0 < difference.low < difference.mean < difference.high
    assert difference.p_value == pytest.approx(2 / 1000)
    assert bootstrap_mean(a).low < bootstrap_mean(b).high


def test_p_value_is_near_the_t_tests_and_one_for_equal_methods():
    a, b = normal(400), normal(400, seed=1) + 0.1
    peer = stats.ttest_rel(a.numpy(), b.numpy()).pvalue
    assert paired_bootstrap(a, b, n=20_000).p_value == pytest.approx(peer, abs=0.02)
    assert paired_bootstrap(a, a).p_value == 1


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_an_interval_over_few_seeds_covers_at_its_level(n_seeds):
    inside, trials = 0, 400
    for trial in range(trials):
        by_seed, by_image = normal(n_seeds, 1, seed=trial), 0.5 * normal(1, 40, seed=1000 + trial)
        table = by_seed + by_image + normal(n_seeds, 40, seed=5000 + trial)
        _, low, high, _ = paired_bootstrap(table, torch.zeros_like(table), n=400, seed=trial)
        inside += low <= 0 <= high
    assert inside / trials > 0.93


def test_one_seed_is_not_stretched():
    assert statistics.stretch(1) == 1
    values = normal(50)
    assert paired_bootstrap(values, 0 * values)[1:3] == pytest.approx(bootstrap_mean(values)[1:])


def test_chunks_keep_the_size_and_the_distribution(monkeypatch):
    values = normal(100)
    whole = bootstrap_means(values, n=1000)
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 20_000)
    parts = bootstrap_means(values, n=1000)
    assert parts.shape == whole.shape == (1000,)
    assert float(parts.std()) == pytest.approx(float(whole.std()), rel=0.15)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    seed=st.integers(0, 2**31),
    shift=st.floats(-9, 9),
)
def test_interval_holds_together_and_moves_with_the_values(values, seed, shift):
    tensor = torch.tensor(values, dtype=torch.float64)
    mean, low, high = bootstrap_mean(tensor, n=50, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap_mean(tensor + shift, n=50, seed=seed)
    assert moved == pytest.approx((mean + shift, low + shift, high + shift), abs=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean(torch.tensor([])),
        lambda: bootstrap_mean(torch.tensor([1.0, torch.nan])),
        lambda: bootstrap_mean(torch.ones(3), n=0),
        lambda: bootstrap_mean(torch.ones(3), level=95),
        lambda: paired_bootstrap(torch.ones(3), torch.ones(4)),
        lambda: mean_and_standard_error(torch.ones(3, 4)),
    ],
)
def test_refuses(call):
    with pytest.raises(InputError):
        call()
