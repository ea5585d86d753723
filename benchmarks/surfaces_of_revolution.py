"""Surfaces of revolution as decoders, their geodesics by Clairaut's relation; see ``surfaces.py``."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.geometry.checks import Array
from surfaces import Manifold, as_pairs, check_count, from_polar

# Gauss–Legendre nodes per geodesic: the integrands are smooth, so 64 leave an error near rounding.
_QUADRATURE_NODES = 64
# Starting directions among which roots of Clairaut's equation are bracketed, and the bisections of each bracket.
_DIRECTIONS = 257
_BISECTIONS = 54
# Pairs at a time: bounds the temporary memory of a scan to about 30 MB per array.
_PAIRS = 256


class SurfaceOfRevolution(Manifold):
    """A profile ``z = h(ρ)`` turned around its axis, over the disc ``ρ ≤ radius`` of the plane: ``D(u) = (u, h(|u|))``.

    With ``q = ρ²`` and ``g(q) = h'(ρ)/ρ`` the metric is ``G = I + g² u uᵀ``; there is no seam and no singular pole.
    Subclasses give ``h`` and ``g``, smooth functions of ``q``.

    **Distance.** Along a geodesic ``ρ² dφ/ds = c`` is constant (Clairaut's relation, do Carmo 1976, § 4-4, example 5).
    With ``w = ±√(ρ² − c²)``, negative before the closest approach to the axis, and ``E = 1 + g²ρ²``,

        length = ∫ √E dw,    Δφ = [atan2(w, c)] + c ∫ g² / (√E + 1) dw,

    which has no singularity at the turning point (for ``g = 0`` it is trigonometry in the plane). The ray leaves the
    inner of the two points with ``c = ρ₁ cos β``, ``w₁ = ρ₁ sin β``: β = π/2 leads straight outwards, β = −π/2 through
    the axis. Every β that turns by the wanted angle is found by bisection; the shortest of these geodesics counts.
    Since ``d²ρ/ds²`` has the sign of the outward push, ρ has no maximum inside a geodesic and the disc is convex.

    Args:
        radius: of the sampled disc.
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        if not radius > 0 or not math.isfinite(radius):
            raise InputError(f"radius is {radius}; it is a length and must be positive")
        self.radius = radius

    @abstractmethod
    def profile(self, squared_radius: Tensor) -> Tensor:
        """``h`` as a function of ``ρ²``."""

    @abstractmethod
    def slope_ratio(self, squared_radius: Tensor) -> Tensor:
        """``h'(ρ)/ρ`` as a function of ``ρ²``."""

    def embed(self, points: Tensor) -> Tensor:
        """``(u, h(|u|))``."""
        return torch.cat((points, self.profile(points.square().sum(dim=1, keepdim=True))), dim=1)

    def metric(self, points: Tensor) -> Tensor:
        """``I + g² u uᵀ``."""
        x, y = points.unbind(dim=1)
        squared = self.slope_ratio(x * x + y * y).square()
        return torch.stack((1 + squared * x * x, squared * x * y, 1 + squared * y * y), dim=1)

    def distance(self, a: Array, b: Array) -> np.ndarray:
        """The shortest geodesic by Clairaut's relation; error near rounding for smooth profiles."""
        first, second = as_pairs(a, b)
        result = np.empty(len(first))
        for start in range(0, len(first), _PAIRS):
            part = slice(start, start + _PAIRS)
            result[part] = self._shortest(first[part], second[part])
        return result

    def sample(self, n_points: int, seed: int) -> Tensor:
        """Uniform over the surface: its area element is that of the disc times ``√(1 + g²ρ²)``, by rejection."""
        check_count(n_points)
        generator = np.random.default_rng(seed)
        grid = torch.linspace(0, self.radius**2, 1_025, dtype=torch.float64)
        bound = 1.01 * float(self._stretch(grid).max())
        kept: list[np.ndarray] = []
        while sum(map(len, kept)) < n_points:
            uniform = generator.random((2 * n_points, 3))
            squared = self.radius**2 * uniform[:, 0]
            stretch = self._stretch(torch.from_numpy(squared)).numpy()
            inside = uniform[:, 2] * bound <= stretch
            kept.append(from_polar(np.sqrt(squared[inside]), 2 * math.pi * uniform[inside, 1]))
        return torch.from_numpy(np.concatenate(kept)[:n_points])

    def _stretch(self, squared_radius: Tensor) -> Tensor:
        """``√E``: length along the surface per length along the radius."""
        return (1 + self.slope_ratio(squared_radius).square() * squared_radius).sqrt()

    def _shortest(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        radii = np.sort(np.stack((np.hypot(*a.T), np.hypot(*b.T)), axis=1), axis=1)
        turn = np.abs(np.arctan2(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0], (a * b).sum(axis=1)))
        directions = np.linspace(-math.pi / 2, math.pi / 2, _DIRECTIONS)
        shape = (len(a), _DIRECTIONS)
        inner, outer = (np.broadcast_to(radii[:, [end]], shape).ravel() for end in (0, 1))
        excess = self._rays(np.tile(directions, len(a)), inner, outer)[0].reshape(shape) - turn[:, None]
        # The ends of the scan are known: through the axis turns by π ≥ turn, straight outwards by 0 ≤ turn.
        above = excess >= 0
        above[:, 0], above[:, -1] = True, False
        pair, place = np.nonzero(above[:, :-1] != above[:, 1:])
        low, high = directions[place], directions[place + 1]
        rising = ~above[pair, place]
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            enough = self._rays(middle, radii[pair, 0], radii[pair, 1])[0] >= turn[pair]
            right = enough != rising  # the root lies to the right of the middle
            low, high = np.where(right, middle, low), np.where(right, high, middle)
        result = np.full(len(a), np.inf)
        lengths = self._rays((low + high) / 2, radii[pair, 0], radii[pair, 1])[1]
        np.minimum.at(result, pair, lengths)
        return result

    def _rays(self, beta: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turning angles and lengths of rays that leave radius ``inner`` in directions ``beta`` up to ``outer``."""
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE_NODES)
        c, start = inner * np.cos(beta), inner * np.sin(beta)
        end = np.sqrt((outer - inner) * (outer + inner) + start**2)  # √(outer² − c²) without cancellation
        half = (end - start) / 2
        w = (end + start)[:, None] / 2 + half[:, None] * nodes
        squared = torch.from_numpy((c**2)[:, None] + w**2)
        stretch = self._stretch(squared).numpy()
        bend = self.slope_ratio(squared).numpy() ** 2 / (stretch + 1)
        turn = np.arctan2(end, c) - np.arctan2(start, c) + c * half * (bend @ weights)
        return turn, half * (stretch @ weights)


class Paraboloid(SurfaceOfRevolution):
    """``z = ½ a ρ²``: bent the same way everywhere, with curvature ``a² / (1 + a²ρ²)²`` (do Carmo 1976, § 3-3).

    Opposite points of the rim stay joined by one shortest geodesic, through the axis, while ``a·radius`` is below 1.509
    (the root of ``t tanh t = 1`` with ``a·radius = sinh t``); beyond, they have conjugate points.

    Args:
        curvature: ``a``, the curvature of the profile at the pole.
        radius: of the sampled disc.
    """

    def __init__(self, curvature: float = 1.0, radius: float = 1.5) -> None:
        super().__init__(radius)
        self.curvature = curvature

    def profile(self, squared_radius: Tensor) -> Tensor:
        """``½ a ρ²``."""
        return self.curvature / 2 * squared_radius

    def slope_ratio(self, squared_radius: Tensor) -> Tensor:
        """``a``."""
        return torch.full_like(squared_radius, self.curvature)


class Bell(SurfaceOfRevolution):
    """``z = H exp(−ρ²/2)``: a hill with positive curvature at the top (ρ < 1) and negative curvature on its flanks.

    The shortest curve between points on opposite sides passes beside the top, so there are two of them for points of
    one meridian: its cut locus.

    Args:
        height: ``H``.
        radius: of the sampled disc.
    """

    def __init__(self, height: float = 1.5, radius: float = 2.5) -> None:
        super().__init__(radius)
        self.height = height

    def profile(self, squared_radius: Tensor) -> Tensor:
        """``H exp(−ρ²/2)``."""
        return self.height * (-squared_radius / 2).exp()

    def slope_ratio(self, squared_radius: Tensor) -> Tensor:
        """``−H exp(−ρ²/2)``."""
        return -self.height * (-squared_radius / 2).exp()
