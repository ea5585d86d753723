"""Metric tensors against finite differences, analytic decoders and each other."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geovq.errors import InputError
from geovq.geometry.computing import runs_in_bf16
from geovq.geometry.metric import full_metric, posterior_metrics, token_metrics
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


@pytest.mark.parametrize("method", ["sketch", "exact"])
def test_batch_size_and_company_do_not_matter(method):
    decoder, z = conv_decoder(), latents(7)
    one = token_metrics(decoder, z, method, batch_size=7, seed=3, precision="32")
    for batch_size in (1, 3):
        other = token_metrics(decoder, z, method, batch_size=batch_size, seed=3, precision="32")
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6 * one.abs().max())
    head = token_metrics(decoder, z[:2], method, seed=3, precision="32")
    assert torch.allclose(one[: len(head)], head, rtol=1e-3, atol=1e-6 * one.abs().max())
    assert one.dtype == torch.float32
    assert one.shape == (7 * SIDE * SIDE, D * (D + 1) // 2)


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
    with pytest.raises(InputError, match="batch_size is 0"):
        token_metrics(decoder, z, batch_size=0)
    with pytest.raises(InputError, match="precision is '16'"):
        token_metrics(decoder, z, precision="16")
    with pytest.raises(InputError, match=r"dtype is torch\.float16"):
        token_metrics(decoder, z, dtype=torch.float16)
    with pytest.raises(InputError, match="float"):
        token_metrics(decoder, z.long())
    with pytest.raises(InputError, match="cannot decode"):
        token_metrics(decoder, torch.zeros(2, D + 1, SIDE, SIDE))
    with pytest.raises(InputError, match=r"\(B, d, h, w\)"):
        full_metric(decoder, z)
    with pytest.raises(InputError, match="scale"):
        posterior_metrics(z, 0.0)


class Quadratic(nn.Module):
    """Pixel p is ``aᵀ_p z + ½ zᵀ H_p z`` of the token alone: rows of J are ``a_p + H_p z``."""

    def __init__(self, d, n_pixels):
        super().__init__()
        generator = torch.Generator().manual_seed(d)
        self.linear = torch.randn(n_pixels, d, generator=generator, dtype=torch.float64)
        half = torch.randn(n_pixels, d, d, generator=generator, dtype=torch.float64)
        self.hessian = half + half.mT

    def forward(self, z):
        tokens = z.flatten(2).mT.to(torch.float64)  # (B, T, d)
        curved = 0.5 * torch.einsum("btd,pde,bte->btp", tokens, self.hessian, tokens)
        return (tokens @ self.linear.T + curved)[:, None]  # an image of one row per token

    def metric(self, token):
        rows = self.linear + torch.einsum("pde,e->pd", self.hessian, token)
        return rows.T @ rows


@given(d=st.integers(1, 4), height=st.integers(1, 3), width=st.integers(1, 2), n_pixels=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_quadratic_decoders_of_any_grid_are_analytic(d, height, width, n_pixels):
    decoder = Quadratic(d, n_pixels).eval()
    z = torch.randn(2, d, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.stack([decoder.metric(token) for token in z.permute(0, 2, 3, 1).reshape(-1, d)])
    exact = unpack_symmetric(token_metrics(decoder, z, "exact"), d)
    assert torch.allclose(exact.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    full = full_metric(decoder, z[1])
    blocks = torch.stack([full[i : i + d, i : i + d] for i in range(0, len(full), d)])
    assert torch.allclose(blocks, expected[height * width :], rtol=1e-9, atol=1e-9)
    between = full.clone()
    for i in range(0, len(full), d):
        between[i : i + d, i : i + d] = 0
    assert between.abs().max() == 0  # tokens of this decoder do not meet in any pixel


def test_a_multilayer_perceptron_has_the_jacobian_of_the_chain_rule():
    torch.manual_seed(0)
    first, second = nn.Linear(5, 16).double(), nn.Linear(16, 12).double()
    decoder = nn.Sequential(nn.Flatten(), first, nn.Tanh(), second, nn.Sigmoid(), nn.Unflatten(1, (1, 3, 4))).eval()
    z = torch.randn(4, 5, 1, 1, dtype=torch.float64)
    hidden = torch.tanh(z.flatten(1) @ first.weight.T + first.bias)
    pixels = torch.sigmoid(hidden @ second.weight.T + second.bias)
    jacobian = (pixels * (1 - pixels))[:, :, None] * second.weight @ ((1 - hidden**2)[:, :, None] * first.weight)
    expected = jacobian.mT @ jacobian
    exact = unpack_symmetric(token_metrics(decoder, z, "exact"), 5)
    assert torch.allclose(exact.double(), expected, rtol=1e-5, atol=1e-8)
    assert torch.allclose(full_metric(decoder, z[2]), expected[2], rtol=1e-10)


@pytest.mark.parametrize("side", [2, 6])
def test_forward_and_reverse_mode_agree(side):
    # 4 pixels for 27 latent numbers: reverse mode; 36: forward mode.
    decoder = nn.Sequential(conv_decoder(dtype=torch.float64), nn.AdaptiveAvgPool2d(side)).eval()
    z = latents(2, dtype=torch.float64)
    exact = unpack_symmetric(token_metrics(decoder, z, "exact"), D)
    full = full_metric(decoder, z[0])
    for token in range(SIDE * SIDE):
        block = full[token * D : (token + 1) * D, token * D : (token + 1) * D].float()
        assert torch.allclose(exact[token], block, rtol=1e-4, atol=1e-5 * float(full.abs().max()))


def test_half_precision_storage_rounds_by_its_last_bit():
    decoder, z = conv_decoder(), latents(3)
    for method in ("sketch", "exact"):
        full = token_metrics(decoder, z, method)
        half = token_metrics(decoder, z, method, dtype=torch.bfloat16)
        assert half.dtype == torch.bfloat16
        given = torch.empty_like(half)
        assert token_metrics(decoder, z, method, result=given) is given
        assert torch.equal(given, half)
        assert ((half.float() - full).abs() <= full.abs() * 2**-8 + 1e-38).all()
    log_variance = latents(2)
    assert posterior_metrics(log_variance, 0.5, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["sketch", "exact"])
def test_zero_and_singular_metrics_are_returned_as_they_are(method):
    class FirstDimension(nn.Module):
        def forward(self, z):
            return z[:, :1] * torch.tensor([0.0, 1.0, 2.0])  # the first column of tokens is ignored

    metrics = unpack_symmetric(token_metrics(FirstDimension().eval(), latents(2), method, precision="32"), D)
    expected = torch.zeros(2, SIDE, SIDE, D, D)
    expected[..., 1, 0, 0], expected[..., 2, 0, 0] = 1.0, 4.0
    assert torch.allclose(metrics, expected.flatten(0, 2), atol=1e-5)

    class Constant(nn.Module):
        def forward(self, z):
            return torch.full((len(z), 1, 4, 4), 0.5)

    assert (token_metrics(Constant().eval(), latents(2), method) == 0).all()


def test_random_decoders_and_those_that_tie_images_together_are_refused():
    class AlwaysDropout(nn.Module):
        def forward(self, z):
            return nn.functional.dropout(z, 0.5, training=True)

    class BatchStatistics(nn.Module):
        def forward(self, z):
            return nn.functional.batch_norm(z, None, None, training=True)

    class OneImage(nn.Module):
        def forward(self, z):
            return z.mean(dim=0, keepdim=True)

    z = latents(4)
    with pytest.raises(InputError, match="another image at every call"):
        token_metrics(AlwaysDropout().eval(), z)
    with pytest.raises(InputError, match="other images of the batch"):
        token_metrics(BatchStatistics().eval(), z, "exact")
    with pytest.raises(InputError, match="one image per latent"):
        token_metrics(OneImage().eval(), z)
    dropout = nn.Sequential(conv_decoder(), nn.Dropout(0.1)).eval()
    assert token_metrics(dropout, z).isfinite().all()
    dropout[1].train()
    with pytest.raises(InputError, match=r"layer 1 \(Dropout\) is in train mode"):
        token_metrics(dropout, z)
    broken = nn.Sequential(nn.Conv2d(D, 1, 1)).eval()
    broken[0].weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="images are not finite"):
        token_metrics(broken, z)

    class Root(nn.Module):
        def forward(self, z):
            return z.sqrt()  # finite, but steep without limit at 0

    with pytest.raises(InputError, match="derivatives are not finite in images 0 to 1"):
        token_metrics(Root().eval(), torch.zeros(2, 1, 2, 2), batch_size=2, precision="32")


def test_any_mode_of_the_caller_and_no_warning():
    decoder, z = conv_decoder(), latents(2)
    expected = token_metrics(decoder, z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = token_metrics(decoder, z, "exact")
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(token_metrics(decoder, z.clone()), expected)
            assert torch.equal(token_metrics(decoder, z.clone(), "exact"), exact)


def test_precision_follows_latents_and_hardware():
    cpu = torch.device("cpu")
    assert runs_in_bf16("bf16", cpu, torch.float32)
    assert not runs_in_bf16("32", cpu, torch.float32)
    assert not runs_in_bf16("auto", cpu, torch.float64)
    assert not runs_in_bf16("auto", torch.device("meta"), torch.float32)
