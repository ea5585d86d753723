"""The spectrum of a mean metric against closed forms and a quantizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.evaluation.anisotropy import metric_spectrum


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
