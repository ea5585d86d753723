"""Search under a code length against trying every move, with a small untrained prior whose lengths differ widely."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from curved_decoder import CurvedDecoder
from geovq.assignment.prices import CodePrices, PriorPrices
from geovq.assignment.search import search_codes
from geovq.geometry.metric import token_metrics
from geovq.models.autoregressive_prior import AutoregressivePrior
from geovq.models.code_layout import CodeLayout
from geovq.models.pixelcnn_prior import PixelCNNPrior
from geovq.models.prior import OrderedPrior
from geovq.models.tokens import grids_of

K, N, PRICE = 5, 12, 0.05


def a_prior(kind: type[Any] = AutoregressivePrior) -> OrderedPrior:
    torch.manual_seed(0)
    layout = CodeLayout(K, (2, 2), 3)
    sizes = {"layers": 1, "width": 8, "dropout": 0.0}
    prior = kind(layout, **sizes, **({"heads": 2} if kind is AutoregressivePrior else {"kernel": 3}))
    for parameter in prior.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    assert isinstance(prior, OrderedPrior)
    return prior.eval().requires_grad_(False)


class LinearDecoder(nn.Module):
    """Every token paints all pixels, so that the model of errors is exact and that of lengths alone is none."""

    latent_shape = (3, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        weight = 0.05 * torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 0.5 + (z.flatten(1) @ self.weight).view(len(z), 1, 4, 5)


class Problem:
    """Images, random codes to start from, and what codes cost under a small random prior."""

    def __init__(self, decoder: nn.Module) -> None:
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(N, *decoder.latent_shape, generator=generator)  # type: ignore[arg-type]
        self.decoder, self.images = decoder.eval(), decoder(latents)
        self.codewords = torch.randn(K, 3, generator=generator)
        self.start = torch.randint(K, (N, 2, 2), generator=generator)
        self.labels = torch.randint(3, (N,), generator=generator)
        self.metrics = token_metrics(decoder, latents, "exact")
        self.prior = a_prior()
        self.prices = PriorPrices(self.prior, self.prior.layout.start_ids(self.labels, N), PRICE)

    def search(self, penalty: Any, n_rounds: int = 40, damping: float = 1.0) -> Any:
        given = (self.decoder, self.images, self.start, self.codewords, self.metrics)
        settings: dict[str, Any] = {"n_candidates": K, "n_rounds": n_rounds, "damping": damping, "precision": "32"}
        return search_codes(*given, penalty=penalty, **settings)

    def cost(self, codes: torch.Tensor) -> torch.Tensor:
        """Squared error plus lambda times the bits that the report would tell."""
        decoded = self.decoder(grids_of(self.codewords[codes.flatten()], (2, 2)))
        bits = self.prior.bits_per_image(self.prior.layout.encode(codes, self.labels))
        cost: torch.Tensor = (decoded - self.images).square().flatten(1).sum(1) + PRICE * bits
        return cost

    def by_trying_all(self) -> torch.Tensor:
        """Codes after the best of all single moves, again and again while one pays."""
        codes, least = self.start.clone(), self.cost(self.start)
        while True:
            tried = codes.repeat(4 * K, 1, 1, 1)
            for place, (row, column, code) in enumerate(itertools.product(range(2), range(2), range(K))):
                tried[place, :, row, column] = code
            cost, which = torch.stack([self.cost(each) for each in tried]).min(0)
            if not (cost < least - 1e-6).any():
                return codes
            codes = torch.where((cost < least)[:, None, None], tried[which, torch.arange(N)], codes)
            least = torch.minimum(least, cost)


@pytest.mark.parametrize("kind", [AutoregressivePrior, PixelCNNPrior])
def test_prices_are_the_bits_of_the_report_times_lambda(kind: type[Any]) -> None:
    """And a code's own price is what its length changes by, to which its total adds what later codes lose."""
    prior = a_prior(kind)
    labels = torch.tensor([0, 2, 1])
    codes = torch.randint(K, (3, 4), generator=torch.Generator().manual_seed(2))
    prices = PriorPrices(prior, prior.layout.start_ids(labels, 3), PRICE)
    bits = prior.bits_per_image(prior.layout.encode(codes.view(3, 2, 2), labels))
    torch.testing.assert_close(prices.total(codes), PRICE * bits)
    torch.testing.assert_close(prices.each(codes).gather(2, codes[..., None]).sum((1, 2)), PRICE * bits)
    torch.testing.assert_close((-prices.each(codes) * math.log(2) / PRICE).exp().sum(2), torch.ones(3, 4))
    last = codes.clone()
    last[:, 3] = 4
    change = prices.each(codes)[:, 3, 4] - prices.each(codes)[torch.arange(3), 3, codes[:, 3]]
    torch.testing.assert_close(prices.total(last) - prices.total(codes), change)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(prices.of(rows).total(codes[rows]), prices.total(codes)[rows])


def test_no_accepted_move_raises_the_exact_cost() -> None:
    problem = Problem(CurvedDecoder())
    before, codes = problem.cost(problem.start), problem.start
    for n_rounds in range(1, 9):  # a round more each time: the same way, one move further
        found = problem.search(problem.prices, n_rounds, damping=1.75)
        after = problem.cost(found.codes)
        moved = (found.codes != codes).flatten(1).any(1)
        assert (after[moved] < before[moved]).all()
        torch.testing.assert_close(found.cost_after, after, rtol=1e-4, atol=1e-5)
        before, codes = after, found.codes
    assert (codes != problem.start).any()


def test_finds_nearly_what_trying_every_move_does() -> None:
    """Of what that gains over search without prices; what later codes lose by a move is seen once it is tried."""
    problem = Problem(LinearDecoder())
    least, found, free = (
        float(problem.cost(codes).mean())
        for codes in (problem.by_trying_all(), problem.search(problem.prices).codes, problem.search(None).codes)
    )
    assert free - found > 0.8 * (free - least) > 0.1


def test_a_prior_without_a_memory_is_the_price_of_each_code() -> None:
    """Where no code depends on those before, both kinds of prices are one, and so are the codes found."""
    problem = Problem(CurvedDecoder())
    lengths = problem.prices.each(problem.start.flatten(1))[0, 0]

    class Forgetful(PriorPrices):
        def each(self, codes: torch.Tensor) -> torch.Tensor:
            return lengths.expand(*codes.shape, K)

        def total(self, codes: torch.Tensor) -> torch.Tensor:
            return lengths[codes].sum(1)

    forgetful = Forgetful(problem.prior, problem.prices.start, PRICE)
    found = [problem.search(penalty).codes for penalty in (lengths, CodePrices(lengths), forgetful)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], problem.search(None).codes)


def test_a_price_of_zero_changes_nothing() -> None:
    problem = Problem(CurvedDecoder())
    free = PriorPrices(problem.prior, problem.prices.start, 0.0)
    plain, priced = problem.search(None), problem.search(free)
    assert torch.equal(plain.codes, priced.codes)
    torch.testing.assert_close(plain.cost_after, priced.cost_after)
