"""Metric tensors against finite differences, analytic decoders and each other."""

import numpy as np
import pytest
import torch
from torch import nn

from geovq.errors import InputError
from geovq.geometry.metric import full_metric, posterior_metrics, probe_signs, token_metrics
from geovq.geometry.symmetric import unpack_symmetric

D, SIDE = 3, 3


def conv_decoder(seed=0, dtype=torch.float32):
    """A small decoder with what real ones have: context, GroupNorm, upsampling, an output activation."""
    torch.manual_seed(seed)
    return (
        nn.Sequential(
            nn.Conv2d(D, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.ConvTranspose2d(8, 4, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(4, 1, 3, padding=1),
            nn.Sigmoid(),
        )
        .to(dtype)
        .eval()
    )


def latents(n=5, seed=0, dtype=torch.float32):
    return torch.randn(n, D, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def finite_difference_jacobian(decoder, latent, step=1e-5):
    """Columns by central differences, token-major, float64."""
    columns = []
    for row in range(SIDE):
        for column in range(SIDE):
            for j in range(D):
                moved = [latent.clone(), latent.clone()]
                moved[0][j, row, column] += step
                moved[1][j, row, column] -= step
                with torch.no_grad():
                    columns.append(((decoder(moved[0][None]) - decoder(moved[1][None])) / (2 * step)).flatten())
    return torch.stack(columns)


def test_exact_and_full_match_finite_differences_in_context():
    decoder, z = conv_decoder(dtype=torch.float64), latents(3, dtype=torch.float64)
    exact = unpack_symmetric(token_metrics(decoder, z, "exact", batch_size=2), D)
    for image in range(3):
        jacobian = finite_difference_jacobian(decoder, z[image])
        expected = jacobian @ jacobian.T
        full = full_metric(decoder, z[image])
        assert torch.linalg.norm(full - expected) <= 1e-4 * torch.linalg.norm(expected)
        for token in range(SIDE * SIDE):
            block = expected[token * D : (token + 1) * D, token * D : (token + 1) * D]
            ours = exact[image * SIDE * SIDE + token].double()
            assert torch.linalg.norm(ours - block) <= 1e-4 * torch.linalg.norm(block)


def test_a_token_out_of_its_context_has_another_metric():
    decoder, z = conv_decoder(), latents(1)
    other = z.clone()
    other[0, :, 0, 0] += 2.0  # a neighbour changes, the token itself does not
    token = 1
    change = token_metrics(decoder, z, "exact")[token] - token_metrics(decoder, other, "exact")[token]
    assert change.norm() > 0.01 * token_metrics(decoder, z, "exact")[token].norm()


class LinearDecoder(nn.Module):
    """One shared matrix per token position: the metric is AᵀA everywhere."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(12, D, generator=torch.Generator().manual_seed(1)))

    def forward(self, z):
        return (self.matrix @ z.flatten(2)).flatten(1)[:, None, None]


def test_linear_decoder_is_analytic():
    decoder = LinearDecoder().eval()
    expected = (decoder.matrix.T @ decoder.matrix).detach()
    for metric in unpack_symmetric(token_metrics(decoder, latents(2), "exact"), D):
        assert torch.allclose(metric, expected, rtol=1e-4, atol=1e-5)
    sketch = unpack_symmetric(token_metrics(decoder, latents(40), "sketch", n_probes=64), D)
    assert torch.allclose(sketch.mean(dim=0), expected, rtol=0.05, atol=0.3)


def test_sketch_is_unbiased_and_falls_with_the_root_of_the_probes():
    decoder, z = conv_decoder(), latents(4)
    exact = token_metrics(decoder, z, "exact")

    def errors(n_probes, seeds):
        runs = torch.stack([token_metrics(decoder, z, "sketch", n_probes, seed) for seed in range(seeds)])
        each = ((runs - exact).norm(dim=(1, 2)) / exact.norm()).mean()
        return each.item(), ((runs.mean(dim=0) - exact).norm() / exact.norm()).item()

    few, mean_of_few = errors(8, 100)
    many, _ = errors(32, 30)
    assert many / few == pytest.approx(0.5, rel=0.15)
    # The mean of 100 unbiased runs errs ten times less than one; a bias of 2 % would show.
    assert mean_of_few == pytest.approx(few / 10, rel=0.35)


@pytest.mark.parametrize("method", ["sketch", "exact"])
def test_batch_size_and_company_do_not_matter(method):
    decoder, z = conv_decoder(), latents(7)
    one = token_metrics(decoder, z, method, batch_size=7, seed=3)
    for batch_size in (1, 3):
        other = token_metrics(decoder, z, method, batch_size=batch_size, seed=3)
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6 * one.abs().max())
    head = token_metrics(decoder, z[:2], method, seed=3)
    assert torch.allclose(one[: len(head)], head, rtol=1e-3, atol=1e-6 * one.abs().max())
    assert one.dtype == torch.float32
    assert one.shape == (7 * SIDE * SIDE, D * (D + 1) // 2)


def test_probe_signs_are_fair_independent_and_addressed_by_image():
    whole = probe_signs(5, 97, seed=1, first_image=0, n_images=40)
    assert whole.shape == (40, 5, 97)
    assert np.array_equal(whole[13:20], probe_signs(5, 97, seed=1, first_image=13, n_images=7))
    assert abs(whole.mean() - 0.5) < 0.02
    signs = whole.reshape(200, 97) * 2.0 - 1
    correlations = signs @ signs.T / 97
    assert np.abs(correlations[~np.eye(200, dtype=bool)]).max() < 0.6  # √97⁻¹ ≈ 0.1 each, 20,000 pairs
    assert not np.array_equal(whole, probe_signs(5, 97, seed=2, first_image=0, n_images=40))


def test_posterior_metrics_invert_the_stationarity_condition():
    # σ² = 1/(1 + G/scale) is where sse + λ·KL is stationary.
    g = torch.rand(2, D, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 50
    scale = 0.7
    packed = posterior_metrics(-torch.log1p(g / scale), scale)
    dense = unpack_symmetric(packed, D)
    expected = g.permute(0, 2, 3, 1).reshape(-1, D)
    assert torch.allclose(torch.diagonal(dense, dim1=1, dim2=2), expected, rtol=1e-4)
    assert torch.equal(dense, torch.diag_embed(torch.diagonal(dense, dim1=1, dim2=2)))
    unused = posterior_metrics(torch.full((1, D, 1, 1), 0.3), scale)
    assert (torch.diagonal(unpack_symmetric(unused, D)[0]) > 0).all()


def test_decoder_gradients_and_mode_are_left_alone():
    decoder, z = conv_decoder(), latents(2)
    token_metrics(decoder, z, "sketch")
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert not z.requires_grad


def test_bad_input_is_named():
    decoder, z = conv_decoder(), latents(2)
    with pytest.raises(InputError, match="train mode"):
        token_metrics(conv_decoder().train(), z)
    norm = nn.Sequential(nn.BatchNorm2d(D), conv_decoder()).eval()
    assert token_metrics(norm, z).isfinite().all()
    norm[0].train()
    with pytest.raises(InputError, match=r"layer 0 \(BatchNorm2d\) is in train mode"):
        token_metrics(norm, z)
    statistics = nn.Sequential(nn.BatchNorm2d(D, track_running_stats=False), conv_decoder()).eval()
    with pytest.raises(InputError, match="statistics of the batch"):
        full_metric(statistics, z[0])
    spoiled = z.clone()
    spoiled[1, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="first in image 1"):
        token_metrics(decoder, spoiled)
    with pytest.raises(InputError, match=r"\(B, d, h, w\)"):
        token_metrics(decoder, z[0])
    with pytest.raises(InputError, match="method"):
        token_metrics(decoder, z, "guess")
    with pytest.raises(InputError, match="n_probes is 0"):
        token_metrics(decoder, z, n_probes=0)
    with pytest.raises(InputError, match="scale"):
        posterior_metrics(z, 0.0)
