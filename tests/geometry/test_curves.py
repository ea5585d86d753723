"""Curve lengths, resampling and refinement against known geodesics, dense matrices and scipy's minimiser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

import geodesic_error as truth  # the benchmark behind the figure: what the documentation claims is what is tested
from geovq.errors import InputError
from geovq.geometry.curves import curve_length, in_context, path_images, refine_paths, resample
from geovq.geometry.energy_descent import energy_and_gradient, gauss_newton_solver
from surfaces import Flat, Sphere, SwissRoll
from surfaces_of_revolution import Bell, Paraboloid

SURFACES = {"flat": Flat(), "sphere": Sphere(), "roll": SwissRoll(), "paraboloid": Paraboloid(), "bell": Bell()}
every = pytest.mark.parametrize("manifold", SURFACES.values(), ids=SURFACES.keys())


def rough_paths(manifold, n_paths, seed, n_points=9, dtype=torch.float64):
    """Straight lines in the chart, shaken: the ends lie in the domain."""
    a, b = manifold.sample(2 * n_paths, seed).split(n_paths)
    share = torch.linspace(0, 1, n_points, dtype=torch.float64)[:, None]
    shake = 0.05 * torch.from_numpy(np.random.default_rng(seed).normal(size=(n_paths, n_points, 2)))
    shake[:, 0] = shake[:, -1] = 0
    return torch.lerp(a[:, None], b[:, None], share).add(shake).to(dtype), manifold.distance(a, b)


def conv_decoder(activation=nn.SiLU):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), activation(), nn.Upsample(scale_factor=2))
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 3, padding=1), nn.Sigmoid()).eval()


@pytest.mark.parametrize("name", ["flat", "sphere", "swiss roll", "paraboloid", "bell"])
def test_graph_paths_err_by_two_percent_and_refined_ones_by_half(name):
    errors = truth.geodesic_errors(truth.MANIFOLDS[name], 10_000, truth.K, seed=1, n_sources=5, n_targets=20)
    assert np.median(errors.graph) <= truth.GRAPH_GOAL
    assert np.median(errors.refined) <= truth.REFINED_GOAL / 50
    assert errors.refined.max() <= truth.REFINED_GOAL


def test_coarse_graphs_err_more_and_refine_as_well():
    coarse = truth.geodesic_errors(Bell(), 1_000, 6, seed=2, n_sources=5, n_targets=10)
    fine = truth.geodesic_errors(Bell(), 1_000, 40, seed=2, n_sources=5, n_targets=10)
    assert np.median(coarse.graph) > 5 * np.median(fine.graph)
    assert np.median(coarse.refined) == pytest.approx(np.median(fine.refined), rel=0.05)


@every
def test_refined_paths_reach_the_geodesic_and_bracket_it(manifold):
    paths, distance = rough_paths(manifold, 30, seed=3)
    curves = refine_paths(manifold.embed, paths, n_points=65, batch_size=30)
    assert curves.converged.all()
    assert torch.equal(curves.points[:, [0, -1]], paths[:, [0, -1]])
    lengths = curves.lengths.numpy()
    # Straight segments in the chart are a curve of the surface: never below the distance. Its chords never exceed it.
    assert (lengths >= distance * (1 - 1e-6)).all()
    assert np.median(lengths / distance) <= 1 + 1e-4
    if not isinstance(manifold, Bell):  # where a line may lie on the wrong side of the hill
        assert lengths == pytest.approx(distance, rel=1e-3)
        energies, _ = energy_and_gradient(manifold.embed, curves.points)
        assert (energies.sqrt().numpy() <= distance * (1 + 1e-5)).all()
    steps = torch.stack([path_images(manifold.embed, points) for points in curves.points]).diff(dim=1).norm(dim=2)
    assert (steps.std(dim=1) / steps.mean(dim=1)).max() < 0.02  # constant speed


@given(seed=st.integers(0, 10_000), single=st.booleans(), max_iter=st.sampled_from([1, 3, 60]))
@settings(max_examples=25, deadline=None)
def test_refinement_never_lengthens(seed, single, max_iter):
    manifold = list(SURFACES.values())[seed % 5]
    paths, distance = rough_paths(manifold, 4, seed, dtype=torch.float32 if single else torch.float64)
    curves = refine_paths(manifold.embed, paths, n_points=33, max_iter=max_iter)
    assert (curves.lengths <= curves.start_lengths).all()
    assert torch.allclose(curves.lengths, curve_length(manifold.embed, curves.points))
    assert (curves.lengths.double().numpy() >= distance * (1 - 1e-4)).all()
    assert (curves.n_iter <= max_iter).all()


def test_many_paths_at_once_are_each_on_their_own():
    bell = Bell()
    paths, _ = rough_paths(bell, 7, seed=5)
    ragged = [path[:: 1 + index % 2] for index, path in enumerate(paths)]  # 9 or 5 points
    together = refine_paths(bell.embed, ragged, n_points=20, batch_size=4)
    assert together.points.shape == (7, 20, 2)
    for index, path in enumerate(ragged):
        alone = refine_paths(bell.embed, [path], n_points=20)
        assert alone.lengths[0] == pytest.approx(float(together.lengths[index]), rel=1e-5)


def test_flat_paths_become_straight_lines_at_once():
    flat = Flat(np.array([[1.0, 0.4], [0.0, 2.0], [0.1, 0.0]]))
    paths, distance = rough_paths(flat, 5, seed=0)
    curves = refine_paths(flat.embed, paths, n_points=30, tolerance=1e-13)
    straight = torch.lerp(paths[:, :1], paths[:, -1:], torch.linspace(0, 1, 30, dtype=torch.float64)[:, None])
    assert torch.allclose(curves.points, straight, atol=1e-5)
    assert curves.n_iter.max() <= 3
    assert curves.lengths.numpy() == pytest.approx(distance, rel=1e-10)


def test_equal_ends_and_paths_without_length_stay():
    sphere = Sphere()
    here = torch.tensor([0.2, -0.1], dtype=torch.float64)
    still = refine_paths(sphere.embed, [here.expand(4, 2)], n_points=10)
    assert still.lengths == 0
    assert torch.equal(still.points[0], here.expand(10, 2))
    loop = refine_paths(sphere.embed, [torch.stack((here, here + 0.3, here))], n_points=11)
    assert float(loop.lengths) < 1e-3  # it contracts to the point


@pytest.mark.parametrize("n_points", [3, 4, 12])
def test_solver_inverts_the_gauss_newton_matrix(n_points):
    bell = Bell()
    paths, _ = rough_paths(bell, 2, seed=1, n_points=n_points)

    def residuals(inner):
        whole = torch.cat((paths[0, :1], inner.view(-1, 2), paths[0, -1:]))
        return bell.embed(whole).diff(dim=0).flatten() * (n_points - 1) ** 0.5

    inner = paths[0, 1:-1].flatten()
    J = torch.autograd.functional.jacobian(residuals, inner)
    matrix = 2 * J.T @ J
    energy, gradient = energy_and_gradient(bell.embed, paths)
    assert energy[0] == pytest.approx(float(residuals(inner).square().sum()))
    assert torch.allclose(gradient[0].flatten(), 2 * J.T @ residuals(inner))
    right = torch.randn(2, n_points - 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solved = gauss_newton_solver(bell.embed, paths)(right, torch.arange(2))
    assert torch.allclose(matrix @ solved[0].flatten(), right[0].flatten(), rtol=1e-3, atol=1e-4)


def test_energy_matches_the_minimum_that_scipy_finds():
    decoder = conv_decoder().double()
    z = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    decode = in_context(decoder, z[0], 1, 0)
    ends = 3 * torch.stack((z[0, :, 1, 0], z[1, :, 1, 0]))
    path = torch.cat((ends[:1], torch.tensor([[0.5, -1.0, 0.2]]).double(), ends[1:]))
    curves = refine_paths(decode, [path], n_points=12, tolerance=1e-12)

    def objective(inner):
        whole = torch.cat((path[:1], torch.from_numpy(inner).view(-1, 3), path[-1:]))[None]
        energy, gradient = energy_and_gradient(decode, whole)
        return float(energy), gradient.flatten().numpy()

    found = minimize(objective, resample(path, 12)[1:-1].flatten().numpy(), jac=True, options={"gtol": 1e-10})
    assert float(energy_and_gradient(decode, curves.points)[0]) == pytest.approx(found.fun, rel=1e-5)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU])
def test_tokens_in_context_and_whole_latents_are_refined(activation):
    decoder = conv_decoder(activation)
    z = 2 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    decode = in_context(decoder, z[0], 2, 3)
    token = torch.tensor([0.3, -0.7, 1.1])
    changed = z[0].clone()
    changed[:, 2, 3] = token
    assert torch.allclose(decode(token[None]), decoder(changed[None]), atol=1e-6)
    stops = 2 * torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
    curves = refine_paths(decode, [stops], n_points=24)
    assert float(curves.lengths) < 0.8 * float(curves.start_lengths)
    assert path_images(decode, curves.points[0]).shape == (24, 1, 8, 8)

    def whole(points):
        return decoder(points.unflatten(1, (3, 4, 4)))

    straight = z.flatten(1)
    latents = refine_paths(whole, [straight], n_points=16)
    assert float(latents.lengths) < float(curve_length(whole, straight))
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_directions_the_decoder_ignores_do_not_hurt():
    def blind(points):
        return points[:, :1].sin()

    path = torch.tensor([[0.0, 0.0], [1.0, 5.0], [0.3, -4.0], [0.7, 1.0]])
    curves = refine_paths(blind, [path], n_points=20)
    assert float(curves.lengths) == pytest.approx(np.sin(0.7), rel=1e-4)
    assert curves.points.isfinite().all()
    nothing = refine_paths(lambda points: points * 0, [path], n_points=20)
    assert nothing.lengths == 0
    assert nothing.converged


def test_directions_the_decoder_hardly_sees_do_not_hurt():
    """Rounded in float32, the products of these Jacobians are no semidefinite matrix."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    scales = torch.tensor([1.0] * 2 + [1e-4] * 14)
    weights = rotation * scales @ torch.randn(16, 400, generator=generator)
    paths = [torch.randn(5, 16, generator=generator) for _ in range(4)]
    assert refine_paths(lambda z: torch.sin(z @ weights / 10), paths, n_points=33).converged.all()


