from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geovq.errors import InputError
from geovq.evaluation.gaussian_reference import covariance_spectrum, gaussian_distortion, gaussian_reference_psnr

REAL = os.environ.get("GEOVQ_DATA", "")
spectra = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=12)
rates = st.floats(0, 80)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_bisection(eigenvalues: list[float], bits: float) -> float:
    """The water level found by halving, straight from the definition."""
    low, high = 0.0, max(eigenvalues)
    for _ in range(2000):
        level = (low + high) / 2
        rate = sum(0.5 * math.log2(value / level) for value in eigenvalues if value > level) if level > 0 else math.inf
        low, high = (level, high) if rate > bits else (low, level)
    return sum(min(value, high) for value in eigenvalues)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_white_spectrum_follows_the_closed_form(n: int) -> None:
    bits = double(0.0, 0.5, 3.0, 40.0)
    expected = n * 0.7 * 2 ** (-2 * bits / n)
    torch.testing.assert_close(gaussian_distortion(torch.full((n,), 0.7), bits), expected, rtol=1e-6, atol=0)


def test_the_second_eigenvalue_is_described_once_the_water_falls_to_it() -> None:
    # 4 and 1: the first bit takes the first from 4 to 1; every bit after that halves both in variance
    found = gaussian_distortion(double(1.0, 4.0), double(0.0, 0.5, 1.0, 2.0, 3.0))
    torch.testing.assert_close(found, double(5.0, 3.0, 2.0, 1.0, 0.5))


@settings(deadline=None, max_examples=60)
@given(spectra, rates)
def test_water_filling_is_that_of_the_definition(eigenvalues: list[float], bits: float) -> None:
    found = float(gaussian_distortion(double(*eigenvalues), double(bits))[0])
    assert found == pytest.approx(by_bisection(eigenvalues, bits), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(spectra, st.lists(rates, min_size=3, max_size=8))
def test_distortion_falls_with_the_rate_and_is_convex(eigenvalues: list[float], bits: list[float]) -> None:
    grid = torch.linspace(0, max(bits) + 1, 50, dtype=torch.float64)
    distortion = gaussian_distortion(double(*eigenvalues), grid)
    total = sum(eigenvalues)
    assert float(distortion[0]) == pytest.approx(total)
    assert bool((distortion.diff() <= 1e-9 * total).all())
    assert bool((distortion.diff().diff() >= -1e-9 * total).all())


def test_zero_eigenvalues_cost_nothing_and_count_as_pixels() -> None:
    with_zeros, bits = double(1.0, 0.0, 0.0, 0.0), double(0.0, 2.0)
    torch.testing.assert_close(gaussian_distortion(with_zeros, bits), double(1.0, 2.0**-4))
    torch.testing.assert_close(
        gaussian_reference_psnr(with_zeros, bits), -10 * (double(1.0, 2.0**-4) / 4).log10(), rtol=1e-12, atol=0
    )
    assert gaussian_reference_psnr(torch.zeros(3), bits).tolist() == [100.0, 100.0]


@pytest.mark.parametrize("shape", [(30, 1, 3, 4), (9, 3, 2, 2)])
def test_the_spectrum_is_that_of_the_covariance(shape: tuple[int, ...]) -> None:
    images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels = images.flatten(1).double().numpy() / 255
    expected = np.linalg.eigvalsh(np.cov(pixels, rowvar=False, bias=True))[::-1]
    found = covariance_spectrum(images)
    np.testing.assert_allclose(found.numpy(), expected.clip(0), atol=1e-12)
    np.testing.assert_allclose(covariance_spectrum(images.float() / 255).numpy(), found.numpy(), atol=1e-6)
    assert float(found.sum()) == pytest.approx(((pixels - pixels.mean(0)) ** 2).sum(1).mean())


@pytest.mark.parametrize(
    ("eigenvalues", "bits"),
    [(double(-1.0), double(1.0)), (double(1.0), double(-1.0)), (double(math.nan), double(1.0)), (double(), double(1))],
)
def test_what_is_no_spectrum_or_rate_is_refused(eigenvalues: torch.Tensor, bits: torch.Tensor) -> None:
    with pytest.raises(InputError, match="none below 0"):
        gaussian_distortion(eigenvalues, bits)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(InputError, match="N of 2 or more"):
        covariance_spectrum(torch.zeros(1, 1, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [("fashion", "FashionMNIST", (19.94, 23.84)), ("mnist", "MNIST", (20.21, 25.45))],
)
def test_the_reference_of_public_sets(name: str, folder: str, expected: tuple[float, float]) -> None:
    if not REAL or not (Path(REAL) / folder / "raw").is_dir():
        pytest.skip("needs GEOVQ_DATA")
    from geovq.data import open_source

    spectrum = covariance_spectrum(open_source(name, REAL, download=False).load().train_images)
    found = gaussian_reference_psnr(spectrum, double(144.0, 441.0))
    assert [round(value, 2) for value in found.tolist()] == pytest.approx(list(expected), abs=0.02)
