"""Surfaces whose metric tensors and geodesics are known, as decoders: the truth that the geometry engine is held to.

Every manifold is an ``nn.Module`` that maps latents ``(B, 2, 1, 1)`` to 'images' ``(B, 1, 1, 3)``, the points of a
surface in space (lengths in units of that space, not pixels of [0, 1]). So it goes wherever a decoder goes, and what
is computed from it can be compared with formulas.

Charts are chosen without seams, so that neighbouring latents are neighbouring points, and domains are geodesically
convex: a shortest curve between two points of the domain stays inside it, where there are samples.

| manifold | chart | domain | distance |
|---|---|---|---|
| ``Flat`` | linear | unit square | closed form |
| ``Sphere`` | stereographic, conformal | cap of at most a hemisphere | closed form |
| ``SwissRoll`` | angle and height | rectangle of the unrolled sheet | closed form |
| ``Paraboloid``, ``Bell`` | projection to the plane (Monge) | disc | Clairaut's relation, quadrature |

The last two are surfaces of revolution of any profile and live in ``surfaces_of_revolution.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from geovq.errors import InputError
from geovq.geometry.checks import Array, as_array
from geovq.geometry.symmetric import pack_symmetric


class Manifold(nn.Module, ABC):
    """A surface in space with a chart, its metric and its geodesic distance."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()  # nothing is trained, and metric tensors are asked of decoders in eval mode

    def forward(self, latents: Tensor) -> Tensor:
        """'Images' ``(B, 1, 1, 3)`` of latents ``(B, 2, 1, 1)``, in the dtype of the latents."""
        if latents.ndim != 4 or latents.shape[1:] != (2, 1, 1):
            raise InputError(f"latents have shape {tuple(latents.shape)}; a surface decodes (B, 2, 1, 1)")
        return self.embed(latents[:, :, 0, 0])[:, None, None, :]

    @abstractmethod
    def embed(self, points: Tensor) -> Tensor:
        """Points of the surface ``(T, 3)`` at chart points ``(T, 2)``."""

    @abstractmethod
    def metric(self, points: Tensor) -> Tensor:
        """Packed metric tensors ``(T, 3)``: ``G_11, G_12, G_22``, the first fundamental form (do Carmo 1976, § 2-5)."""

    @abstractmethod
    def distance(self, a: Array, b: Array) -> np.ndarray:
        """Geodesic distances ``(T,)``, float64, of pairs of chart points ``(T, 2)`` and ``(T, 2)``.

        Raises:
            InputError: shapes that differ or are not ``(T, 2)``, or values that are not finite.
        """

    @abstractmethod
    def sample(self, n_points: int, seed: int) -> Tensor:
        """Chart points ``(n_points, 2)``, float64, uniform over the area of the surface.

        Raises:
            InputError: ``n_points`` below 1.
        """


class Flat(Manifold):
    """The plane ``D(u) = A u`` over the unit square: a control whose only error is that of the graph itself.

    ``G = AᵀA`` everywhere, and the distance is ``‖A(a − b)‖``.

    Args:
        matrix: ``(3, 2)`` of rank 2; by default the columns are orthonormal and the chart is isometric.

    Raises:
        InputError: another shape, or a rank below 2.
    """

    matrix: Tensor

    def __init__(self, matrix: Array | None = None) -> None:
        super().__init__()
        values = np.array([[2, 1], [2, -2], [1, 2]]) / 3 if matrix is None else as_array(matrix, np.float64)
        if values.shape != (3, 2) or not np.isfinite(values).all() or np.linalg.matrix_rank(values) < 2:
            raise InputError(f"matrix has shape {values.shape}; give a finite (3, 2) matrix of rank 2")
        self.register_buffer("matrix", torch.from_numpy(values.copy()))

    def embed(self, points: Tensor) -> Tensor:
        """``A u``."""
        return points @ self.matrix.to(points).T

    def metric(self, points: Tensor) -> Tensor:
        """``AᵀA``."""
        return pack_symmetric(self.matrix.T @ self.matrix).to(points).expand(len(points), 3)

    def distance(self, a: Array, b: Array) -> np.ndarray:
        """``‖A(a − b)‖``."""
        first, second = as_pairs(a, b)
        return np.linalg.norm((first - second) @ self.matrix.cpu().numpy().T, axis=1)

    def sample(self, n_points: int, seed: int) -> Tensor:
        """Uniform over the unit square."""
        return torch.from_numpy(uniform_square(n_points, seed))


