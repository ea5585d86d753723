"""The spectrum of a mean metric against closed forms and a quantizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from geovq.errors import InputError
from geovq.evaluation.anisotropy import metric_spectrum, predicted_whitening_gain


def rotated(values: list[float], seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(generator.normal(size=(len(values), len(values))))
    return torch.from_numpy(rotation @ np.diag(values) @ rotation.T)


def test_two_eigenvalues_by_hand() -> None:
    metrics, values = metric_spectrum(rotated([1.0, 4.0]))
    torch.testing.assert_close(values, torch.tensor([4.0, 1.0], dtype=torch.float64))
    assert metrics["metric_mean_ratio"] == pytest.approx(2.5 / 2)
    assert metrics["metric_mean_ratio_db"] == pytest.approx(10 * np.log10(1.25))
    assert metrics["metric_eigenvalue_mean"] == pytest.approx(2.5)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_the_ratio_is_at_least_one_and_has_no_unit(values: list[float], scale: float) -> None:
    ratio = metric_spectrum(rotated(values))[0]["metric_mean_ratio"]
    assert ratio >= 1 - 1e-9
    assert metric_spectrum(scale * rotated(values))[0]["metric_mean_ratio"] == pytest.approx(ratio, rel=1e-6)


def test_it_is_the_gain_of_fine_grids_in_whitened_coordinates() -> None:
    """Cubes of equal volume, with sides equal or scaled by the roots of the eigenvalues, on uniform tokens."""
    values = np.array([9.0, 1.0, 0.25])
    tokens = np.random.default_rng(0).uniform(0, 100, size=(200_000, 3))
    sides = 1 / np.sqrt(values)
    sides /= np.prod(sides) ** (1 / 3)
    costs = []
    for side in (np.ones(3), sides):
        error = tokens - (np.floor(tokens / side) + 0.5) * side
        costs.append(float((values * error**2).sum(1).mean()))
    ratio = metric_spectrum(torch.diag(torch.from_numpy(values)))[0]["metric_mean_ratio"]
    assert costs[0] / costs[1] == pytest.approx(ratio, rel=0.01)


def test_a_direction_without_effect_has_no_ratio() -> None:
    metrics, _ = metric_spectrum(torch.diag(torch.tensor([1.0, 0.0])))
    assert "metric_mean_ratio" not in metrics
    with pytest.raises(InputError, match="zero"):
        metric_spectrum(torch.zeros(3, 3))
    with pytest.raises(InputError, match="give"):
        metric_spectrum(torch.ones(3, 2))


spectra = st.lists(st.floats(1e-2, 1e2), min_size=3, max_size=3)


def decibels(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def allocated(variances: np.ndarray, bits: float) -> np.ndarray:
    """Error variances ``s_i 4^-r_i`` of the bits ``r_i`` that a convex programme finds best, no water level in it."""
    start = np.full(len(variances), bits / len(variances))
    found = minimize(
        lambda share: np.log((variances * 4.0**-share).sum()),
        start,
        jac=lambda share: -np.log(4) * variances * 4.0**-share / (variances * 4.0**-share).sum(),
        bounds=[(0, None)] * len(variances),
        constraints={"type": "eq", "fun": lambda share: share.sum() - bits, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success, found.message
    return np.asarray(variances * 4.0**-found.x)


def errors_of_the_test_channel(
    covariance: np.ndarray, bits: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws ``e = z - q`` of the channel that reaches the least squared error, and the draws ``z`` (400,000, d)."""
    variances, axes = np.linalg.eigh(covariance)
    error = allocated(variances, bits)
    tokens = generator.normal(size=(400_000, len(variances))) * np.sqrt(variances)
    kept = 1 - error / variances
    noise = generator.normal(size=tokens.shape) * np.sqrt(np.maximum(error * kept, 0))
    return (tokens - (kept * tokens + noise)) @ axes.T, tokens @ axes.T


@pytest.mark.parametrize("bits", [0.0, 1.0, 9.0, 40.0])
def test_a_metric_that_is_the_same_in_all_directions_leaves_nothing_to_gain(bits: float) -> None:
    assert predicted_whitening_gain(rotated([5.0, 2.0, 0.01]), 3 * torch.eye(3), bits) == pytest.approx(0, abs=1e-9)


def test_two_active_dimensions_gain_the_ratio_of_the_means() -> None:
    # The second eigenvalue, a quarter of the first, is described from ½ log2 4 = 1 bit on.
    gain = decibels(2.5 / 2)
    for bits in (1.0, 3.0, 20.0):
        assert predicted_whitening_gain(torch.eye(2), rotated([4.0, 1.0]), bits) == pytest.approx(gain)
    # Half a bit: 5 · 2^-½ without the metric; with it 4 falls to 2, and 1 is left out.
    assert predicted_whitening_gain(torch.eye(2), rotated([4.0, 1.0]), 0.5) == pytest.approx(decibels(5 / 2**0.5 / 3))


