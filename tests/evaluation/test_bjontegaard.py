"""BD-rate against cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from geovq.errors import InputError
from geovq.evaluation.bjontegaard import bd_rate


def test_half_the_bits_everywhere_are_fifty_percent_less() -> None:
    psnr, bits = [20.0, 22.0, 23.0, 25.0], [64.0, 96.0, 110.0, 176.0]
    assert bd_rate(psnr, [rate / 2 for rate in bits], psnr, bits) == (pytest.approx(-50.0), 20.0, 25.0)
    assert bd_rate(psnr, bits, psnr, bits)[0] == pytest.approx(0.0)


def test_straight_lines_in_the_logarithm_of_the_rate() -> None:
    """ln bits falls by 0.1 at 21 dB and by 0.3 at 23 dB, both on straight lines: by 0.2 in the mean."""
    reference = [20.0, 21.0, 23.0, 24.0], [math.exp(x - 16) for x in (20.0, 21.0, 23.0, 24.0)]
    method = [21.0, 23.0], [math.exp(21 - 16 - 0.1), math.exp(23 - 16 - 0.3)]
    found, low, high = bd_rate(*reversed_points(*method), *reference)
    assert (low, high) == (21.0, 23.0)
    assert found == pytest.approx(100 * (math.exp(-0.2) - 1))


def test_the_cubic_between_three_points() -> None:
    """ln bits 0, 1, 4 at 0, 1, 2 dB. Slopes by Fritsch and Carlson: secants 1 and 3, at equal steps their harmonic mean
    1.5 inside, (3·1 − 3)/2 = 0 at the lower end, (3·3 − 1)/2 = 4 at the upper one. A cubic of Hermite's form has the
    integral (y₀ + y₁)/2 + (d₀ − d₁)/12 over a step of 1: 0.5 − 1.5/12 and 2.5 + (1.5 − 4)/12, together 2.667.
    """
    curved = [0.0, 1.0, 2.0], [1.0, math.e, math.e**4]
    flat = [0.0, 2.0], [1.0, 1.0]
    found, _, _ = bd_rate(*curved, *flat)
    mean = (0.5 - 1.5 / 12 + 2.5 + (1.5 - 4) / 12) / 2
    assert found == pytest.approx(100 * (math.exp(mean) - 1))


def reversed_points(psnr: list[float], bits: list[float]) -> tuple[list[float], list[float]]:
    return psnr[::-1], bits[::-1]


@pytest.mark.parametrize(
    ("psnr", "bits", "message"),
    [
        ([20.0], [100.0], "two points or more"),
        ([20.0, 21.0], [100.0, 0.0], "above 0"),
        ([20.0, 20.0], [100.0, 90.0], "the same"),
        ([30.0, 31.0], [100.0, 110.0], "no PSNR is common"),
    ],
)
def test_bad_input(psnr: list[float], bits: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bd_rate(psnr, bits, [20.0, 22.0], [90.0, 120.0])
