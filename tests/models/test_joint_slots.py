"""Quantizers of several slots, of relaxed samples and of finite scalars."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from geovq.errors import InputError
from geovq.models.joint_codebook import nearest
from geovq.models.joint_gumbel import GumbelQuantizer
from geovq.models.joint_scalars import FiniteScalars
from geovq.models.joint_structured import ProductCodebook, ResidualCodebook

MOVING = {"beta": 0.25, "decay": 0.9, "restart": 0.1}


def test_residual_codes_are_greedy_and_their_rows_add_up() -> None:
    torch.manual_seed(0)
    quantizer = ResidualCodebook(4, 512, 3, **MOVING).train()
    tokens = torch.randn(300, 4)
    for _ in range(20):
        quantizer(tokens, 0.0)
    codes = quantizer.codes(tokens)
    left = tokens
    for slot, table in enumerate(quantizer.tables()):
        assert table.shape == (8, 4)
        assert torch.equal(codes[:, slot], nearest(left, table))
        left = left - table[codes[:, slot]]
    torch.testing.assert_close(tokens - left, quantizer.embed(codes))
    spread = [float(t.square().sum()) for t in (tokens, tokens - quantizer.tables()[0][codes[:, 0]], left)]
    assert spread[0] > spread[1] > spread[2]


def test_the_decoders_gradient_reaches_residual_tokens_once() -> None:
    """The library alone passes it once per stage."""
    torch.manual_seed(0)
    quantizer = ResidualCodebook(4, 512, 3, **MOVING).train()
    tokens, upstream = torch.randn(50, 4, requires_grad=True), torch.randn(50, 4)
    quantizer(tokens, 0.0).vectors.backward(upstream)
    assert torch.equal(tokens.grad, upstream)  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [False, True])
def test_residual_penalty_holds_each_partial_sum_to_the_token(training: bool) -> None:
    torch.manual_seed(0)
    quantizer = ResidualCodebook(4, 64, 2, **MOVING).train()
    tokens = torch.randn(50, 4, requires_grad=True)
    for _ in range(3):
        quantizer(tokens.detach(), 0.0)
    quantizer.train(training)
    tables = [table.clone() for table in quantizer.tables()]
    quantized = quantizer(tokens, 0.0)
    partial, expected = torch.zeros(50, 4), torch.zeros(())
    for slot, table in enumerate(tables):
        partial = partial + table[quantized.codes[:, slot]]
        expected = expected + 0.25 * (tokens - partial).square().mean()
    torch.testing.assert_close(quantized.penalty, expected)
    quantized.penalty.backward()
    reference = torch.autograd.grad(expected, tokens)[0]
    torch.testing.assert_close(tokens.grad, reference)


def test_product_blocks_are_quantized_on_their_own_and_tables_are_zero_elsewhere() -> None:
    torch.manual_seed(0)
    quantizer = ProductCodebook(5, 512, 2, **MOVING).train()
    assert quantizer.sizes == (32, 16)
    tokens = torch.randn(100, 5)
    quantizer(tokens, 0.0)
    quantizer.eval()
    first, second = quantizer.tables()
    assert not first[:, 3:].any()
    assert not second[:, :3].any()
    codes = quantizer.codes(tokens)
    assert torch.equal(codes[:, 0], nearest(tokens[:, :3], first[:, :3]))
    assert torch.equal(codes[:, 1], nearest(tokens[:, 3:], second[:, 3:]))
    # Being separable, the pair of codes is also the nearest of all 512 sums.
    sums = (first[:, None] + second[None]).reshape(-1, 5)
    assert torch.equal(codes[:, 0] * 16 + codes[:, 1], nearest(tokens, sums))
    quantized = quantizer(tokens, 0.0)
    torch.testing.assert_close(quantized.penalty, 0.25 * (tokens - quantized.vectors).square().mean())


def test_more_parts_than_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="3 parts of 2 dimensions"):
        ProductCodebook(2, 64, 3, **MOVING)


@pytest.mark.parametrize("levels", [[2, 2], [3, 5], [8, 4, 2]])
def test_finite_scalars_reach_every_level_and_round_to_the_nearest(levels: list[int]) -> None:
    quantizer = FiniteScalars(64, 3, levels)
    grid = torch.stack(
        [
            torch.tensor(values)
            for values in itertools.product(*([-1 + 2 * k / (L - 1) for k in range(L)] for L in levels))
        ]
    )
    codes = quantizer.codes(grid)
    assert codes.tolist() == [list(each) for each in itertools.product(*(range(L) for L in levels))]
    torch.testing.assert_close(quantizer.embed(codes), grid)
    tokens = quantizer.activation(3 * torch.randn(500, len(levels)))
    for slot, table in enumerate(quantizer.tables()):
        assert torch.equal(quantizer.codes(tokens)[:, slot], (tokens[:, slot, None] - table[:, slot]).abs().argmin(1))


def test_finite_scalars_pass_the_gradient_through_rounding() -> None:
    quantizer = FiniteScalars(512, 3).train()
    tokens, upstream = (torch.rand(10, 3) * 2 - 1).requires_grad_(), torch.randn(10, 3)
    quantizer(tokens, 0.0).vectors.backward(upstream)
    torch.testing.assert_close(tokens.grad, upstream)


@pytest.mark.parametrize("levels", [[1, 8], [8, 8, 8, 2]])
def test_levels_that_say_nothing_or_too_much_are_refused(levels: list[int]) -> None:
    with pytest.raises(InputError, match="their product"):
        FiniteScalars(512, 3, levels)


def test_relaxed_samples_have_the_frequencies_of_the_softmax() -> None:
    """The Gumbel-max trick: at a low temperature the largest weight falls on code k with probability softmax_k."""
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(2, 4, 1.0, 0.01, 0.0, gain=1.0, scale=10.0).train()
    pair = torch.randn(2, 2)
    products = pair @ quantizer.weight.T
    scores = (products - products.mean(0)) / (products.var(0, unbiased=False) + 1e-5).sqrt()
    vectors = quantizer(pair.repeat(20000, 1), 1.0).vectors.reshape(-1, 2, 2)
    expected = torch.softmax(scores, dim=1) @ quantizer.tables()[0]
    torch.testing.assert_close(vectors.mean(0), expected, atol=0.03, rtol=0)


def test_the_likeliest_code_uses_the_running_statistics_and_moves_none() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(3, 7, 1.0, 0.1, 0.0, gain=6.0, scale=10.0).train()
    tokens = 2 + torch.randn(200, 3)
    for _ in range(100):
        quantizer(tokens, 0.0)
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    in_training = quantizer.codes(tokens)
    assert all(torch.equal(value, quantizer.state_dict()[name]) for name, value in before.items())
    assert torch.equal(quantizer.eval()(tokens, 0.0).codes, in_training)
    products = tokens @ quantizer.weight.T
    standard = (products - products.mean(0)) / products.std(0)
    assert float((standard.argmax(1) == in_training[:, 0]).float().mean()) > 0.95


def test_temperature_falls_geometrically_and_is_kept_in_the_state() -> None:
    quantizer = GumbelQuantizer(2, 4, 1.0, 0.01, 0.5, gain=6.0, scale=10.0).train()
    for progress, expected in ((0.0, 1.0), (0.5, 0.1), (1.0, 0.01)):
        quantizer(torch.randn(3, 2), progress)
        assert float(quantizer.state_dict()["temperature"]) == pytest.approx(expected)


def test_divergence_from_uniform_is_that_of_torch_distributions_and_rises_with_the_ramp() -> None:
    quantizer = GumbelQuantizer(3, 7, 1.0, 0.1, 0.5, gain=6.0, scale=10.0).eval()
    tokens = torch.randn(11, 3)
    drawn = torch.distributions.Categorical(logits=quantizer.scores(tokens))
    uniform = torch.distributions.Categorical(logits=torch.zeros(11, 7))
    expected = torch.distributions.kl_divergence(drawn, uniform).mean()
    torch.testing.assert_close(quantizer(tokens, 0.0).penalty, expected)
    assert torch.equal(quantizer.codes(tokens)[:, 0], F.softmax(quantizer.scores(tokens), dim=1).argmax(1))
    quantizer.train()
    ramp = [float(quantizer(tokens, progress).penalty.detach()) for progress in (0.0, 0.25, 0.5, 1.0)]
    assert ramp == pytest.approx([0, ramp[3] / 2, ramp[3], ramp[3]])