def test_a_dead_dimension_gains_nothing_where_the_ratio_of_the_means_is_large() -> None:
    covariance, metric = torch.diag(torch.tensor([1.0, 1e-6])), torch.diag(torch.tensor([1.0, 1e-4]))
    assert predicted_whitening_gain(covariance, metric, 4.0) == pytest.approx(0, abs=1e-6)
    assert metric_spectrum(metric)[0]["metric_mean_ratio_db"] > 16
    # Nor does one that does not vary at all, or has no effect at all and no variance.
    assert predicted_whitening_gain(torch.diag(torch.tensor([1.0, 0.0])), metric, 4.0) == pytest.approx(0, abs=1e-9)


def test_a_dimension_without_effect_wastes_the_bits_it_is_given() -> None:
    # Half of the two bits go to a dimension that the decoder ignores: 1 bit is 6.02 dB.
    gain = predicted_whitening_gain(torch.eye(2), torch.diag(torch.tensor([1.0, 0.0])), 2.0)
    assert gain == pytest.approx(decibels(4.0))
    assert (
        predicted_whitening_gain(torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0])), 2) is None
    )


@settings(deadline=None, max_examples=60)
@given(spectra, spectra, st.floats(0, 60), st.floats(1e-3, 1e3))
def test_whitening_never_loses_and_has_no_unit(
    variances: list[float], effects: list[float], bits: float, scale: float
) -> None:
    covariance, metric = rotated(variances, 1), rotated(effects, 2)
    gain = predicted_whitening_gain(covariance, metric, bits)
    assert gain is not None
    assert gain >= -1e-5
    assert predicted_whitening_gain(scale * covariance, metric / scale, bits) == pytest.approx(gain, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(spectra, spectra)
def test_at_high_rate_it_is_the_ratio_of_the_means_whatever_the_covariance(
    variances: list[float], effects: list[float]
) -> None:
    ratio = metric_spectrum(rotated(effects, 2))[0]["metric_mean_ratio_db"]
    assert predicted_whitening_gain(rotated(variances, 1), rotated(effects, 2), 80.0) == pytest.approx(ratio, abs=1e-5)


@pytest.mark.parametrize("bits", [1.0, 3.0, 8.0])
def test_it_is_what_sampled_errors_cost(bits: float) -> None:
    generator = np.random.default_rng(3)
    covariance = rotated([3.0, 1.0, 0.2, 0.05], 4).numpy()
    metric = rotated([20.0, 4.0, 0.5, 0.001], 5).numpy()
    plain, _ = errors_of_the_test_channel(covariance, bits, generator)
    values, axes = np.linalg.eigh(metric)
    root = (axes * np.sqrt(values)) @ axes.T
    whitened, _ = errors_of_the_test_channel(root @ covariance @ root, bits, generator)
    costs = ((plain @ metric) * plain).sum(1).mean(), (whitened**2).sum(1).mean()
    gain = predicted_whitening_gain(torch.from_numpy(covariance), torch.from_numpy(metric), bits)
    assert gain == pytest.approx(decibels(costs[0] / costs[1]), abs=0.05)


@pytest.mark.slow
def test_codebooks_of_gaussian_tokens_gain_about_that() -> None:
    from geovq.geometry.symmetric import pack_symmetric
    from geovq.quantizers import EuclideanKMeans, WhitenedKMeans

    covariance, metric = rotated([1.0, 0.6, 0.3, 1e-4], 6), rotated([4.0, 0.2, 1.0, 0.01], 7)
    spread = torch.linalg.cholesky(covariance).numpy()
    tokens = (np.random.default_rng(8).normal(size=(60_000, 4)) @ spread.T).astype(np.float32)
    packed = pack_symmetric(metric.float())[None].expand(len(tokens), -1).numpy()
    costs = []
    for codebook in (EuclideanKMeans(n_codes=256, max_iter=50), WhitenedKMeans(n_codes=256, max_iter=50, ridge=1e-6)):
        codebook.fit(tokens, metrics=packed)
        error = tokens - codebook.cluster_centers_[codebook.predict(tokens)]
        costs.append(float(((error @ metric.float().numpy()) * error).sum(1).mean()))
    gain = predicted_whitening_gain(covariance, metric, 8.0)
    assert gain is not None
    assert gain > 1
    assert decibels(costs[0] / costs[1]) == pytest.approx(gain, abs=0.4)


def test_what_is_no_pair_of_matrices_is_refused() -> None:
    for covariance, metric in ((torch.eye(2), torch.eye(3)), (torch.ones(2), torch.ones(2))):
        with pytest.raises(InputError, match="give both"):
            predicted_whitening_gain(covariance, metric, 1.0)
    with pytest.raises(InputError, match="not finite"):
        predicted_whitening_gain(torch.eye(2), torch.full((2, 2), torch.nan), 1.0)
    with pytest.raises(InputError, match="none below 0"):
        predicted_whitening_gain(torch.eye(2), torch.eye(2), -1.0)
