"""Surfaces against autograd, finite differences, quadrature and the geodesic equation integrated by scipy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from geovq.errors import InputError
from geovq.geometry.metric import token_metrics
from geovq.geometry.symmetric import unpack_symmetric
from surfaces import Flat, Sphere, SwissRoll
from surfaces_of_revolution import Bell, Paraboloid

MANIFOLDS = {
    "flat": Flat(),
    "sheared": Flat(np.array([[1.0, 0.6], [0.0, 0.7], [-0.3, 0.2]])),
    "sphere": Sphere(),
    "cap": Sphere(polar_angle=0.8),
    "swiss roll": SwissRoll(),
    "paraboloid": Paraboloid(),
    "bell": Bell(),
}
every = pytest.mark.parametrize("manifold", MANIFOLDS.values(), ids=MANIFOLDS.keys())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exact_token_metrics_are_the_analytic_tensors(manifold, dtype):
    points = manifold.sample(60, seed=1).to(dtype)
    measured = token_metrics(manifold, points[:, :, None, None], "exact")
    truth = manifold.metric(points)
    assert truth.dtype == dtype
    error = (measured.double() - truth.double()).norm(dim=1) / truth.double().norm(dim=1)
    assert error.max() <= (1e-4 if dtype == torch.float32 else 1e-6)


@every
def test_metrics_match_finite_differences(manifold):
    points, step = manifold.sample(40, seed=2), 1e-5
    columns = []
    for direction in torch.eye(2, dtype=torch.float64):
        ahead, behind = manifold.embed(points + step * direction), manifold.embed(points - step * direction)
        columns.append((ahead - behind) / (2 * step))
    jacobian = torch.stack(columns, dim=2)
    truth = unpack_symmetric(manifold.metric(points), 2)
    error = (jacobian.mT @ jacobian - truth).norm(dim=(1, 2)) / truth.norm(dim=(1, 2))
    assert error.max() <= 1e-7


def geodesics(manifold, starts, directions, lengths):
    """Points ``(lengths, T, 2)`` of unit-speed geodesics at increasing lengths, from the geodesic equation.

    The acceleration of a geodesic is normal to the surface: ``JᵀJ ü = −Jᵀ D''(u̇, u̇)`` (do Carmo 1976, § 4-4).
    """

    def push(function, u, direction):
        return torch.func.jvp(function, (u,), (direction.expand_as(u),))[1]

    def slope(_, state):
        u, velocity = torch.from_numpy(state.reshape(-1, 4).copy()).split(2, dim=1)
        J = torch.stack([push(manifold.embed, u, axis) for axis in torch.eye(2, dtype=u.dtype)], dim=2)
        second = push(lambda at: push(manifold.embed, at, velocity), u, velocity)
        acceleration = torch.linalg.solve(J.mT @ J, -J.mT @ second[..., None])[..., 0]
        return torch.cat((velocity, acceleration), dim=1).numpy().ravel()

    metric = unpack_symmetric(manifold.metric(starts), 2)
    speed = torch.einsum("ti,tij,tj->t", directions, metric, directions).sqrt()
    state = torch.cat((starts, directions / speed[:, None]), dim=1).numpy().ravel()
    found = solve_ivp(slope, (0, lengths[-1]), state, t_eval=lengths, rtol=1e-9, atol=1e-11, method="DOP853")
    return torch.from_numpy(found.y.T.reshape(len(lengths), -1, 4)[:, :, :2].copy())


@every
def test_distances_match_the_integrated_geodesic_equation(manifold):
    starts = manifold.sample(20, seed=3)
    directions = torch.from_numpy(np.random.default_rng(4).normal(size=(20, 2)))
    # 0.9 lies below every conjugate distance (at least π/√K), so these geodesics are the shortest curves.
    short, long = geodesics(manifold, starts, directions, [0.9, 2.0])
    assert manifold.distance(starts, short) == pytest.approx(0.9, rel=1e-7)
    assert (manifold.distance(starts, long) <= 2.0 + 1e-7).all()


@pytest.mark.parametrize("manifold", [Paraboloid(), Bell()], ids=["paraboloid", "bell"])
def test_revolution_distances_match_shooting_in_every_direction(manifold):
    """The first of all geodesics from a point that reaches a target is as long as ``distance`` says."""
    start, targets = torch.tensor([[1.2, 0.1]], dtype=torch.float64), manifold.sample(5, seed=8)
    truth = manifold.distance(start.expand(5, 2), targets)
    angles = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)[:-1]
    fan = torch.stack((angles.cos(), angles.sin()), dim=1)
    lengths = np.linspace(0, truth.max(), 401)
    rays = manifold.embed(geodesics(manifold, start.expand(180, 2), fan, lengths).flatten(0, 1)).view(401, 180, 3)
    for target, length in zip(targets, truth, strict=True):
        misses = (rays - manifold.embed(target[None])).norm(dim=2).amin(dim=1).numpy()
        arrival = lengths[misses < 0.04][0]  # rays 2° apart pass within a few hundredths
        assert arrival == pytest.approx(length, abs=0.05)


@every
@given(seed=st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_distance_is_a_metric(manifold, seed):
    a, b, c = manifold.sample(15, seed).split(5)
    ab, bc, ac = manifold.distance(a, b), manifold.distance(b, c), manifold.distance(a, c)
    assert manifold.distance(b, a) == pytest.approx(ab, rel=1e-9)
    assert (ac <= ab + bc + 1e-9).all()
    assert (ab > 0).all()
    assert manifold.distance(a, a) == pytest.approx(0, abs=1e-12)
    chord = (manifold.embed(a) - manifold.embed(b)).norm(dim=1).numpy()
    assert (ab >= chord * (1 - 1e-12)).all()


@every
def test_close_points_are_measured_by_the_metric(manifold):
    a = manifold.sample(50, seed=5)
    step = 1e-5 * torch.from_numpy(np.random.default_rng(6).normal(size=(50, 2)))
    metric = unpack_symmetric(manifold.metric(a + step / 2), 2)
    expected = torch.einsum("ti,tij,tj->t", step, metric, step).sqrt().numpy()
    assert manifold.distance(a, a + step) == pytest.approx(expected, rel=1e-6)


def test_sphere_gives_great_circles_at_poles_and_antipodes():
    sphere = Sphere()
    points = sphere.sample(200, seed=0)
    p, q = sphere.embed(points[:100]), sphere.embed(points[100:])
    assert p.norm(dim=1).numpy() == pytest.approx(1)
    assert sphere.distance(points[:100], points[100:]) == pytest.approx((p * q).sum(dim=1).acos().numpy(), rel=1e-6)
    assert (p[:, 2] >= -1e-12).all()
    pole, rim = np.zeros((1, 2)), np.array([[0.6, 0.8]])
    assert sphere.distance(pole, rim) == pytest.approx(math.pi / 2)
    assert sphere.distance(rim, -rim) == pytest.approx(math.pi)


def test_swiss_roll_distance_is_far_longer_than_the_gap_between_its_turns():
    roll = SwissRoll()
    a, b = np.array([[5.0, 1.0]]), np.array([[5.0 + 2 * math.pi, 1.0]])
    along = quad(lambda u: math.sqrt(1 + u * u), 5.0, 5.0 + 2 * math.pi)[0]
    assert roll.distance(a, b) == pytest.approx(along)
    assert np.linalg.norm(roll.embed(torch.from_numpy(a)) - roll.embed(torch.from_numpy(b))) < along / 7
    low, high = roll.angles
    angle = roll.sample(2_000, seed=0)[:, 0]
    assert ((angle >= low - 1e-9) & (angle <= high + 1e-9)).all()


@pytest.mark.parametrize("manifold", [Paraboloid(), Bell()], ids=["paraboloid", "bell"])
def test_meridians_have_the_length_of_the_profile(manifold):
    def along(radius):
        def speed(rho):
            return math.sqrt(1 + (float(manifold.slope_ratio(torch.tensor(rho**2, dtype=torch.float64))) * rho) ** 2)

        return quad(speed, 0, radius)[0]

    pole, near, far = np.zeros((1, 2)), np.array([[0.3, 0.4]]), np.array([[0.9, 1.2]])
    assert manifold.distance(pole, far) == pytest.approx(along(1.5), rel=1e-10)
    assert manifold.distance(near, far) == pytest.approx(along(1.5) - along(0.5), rel=1e-10)
    through_the_pole = along(1.5) + along(0.5)
    if isinstance(manifold, Paraboloid):
        assert manifold.distance(-near, far) == pytest.approx(through_the_pole, rel=1e-10)
    else:  # around the hill is shorter: the cut locus of the bell
        assert manifold.distance(-far, far)[0] < 2 * along(1.5) - 0.02
    assert manifold.distance(pole, pole) == 0


def test_a_low_hill_is_the_plane_and_turning_the_axis_changes_nothing():
    a, b = np.random.default_rng(0).normal(size=(2, 50, 2))
    assert Bell(height=1e-9).distance(a, b) == pytest.approx(np.linalg.norm(a - b, axis=1), rel=1e-12)
    turn = np.array([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    for manifold in (Paraboloid(), Bell()):
        assert manifold.distance(a @ turn.T, b @ turn.T) == pytest.approx(manifold.distance(a, b), rel=1e-9)


BOXES = {
    "sheared": ((0, 0), (1, 1)),
    "sphere": ((-1, -1), (1, 1)),
    "swiss roll": ((1.5 * math.pi, 0), (4.5 * math.pi, 2.1)),
    "paraboloid": ((-1.5, -1.5), (1.5, 1.5)),
    "bell": ((-2.5, -2.5), (2.5, 2.5)),
}
BOXES = {name: (torch.tensor(low).double(), torch.tensor(high).double()) for name, (low, high) in BOXES.items()}


@pytest.mark.parametrize("name", BOXES)
def test_samples_are_uniform_over_the_area_and_follow_the_seed(name):
    manifold = MANIFOLDS[name]
    points = manifold.sample(20_000, seed=0)
    assert points.dtype == torch.float64
    assert points.shape == (20_000, 2)
    assert torch.equal(manifold.sample(100, seed=5), manifold.sample(100, seed=5))
    assert not torch.equal(manifold.sample(100, seed=5), manifold.sample(100, seed=6))
    # The same moments from a grid of the chart's box, weighted by the area element √det G.
    side = (np.arange(600) + 0.5) / 600
    low, high = BOXES[name]
    grid = torch.from_numpy(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)) * (high - low) + low
    if name in ("sphere", "paraboloid", "bell"):
        grid = grid[grid.norm(dim=1) <= high[0]]
    g11, g12, g22 = manifold.metric(grid).unbind(dim=1)
    area = (g11 * g22 - g12**2).sqrt()
    for moment in (lambda u: u, lambda u: u.square(), lambda u: (u[:, :1] * u[:, 1:]).abs()):
        values = moment(points)
        expected = (area[:, None] * moment(grid)).sum(dim=0) / area.sum()
        standard_error = values.std(dim=0) / math.sqrt(len(points))
        assert ((values.mean(dim=0) - expected).abs() < 4.5 * standard_error + 1e-3 * expected.abs()).all()


def test_bad_input_is_named():
    sphere = Sphere()
    with pytest.raises(InputError, match=r"\(B, 2, 1, 1\)"):
        sphere(torch.zeros(3, 2))
    with pytest.raises(InputError, match=r"\(T, 2\)"):
        sphere.distance(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="NaN"):
        Bell().distance(np.full((1, 2), np.nan), np.zeros((1, 2)))
    for manifold in MANIFOLDS.values():
        with pytest.raises(InputError, match="n_points is 0"):
            manifold.sample(0, seed=0)
    for build in (
        lambda: Sphere(polar_angle=2.0),
        lambda: Flat(np.ones((3, 2))),
        lambda: Paraboloid(radius=-1.0),
        lambda: SwissRoll(height_scale=0.0),
    ):
        with pytest.raises(InputError):
            build()