def test_length_of_a_circle_converges_with_the_fourth_power():
    def circle(points):
        return torch.cat((points.cos(), points.sin()), dim=1)

    errors = []
    for n in (3, 5, 9):
        angles = torch.linspace(0, 2.0, n, dtype=torch.float64)[:, None]
        errors.append(abs(float(curve_length(circle, angles)) - 2.0))
        chords = float(circle(angles).diff(dim=0).norm(dim=1).sum())
        assert 2.0 - chords == pytest.approx(2.0 * (2.0 / (n - 1)) ** 2 / 24, rel=0.06)  # κ²h³/24 per chord
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(16, rel=0.1)
    batch = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None] * torch.tensor([[[1.0]], [[2.0]]]).double()
    assert curve_length(circle, batch).numpy() == pytest.approx([1.0, 2.0], rel=1e-5)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_resampled_points_are_evenly_spaced_on_the_polygon(seed, n):
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.normal(size=(rng.integers(2, 8), 3)))
    if seed % 3 == 0:
        points = points.repeat_interleave(2, dim=0)  # steps without length
    result = resample(points, n)
    assert torch.equal(result[[0, -1]], points[[0, -1]])
    along = np.concatenate(([0], np.cumsum(points.diff(dim=0).norm(dim=1).numpy())))
    wanted = np.linspace(0, along[-1], n)
    expected = np.stack([np.interp(wanted, along, points[:, axis].numpy()) for axis in range(3)], axis=1)
    assert result.numpy() == pytest.approx(expected, abs=1e-9)


