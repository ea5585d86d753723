"""True decoded errors against eᵀGe: exact for linear decoders, and where they part for curved ones."""

import numpy as np
import pytest
import torch
from torch import nn

from decoded_errors import DecodedErrors, decoded_error_against_prediction
from geovq.errors import InputError
from geovq.geometry.metric import token_metrics

D = 3


def latents(n=6, side=2, seed=0):
    return torch.randn(n, D, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_decoder():
    torch.manual_seed(0)
    return nn.ConvTranspose2d(D, 2, 4, 2, 1).double().eval()


@pytest.mark.parametrize("directions", ["random", "tokens"])
def test_a_linear_decoder_errs_as_predicted_at_any_distance(directions):
    decoder, z = linear_decoder(), latents()
    metrics = token_metrics(decoder, z, "exact")
    errors = decoded_error_against_prediction(decoder, z, metrics, [0.1, 1.0, 30.0], directions=directions)
    assert errors.decoded.shape == (3, 24)
    assert np.allclose(errors.decoded, errors.predicted, rtol=1e-4)
    assert np.allclose(errors.ratio_quantiles(), 1.0, rtol=1e-4)
    assert errors.validity_radius(0.1) == float("inf")
    assert (errors.share_within(0.01) == 1).all()


class Parabola(nn.Module):
    """One dimension to the points (z, z²/2): moving from 0 by e costs e² + e⁴/4 where eᵀGe = e²."""

    def forward(self, z):
        return torch.cat([z, 0.5 * z**2], dim=1)


def test_a_parabola_has_the_validity_radius_of_its_formula():
    z = torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    decoder = Parabola().eval()
    metrics = token_metrics(decoder, z, "exact")
    errors = decoded_error_against_prediction(decoder, z, metrics, np.linspace(0.01, 3.0, 300))
    assert np.allclose(errors.decoded, (errors.radii**2 + errors.radii**4 / 4)[:, None])
    for tolerance in (0.1, 0.25, 0.5):  # 1 + e²/4 = 1 + tolerance
        assert errors.validity_radius(tolerance) == pytest.approx(2 * tolerance**0.5, rel=1e-3)
        assert errors.validity_radius_of_tokens(tolerance) == pytest.approx(2 * tolerance**0.5, rel=2e-2)


def test_tokens_move_alone_in_their_own_image_to_the_given_place():
    decoder, z = linear_decoder(), latents(5)
    metrics = token_metrics(decoder, z, "exact")
    directions = torch.zeros(20, D, dtype=torch.float64)
    directions[13] = torch.tensor([0.0, 3.0, 4.0])  # image 3, row 0, column 1
    errors = decoded_error_against_prediction(decoder, z, metrics, [0.5], directions=directions)
    moved = z[3].clone()
    moved[:, 0, 1] += torch.tensor([0.0, 0.3, 0.4])
    with torch.no_grad():
        expected = (decoder(moved[None]) - decoder(z[3:4])).square().sum()
    assert errors.decoded.shape == (1, 1)
    assert errors.decoded[0, 0] == pytest.approx(float(expected))


def test_seed_decides_and_batch_size_does_not():
    decoder, z = nn.Sequential(linear_decoder(), nn.Sigmoid()).eval(), latents(8)
    metrics = token_metrics(decoder, z, "exact")
    first = decoded_error_against_prediction(decoder, z, metrics, [1.0], n_tokens=9, seed=2)
    again = decoded_error_against_prediction(decoder, z, metrics, [1.0], n_tokens=9, seed=2, batch_size=2)
    other = decoded_error_against_prediction(decoder, z, metrics, [1.0], n_tokens=9, seed=3)
    assert np.allclose(first.decoded, again.decoded)
    assert not np.allclose(first.decoded, other.decoded)


def test_radii_and_quantiles_of_known_ratios():
    errors = DecodedErrors(np.array([1.0, 2.0, 3.0]), np.ones((3, 5)), np.outer([1.0, 1.2, 1.6], np.ones(5)))
    assert errors.validity_radius(0.1) == pytest.approx(1.5)
    assert errors.validity_radius(0.4) == pytest.approx(2.5)
    assert errors.validity_radius(0.7) == float("inf")
    ignored = DecodedErrors(np.array([1.0]), np.zeros((1, 5)), np.zeros((1, 5)))
    assert np.isnan(ignored.ratio_quantiles()).all()
    assert ignored.validity_radius(0.5) == 0.0
    assert ignored.validity_radius_of_tokens(0.5) == 0.0
    mixed = DecodedErrors(np.array([1.0]), np.ones((1, 4)), np.array([[0.9, 1.0, 1.05, 3.0]]))
    assert mixed.share_within(0.11)[0] == 0.75


def test_bad_input_is_named():
    decoder, z = linear_decoder(), latents()
    metrics = token_metrics(decoder, z, "exact")
    with pytest.raises(InputError, match="radii"):
        decoded_error_against_prediction(decoder, z, metrics, [1.0, 0.5])
    with pytest.raises(InputError, match="radii"):
        decoded_error_against_prediction(decoder, z, metrics, [])
    with pytest.raises(InputError, match="metrics have shape"):
        decoded_error_against_prediction(decoder, z[:2], metrics, [1.0])
    with pytest.raises(InputError, match="directions is 'up'"):
        decoded_error_against_prediction(decoder, z, metrics, [1.0], directions="up")
    with pytest.raises(InputError, match="directions have shape"):
        decoded_error_against_prediction(decoder, z, metrics, [1.0], directions=torch.ones(3, D))
    with pytest.raises(InputError, match="every direction is zero"):
        decoded_error_against_prediction(decoder, z, metrics, [1.0], directions=torch.zeros(24, D))
    with pytest.raises(InputError, match="n_tokens is 0"):
        decoded_error_against_prediction(decoder, z, metrics, [1.0], n_tokens=0)
    with pytest.raises(InputError, match="train mode"):
        decoded_error_against_prediction(linear_decoder().train(), z, metrics, [1.0])
    errors = decoded_error_against_prediction(decoder, z, metrics, [1.0])
    with pytest.raises(InputError, match="tolerance"):
        errors.validity_radius(0.0)
    with pytest.raises(InputError, match="share"):
        errors.validity_radius_of_tokens(0.1, share=1.0)
