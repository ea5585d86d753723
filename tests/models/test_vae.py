from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from geovq.errors import InputError
from geovq.models.layers import allowed_grids, level_sizes
from geovq.models.objective import VaeObjective
from geovq.models.tokens import grids_of, tokens_of
from geovq.models.vae import (
    NATS_PER_BIT,
    VAE,
    Posterior,
    RateController,
    divergence_cost,
    reconstruction_loss,
)


def make(image: tuple[int, int, int], grid: tuple[int, int], **changes: object) -> VAE:
    settings = {"dim": 3, "width": 8, "max_width": 16, "blocks": 1, "norm": "group"} | changes
    torch.manual_seed(0)
    return VAE(image, grid[0], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "grid"),
    [
        ((1, 28, 28), (4, 4)),
        ((1, 28, 28), (7, 7)),
        ((1, 28, 28), (14, 14)),
        ((1, 28, 28), (1, 1)),
        ((3, 32, 32), (8, 8)),
        ((1, 8, 8), (4, 4)),
        ((1, 27, 27), (7, 7)),
        ((3, 96, 96), (8, 8)),
        ((3, 24, 40), (4, 4)),
        ((1, 9, 9), (9, 9)),
    ],
)
def test_shapes_of_latents_and_images(image: tuple[int, int, int], grid: tuple[int, int]) -> None:
    vae = make(image, grid)
    x = torch.rand(2, *image)
    posterior = vae.encode(x)
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 3, *grid)
    output = vae.decoder(posterior.mean)
    assert output.shape == x.shape
    assert 0 <= output.min() <= output.max() <= 1


def test_odd_sizes_are_halved_rounding_up() -> None:
    assert level_sizes((28, 28), (4, 4)) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert level_sizes((96, 96), (8, 8)) == [(96, 96), (48, 48), (24, 24), (12, 12), (8, 8)]
    with pytest.raises(InputError, match="does not fit"):
        level_sizes((8, 8), (9, 9))


@given(st.integers(2, 64))
@settings(max_examples=30, deadline=None)
def test_every_divisor_is_an_allowed_grid(side: int) -> None:
    grids = allowed_grids((side, side))
    assert {g for g in range(1, side) if side % g == 0} <= set(grids)
    for grid in grids:
        assert level_sizes((side, side), (grid, grid))[-1] == (grid, grid)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_an_image_does_not_depend_on_its_batch(norm: str) -> None:
    vae = make((1, 28, 28), (4, 4), norm=norm).train()
    x = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(vae.encode(x).mean[2:3], vae.encode(x[2:3]).mean, atol=1e-5, rtol=1e-4)


def test_divergence_is_that_of_torch_distributions() -> None:
    posterior = Posterior(torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2))
    expected = kl_divergence(Normal(posterior.mean, (0.5 * posterior.log_variance).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(posterior.divergence(), expected, rtol=1e-4, atol=1e-5)


def test_reconstruction_terms_are_sums_over_pixels() -> None:
    logits, x = torch.randn(3, 1, 5, 5), torch.rand(3, 1, 5, 5)
    p = torch.sigmoid(logits)
    expected = {
        "mse": ((p - x) ** 2).sum((1, 2, 3)),
        "l1": (p - x).abs().sum((1, 2, 3)),
        "bce": -(x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3)),
    }
    for kind, value in expected.items():
        torch.testing.assert_close(reconstruction_loss(logits, x, kind), value, rtol=1e-4, atol=1e-4)


def test_free_bits_cost_nothing_and_have_no_gradient_below_the_floor() -> None:
    divergence = torch.full((4, 2, 2), 0.5 * NATS_PER_BIT, requires_grad=True)
    cost = divergence_cost(divergence, free_bits=1.0).mean()
    cost.backward()
    assert float(cost) == pytest.approx(4 * NATS_PER_BIT)  # the floor of each of the four positions
    assert divergence.grad is not None
    assert float(divergence.grad.abs().max()) == pytest.approx(0, abs=1e-7)
    above = torch.full((4, 2, 2), 2.0)
    torch.testing.assert_close(divergence_cost(above, free_bits=1.0), above.sum((1, 2)))


def test_a_free_rate_charges_each_token_of_each_image_above_it() -> None:
    divergence = (torch.tensor([[[0.2, 3.0]], [[1.5, 0.9]]]) * NATS_PER_BIT).requires_grad_(True)
    objective = VaeObjective(make((1, 8, 8), (2, 2)), "mse", 0.5, "rate", 1.0)
    cost = divergence_cost(divergence, objective.free_bits, objective.each_token)
    torch.testing.assert_close(cost, torch.tensor([1.0 + 3.0, 1.5 + 1.0]) * NATS_PER_BIT)
    cost.sum().backward()
    torch.testing.assert_close(divergence.grad, torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]))


def test_without_a_rate_nothing_is_free() -> None:
    divergence = torch.rand(3, 1, 2)
    objective = VaeObjective(make((1, 8, 8), (2, 2)), "mse", 0.5, "rate", None)
    cost = divergence_cost(divergence, objective.free_bits, objective.each_token)
    torch.testing.assert_close(cost, divergence.sum((1, 2)))


@pytest.mark.parametrize("start", [1e-3, 0.1, 10.0])
def test_controller_reaches_the_target_on_a_gaussian_channel(start: float) -> None:
    """A channel of variance 1 has D(R) = exp(-2R): at slope -beta the rate is ln(2 / beta) / 2 nats."""
    controller = RateController(start, target_bits=3.0)
    for _ in range(1500):
        bits = (
            max(0.05, 0.5 * math.log(2 / float(controller.beta)) / NATS_PER_BIT) if float(controller.beta) < 2 else 0.05
        )
        controller.update(torch.tensor(bits))
    assert float(controller.mean_bits) == pytest.approx(3.0, rel=0.02)


def test_without_a_target_beta_stays() -> None:
    controller = RateController(0.3, None)
    controller.update(torch.tensor(50.0))
    assert float(controller.beta) == pytest.approx(0.3)


def test_matched_rate_score_is_the_reconstruction_at_the_target() -> None:
    objective = VaeObjective(make((1, 8, 8), (2, 2)), "mse", 0.5, 0.0, 4.0)
    assert objective.held_out_score(2.0, 4.0, 4) == pytest.approx(2.0)
    assert objective.held_out_score(2.0, 4.1, 4) == pytest.approx(2.0 + 0.5 * 0.1 * NATS_PER_BIT * 4)
    assert objective.held_out_score(0.1, 5.0, 4) == math.inf


def test_token_order_is_image_row_column() -> None:
    grid = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    tokens = tokens_of(grid)
    for n, row, col in [(0, 0, 1), (1, 1, 0)]:
        assert tokens[n * 4 + row * 2 + col].tolist() == grid[n, :, row, col].tolist()
    assert torch.equal(grids_of(tokens, (2, 2)), grid)
