"""Intrinsic dimension on manifolds where it is known."""

from __future__ import annotations

import runpy
from collections.abc import Callable

import numpy as np
import pytest

from geovq.errors import InputError
from geovq.geometry.neighbors import NeighborIndex
from tiny import REPOSITORY

DEFINED = runpy.run_path(str(REPOSITORY / "demos" / "_intrinsic_dimension.py"))
levina_bickel, two_nearest = DEFINED["levina_bickel"], DEFINED["two_nearest"]
N_POINTS = 3_000


def segment(rng: np.random.Generator) -> np.ndarray:
    return np.outer(rng.random(N_POINTS), rng.normal(size=7))


def sphere(rng: np.random.Generator) -> np.ndarray:
    normal = rng.normal(size=(N_POINTS, 3))
    return normal / np.linalg.norm(normal, axis=1, keepdims=True) @ rng.normal(size=(3, 10))


def roll(rng: np.random.Generator) -> np.ndarray:
    turn, height = 4 + 10 * rng.random(N_POINTS), 20 * rng.random(N_POINTS)
    return np.stack((turn * np.cos(turn), height, turn * np.sin(turn)), axis=1)


def gaussian(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N_POINTS, 5)) @ np.linalg.qr(rng.normal(size=(20, 20)))[0][:5]


@pytest.mark.parametrize(("make", "dimension"), [(segment, 1), (sphere, 2), (roll, 2), (gaussian, 5)])
def test_dimensions_of_known_manifolds(make: Callable[[np.random.Generator], np.ndarray], dimension: int) -> None:
    points = make(np.random.default_rng(0)).astype(np.float32)
    near = np.sqrt(NeighborIndex(points).neighbors(10).squared_distances)
    assert two_nearest(near).dimension == pytest.approx(dimension, rel=0.1)
    assert levina_bickel(near) == pytest.approx(dimension, rel=0.1)
    assert two_nearest(3 * near).dimension == pytest.approx(two_nearest(near).dimension)
    assert levina_bickel(3 * near) == pytest.approx(levina_bickel(near))


@pytest.mark.parametrize("dimension", [1.0, 3.5, 12.0])
def test_the_line_is_that_of_the_distribution(dimension: float) -> None:
    """Ratios at the quantiles of 1 − μ^−d lie on the line exactly, whatever is left out."""
    share = np.minimum(np.arange(1, 101) / 100, 0.9999)
    near = np.stack((np.full(100, 0.3), 0.3 * (1 - share) ** (-1 / dimension)), axis=1)
    assert two_nearest(near, 0.1).dimension == pytest.approx(dimension)
    fit = two_nearest(near, 0.5)
    assert (fit.n_fitted, fit.dimension) == (50, pytest.approx(dimension))
    assert np.isinf(fit.log_share[-1])


def test_the_likelihood_by_hand() -> None:
    """Of distances 1, 2, 4: half of log 4 + log 2."""
    near = np.tile([1.0, 2.0, 4.0], (10, 1))
    assert levina_bickel(near) == pytest.approx(2 / (3 * np.log(2)))


@pytest.mark.parametrize(
    ("near", "told"),
    [
        (np.ones((20, 1)), "shape"),
        (np.ones((5, 2)), "shape"),
        (np.tile([0.0, 1.0], (20, 1)), "above zero"),
        (np.tile([2.0, 1.0], (20, 1)), "rising"),
        (np.tile([1.0, np.nan], (20, 1)), "finite"),
        (np.ones((20, 2)), "grid"),
    ],
)
def test_what_is_refused(near: np.ndarray, told: str) -> None:
    for estimate in (two_nearest, levina_bickel):
        with pytest.raises(InputError, match=told):
            estimate(near)