class Sphere(Manifold):
    """A cap of the unit sphere around the north pole, by stereographic projection from the south pole.

    ``D(u) = (2u, 1 − |u|²) / (1 + |u|²)`` is conformal: ``G = 4 I / (1 + |u|²)²`` (do Carmo 1976, § 2-2, exercise 16),
    and a point at polar angle θ has ``|u| = tan(θ/2)``. A cap of at most a hemisphere is convex; antipodes lie on its
    rim only, where the distance π is right although the shortest curve is not unique.

    Args:
        polar_angle: of the rim of the sampled cap, in (0, π/2].

    Raises:
        InputError: another angle.
    """

    def __init__(self, polar_angle: float = math.pi / 2) -> None:
        super().__init__()
        if not 0 < polar_angle <= math.pi / 2:
            raise InputError(f"polar_angle is {polar_angle}; a convex cap needs an angle in (0, π/2]")
        self.polar_angle = polar_angle

    def embed(self, points: Tensor) -> Tensor:
        """Inverse stereographic projection."""
        squared = points.square().sum(dim=1, keepdim=True)
        return torch.cat((2 * points, 1 - squared), dim=1) / (1 + squared)

    def metric(self, points: Tensor) -> Tensor:
        """``4 I / (1 + |u|²)²``."""
        factor = 4 / (1 + points.square().sum(dim=1)).square()
        return torch.stack((factor, torch.zeros_like(factor), factor), dim=1)

    def distance(self, a: Array, b: Array) -> np.ndarray:
        """The angle between the two points: ``2 atan2(‖p − q‖, ‖p + q‖)``, exact for small and large angles alike."""
        first, second = (self.embed(torch.from_numpy(points)).numpy() for points in as_pairs(a, b))
        return 2 * np.arctan2(np.linalg.norm(first - second, axis=1), np.linalg.norm(first + second, axis=1))

    def sample(self, n_points: int, seed: int) -> Tensor:
        """Uniform over the cap: cos θ is uniform (Archimedes)."""
        uniform = uniform_square(n_points, seed)
        polar = np.arccos(1 - uniform[:, 0] * (1 - math.cos(self.polar_angle)))
        return torch.from_numpy(from_polar(np.tan(polar / 2), 2 * math.pi * uniform[:, 1]))


class SwissRoll(Manifold):
    """A sheet rolled along the spiral of Archimedes: ``D(u, v) = (u cos u, c v, u sin u)``.

    The metric is ``diag(1 + u², c²)``. With the arc length of the spiral ``s(u) = ½(u √(1 + u²) + asinh u)`` the map
    ``(u, v) → (s, c v)`` unrolls the sheet isometrically (it is developable, do Carmo 1976, § 4-2), so distances are
    those of the plane. Three half turns of the roll lie close in space and far apart on it.

    Args:
        height_scale: ``c``, length per unit of ``v``; by default between the extremes of ``√(1 + u²)``, so that
            neighbours in the chart are neighbours on the sheet.
    """

    angles = (1.5 * math.pi, 4.5 * math.pi)
    height = 21.0

    def __init__(self, height_scale: float = 10.0) -> None:
        super().__init__()
        if not height_scale > 0 or not math.isfinite(height_scale):
            raise InputError(f"height_scale is {height_scale}; it is a length and must be positive")
        self.height_scale = height_scale

    def embed(self, points: Tensor) -> Tensor:
        """``(u cos u, c v, u sin u)``."""
        angle, height = points.unbind(dim=1)
        return torch.stack((angle * angle.cos(), self.height_scale * height, angle * angle.sin()), dim=1)

    def metric(self, points: Tensor) -> Tensor:
        """``diag(1 + u², c²)``."""
        along = 1 + points[:, 0].square()
        return torch.stack((along, torch.zeros_like(along), torch.full_like(along, self.height_scale**2)), dim=1)

    def distance(self, a: Array, b: Array) -> np.ndarray:
        """Distance on the unrolled sheet."""
        first, second = (
            np.stack((_spiral_length(p[:, 0]), self.height_scale * p[:, 1]), axis=1) for p in as_pairs(a, b)
        )
        return np.linalg.norm(first - second, axis=1)

    def sample(self, n_points: int, seed: int) -> Tensor:
        """Uniform over the sheet: the arc length is uniform, its angle found by Newton's method."""
        uniform = uniform_square(n_points, seed)
        low, high = _spiral_length(np.array(self.angles))
        length = low + (high - low) * uniform[:, 0]
        angle = np.sqrt(2 * length)  # above the root of a convex function: Newton descends to it
        for _ in range(8):
            angle -= (_spiral_length(angle) - length) / np.sqrt(1 + angle**2)
        return torch.from_numpy(np.stack((angle, uniform[:, 1] * self.height / self.height_scale), axis=1))


def _spiral_length(angle: np.ndarray) -> np.ndarray:
    """Arc length of ``r = u`` from the centre to angle ``u``."""
    return (angle * np.sqrt(1 + angle**2) + np.arcsinh(angle)) / 2


def as_pairs(a: Array, b: Array) -> tuple[np.ndarray, np.ndarray]:
    """Two equally long lists of chart points ``(T, 2)`` as float64.

    Raises:
        InputError: shapes that differ or are not ``(T, 2)``, or values that are not finite.
    """
    first, second = as_array(a, np.float64), as_array(b, np.float64)
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] != 2:
        raise InputError(f"points have shapes {first.shape} and {second.shape}; give pairs (T, 2) and (T, 2)")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("points hold NaN or infinity; a chart has no such point")
    return first, second


def check_count(n_points: int) -> None:
    """Refuse to sample fewer than one point."""
    if n_points < 1:
        raise InputError(f"n_points is {n_points}; sample at least 1")


def uniform_square(n_points: int, seed: int) -> np.ndarray:
    """``(n_points, 2)`` uniform numbers of the unit square."""
    check_count(n_points)
    return np.random.default_rng(seed).random((n_points, 2))


def from_polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Plane points ``(T, 2)`` from polar coordinates."""
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
