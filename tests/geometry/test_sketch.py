"""Sketches: unbiased, with the laws of error that their probes promise, and known error without exact metrics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geovq.errors import InputError
from geovq.geometry.metric import token_metrics
from geovq.geometry.sketch import lattice_colours, probe_signs
from geovq.geometry.symmetric import unpack_symmetric
from sketch_error import probes_for_error, sketch_error

D, SIDE = 3, 3
KINDS = ("lattice", "independent")


def decoder(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(D, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Upsample(scale_factor=4),
        nn.Conv2d(8, 2, 3, padding=1),
        nn.Sigmoid(),
    ).eval()


def latents(n=5, seed=0):
    return torch.randn(n, D, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def relative_error(network, z, exact, n_probes, kind, repeats):
    """Root of the mean squared Frobenius error against exact metrics, and the sketches ``(repeats, tokens, d, d)``.

    Every image of a data set has probes of its own, so copies of one image are repetitions.
    """
    copies = z.repeat(repeats, 1, 1, 1)
    packed = token_metrics(network, copies, "sketch", n_probes, probes=kind, precision="32")
    runs = unpack_symmetric(packed, D).unflatten(0, (repeats, -1))
    each = (runs - exact).square().sum(dim=(1, 2, 3)).mean().sqrt() / exact.norm()
    return float(each), runs


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_many_is_the_exact_metric_within_its_standard_error(kind):
    network, z = decoder(), latents(4)
    exact = unpack_symmetric(token_metrics(network, z, "exact"), D)
    _, runs = relative_error(network, z, exact, 4, kind, 300)
    standard_error = runs.std(dim=0) / math.sqrt(len(runs))
    deviations = ((runs.mean(dim=0) - exact) / standard_error.clamp(min=1e-9)).flatten()
    # Standard normal entries (off-diagonal ones twice, tokens of an image correlated): mean square 1.
    assert deviations.square().mean() == pytest.approx(1.0, abs=0.35)
    assert deviations.abs().max() < 5.0
    # A bias of one percent of the trace would be seen.
    trace = runs.diagonal(dim1=2, dim2=3).sum(dim=(1, 2))
    error = trace.std() / math.sqrt(len(runs))
    true = exact.diagonal(dim1=1, dim2=2).sum()
    assert abs(trace.mean() - true) < 4 * error
    assert error < 0.01 * true


def test_independent_probes_err_by_the_law_and_lattices_less():
    network, z = decoder(), latents(4)
    exact = unpack_symmetric(token_metrics(network, z, "exact"), D)
    repeats = 60
    independent = {m: relative_error(network, z, exact, m, "independent", repeats)[0] for m in (4, 16, 64)}
    assert independent[16] / independent[4] == pytest.approx(0.5, rel=0.1)
    assert independent[64] / independent[16] == pytest.approx(0.5, rel=0.1)
    lattice = {m: relative_error(network, z, exact, m, "lattice", repeats)[0] for m in (16, 64)}
    assert lattice[16] < independent[16]
    assert lattice[64] < 0.95 * independent[64]
    assert lattice[64] / lattice[16] < 0.55  # at least as fast


def test_error_of_independent_probes_is_that_of_the_formula():
    network, z = decoder(), latents(2)
    network.requires_grad_(False)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: network(one[None])[0].flatten()))(z)
    rows = jacobian.permute(0, 3, 4, 1, 2).reshape(-1, jacobian.shape[1], D)  # (tokens, pixels, d)
    exact = rows.mT @ rows
    trace = exact.diagonal(dim1=1, dim2=2).sum(dim=1)
    variance = trace**2 + exact.square().sum(dim=(1, 2)) - 2 * rows.square().sum(dim=2).square().sum(dim=1)
    measured, _ = relative_error(network, z, exact, 8, "independent", 200)
    assert measured == pytest.approx(float((variance.sum() / 8).sqrt() / exact.norm()), rel=0.06)


def test_as_many_lattice_probes_as_pixels_are_exact():
    network, z = decoder(), latents(2)
    n_pixels = network(z)[0].numel()
    exact = token_metrics(network, z, "exact")
    for n_probes in (n_pixels, n_pixels + 100):
        sketch = token_metrics(network, z, n_probes=n_probes, precision="32")
        assert torch.allclose(sketch, exact, rtol=1e-3, atol=1e-5 * exact.abs().max())


def test_bf16_is_close_on_the_same_probes_and_unbiased():
    network, z = decoder(), latents(40)
    full = token_metrics(network, z, precision="32")
    half = token_metrics(network, z, precision="bf16")
    assert not torch.equal(full, half)
    each = (half - full).norm(dim=1) / full.norm(dim=1)
    assert each.median() < 0.02
    assert (half.mean(dim=0) - full.mean(dim=0)).norm() < 0.005 * full.mean(dim=0).norm()


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_seed_and_image_number_alone_decide(kind, precision):
    network, z = decoder(), latents(7)
    tolerance = {"32": 1e-4, "bf16": 0.05}[precision]
    options = {"seed": 3, "probes": kind, "precision": precision}
    whole = token_metrics(network, z, batch_size=7, **options)
    assert torch.equal(whole, token_metrics(network, z, batch_size=7, **options))
    for batch_size in (1, 3):
        other = token_metrics(network, z, batch_size=batch_size, **options)
        assert (whole - other).norm() < tolerance * whole.norm()
    assert (whole - token_metrics(network, z, batch_size=7, **{**options, "seed": 4})).norm() > 0.1 * whole.norm()


def test_probe_signs_are_fair_independent_and_addressed_by_image():
    whole = probe_signs(5, 97, seed=1, first_image=0, n_images=40)
    assert whole.shape == (40, 5, 97)
    assert np.array_equal(whole[13:20], probe_signs(5, 97, seed=1, first_image=13, n_images=7))
    assert abs(whole.mean() - 0.5) < 0.02
    signs = whole.reshape(200, 97) * 2.0 - 1
    correlations = signs @ signs.T / 97
    assert np.abs(correlations[~np.eye(200, dtype=bool)]).max() < 0.6  # √97⁻¹ ≈ 0.1 each, 20,000 pairs
    assert not np.array_equal(whole, probe_signs(5, 97, seed=2, first_image=0, n_images=40))


@given(m=st.integers(1, 40), height=st.integers(1, 12), width=st.integers(1, 12), channels=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_colours_are_a_partition_and_rows_and_columns_have_no_colour_twice(m, height, width, channels):
    colours = lattice_colours((channels, height, width), m)
    assert colours.shape == (channels * height * width,)
    assert colours.min() >= 0
    assert colours.max() < max(m, 1)
    planes = colours.reshape(channels, height, width)
    for plane in planes:
        for line in (*plane, *plane.T):
            assert len(set(line[:m].tolist())) == min(len(line), m)
    if m >= channels:  # a pixel's channels differ
        assert all(len(set(pixel)) == channels for pixel in planes.reshape(channels, -1).T.tolist())


def test_pixels_of_one_colour_lie_far_apart():
    for m, distance in ((2, 2), (5, 5), (8, 8), (13, 13), (16, 10)):
        plane = lattice_colours((1, 20, 20), m).reshape(20, 20)
        rows, columns = np.nonzero(plane == plane[10, 10])
        squared = (rows - 10) ** 2 + (columns - 10) ** 2
        assert squared[squared > 0].min() == distance


@pytest.mark.parametrize("kind", KINDS)
def test_disagreement_tells_the_error_and_the_number_of_probes_for_it(kind):
    network, z = decoder(), latents(80)
    exact = unpack_symmetric(token_metrics(network, z, "exact"), D)

    def true_error(m):
        sketch = unpack_symmetric(token_metrics(network, z, n_probes=m, probes=kind, seed=11), D)
        return float((sketch - exact).norm() / exact.norm())

    assert sketch_error(network, z, 8, seed=5, probes=kind) == pytest.approx(true_error(8), rel=0.12)
    target = 0.3
    m = probes_for_error(network, z, target, seed=1, n_images=80, probes=kind)
    assert true_error(m) < 1.15 * target
    assert true_error(m // 2) > target


def test_probes_for_hopeless_and_empty_targets():
    network, z = decoder(), latents(4)
    assert probes_for_error(network, z, 1e-9, precision="32") == network(z)[0].numel()
    assert probes_for_error(network, z, 100.0) == 1

    class Constant(nn.Module):
        def forward(self, z):
            return torch.full((len(z), 1, 4, 4), 0.5)

    constant = Constant().eval()
    assert sketch_error(constant, z, 4) == 0.0
    assert probes_for_error(constant, z, 0.1) == 1
    with pytest.raises(InputError, match="target is 0"):
        probes_for_error(network, z, 0.0)
    with pytest.raises(InputError, match="n_images is 0"):
        probes_for_error(network, z, 0.3, n_images=0)
    with pytest.raises(InputError, match="n_probes is 0"):
        sketch_error(network, z, 0)
    with pytest.raises(InputError, match="probes is"):
        sketch_error(network, z, 4, probes="dense")