def test_path_images_are_those_of_its_points_or_evenly_spaced():
    roll = SwissRoll()
    points = roll.sample(3, seed=0)
    images = path_images(roll.embed, points)
    assert torch.equal(images, roll.embed(points))
    many = path_images(roll.embed, points, n_images=50)
    assert torch.allclose(many[[0, -1]], images[[0, -1]])
    assert many.shape == (50, 3)


def test_bad_input_is_named():
    bell = Bell()
    path = torch.zeros(3, 2)
    with pytest.raises(InputError, match="n_points is 2"):
        refine_paths(bell.embed, [path], n_points=2)
    with pytest.raises(InputError, match="no path"):
        refine_paths(bell.embed, [])
    with pytest.raises(InputError, match="path 1 has shape"):
        refine_paths(bell.embed, [path, torch.zeros(3, 3)])
    with pytest.raises(InputError, match="path 0 has shape"):
        refine_paths(bell.embed, [torch.zeros(1, 2)])
    with pytest.raises(InputError, match="path 0 has shape"):
        refine_paths(bell.embed, [torch.zeros(3, 2, dtype=torch.int64)])
    with pytest.raises(InputError, match="NaN"):
        refine_paths(bell.embed, [torch.full((3, 2), torch.nan)])
    with pytest.raises(InputError, match="not finite on path 0"):
        refine_paths(lambda points: points / 0, [path])
    with pytest.raises(InputError, match="n of at least 2"):
        curve_length(bell.embed, path[:1])
    with pytest.raises(InputError, match="2 segments"):
        resample(path, 4, torch.ones(3))
    with pytest.raises(InputError, match="the path has shape"):
        path_images(bell.embed, torch.tensor([1, 2]))
    with pytest.raises(InputError, match=r"no token at \(4, 0\)"):
        in_context(conv_decoder(), torch.zeros(3, 4, 4), 4, 0)
