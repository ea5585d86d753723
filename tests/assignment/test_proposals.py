"""What a search tries first: the model of changes against its formula, and moves made together."""

from __future__ import annotations

import itertools

import pytest
import torch

from geovq.assignment.proposals import MoveModel, adjacency, tokens_apart
from geovq.assignment.search import _propose
from geovq.geometry.symmetric import pack_symmetric


def model_by_formula(
    codes: torch.Tensor, gradient: torch.Tensor, metrics: torch.Tensor, codewords: torch.Tensor, prices: torch.Tensor
) -> torch.Tensor:
    """``gᵀ(c − q) + γ (c − q)ᵀG(c − q) + price(c) − price(q)`` for all codewords, (B, T, K), with γ = 1.5."""
    step = codewords - codewords[codes][:, :, None]
    quadratic = torch.einsum("btki,btij,btkj->btk", step, metrics, step)
    linear = torch.einsum("bti,btki->btk", gradient, step)
    return linear + 1.5 * quadratic + prices - prices[codes][..., None]


@pytest.mark.parametrize("seed", range(3))
def test_candidates_and_changes_are_those_of_the_formula(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, n_tokens, d, n_codes, m = 5, 4, 3, 11, 6
    codewords = torch.randn(n_codes, d, generator=generator)
    prices = torch.rand(n_codes, generator=generator)
    factor = torch.randn(n, n_tokens, d, d, generator=generator)
    metrics = factor @ factor.mT
    codes = torch.randint(n_codes, (n, n_tokens), generator=generator)
    gradient = torch.randn(n, n_tokens, d, generator=generator)
    model = MoveModel(pack_symmetric(metrics.flatten(0, 1)), codewords, 1.5, m)
    model.start(codes, gradient, prices)
    expected = model_by_formula(codes, gradient, metrics, codewords, prices)
    least = expected.topk(m, largest=False).indices
    assert torch.equal(model.candidates.sort(-1).values, least.sort(-1).values)

    rows = torch.tensor([3, 1])
    later = torch.randint(n_codes, (2, n_tokens), generator=generator)
    slope = torch.randn(2, n_tokens, d, generator=generator)
    model.tried[1, 2, 4] = True
    changes = model.changes(rows, later, slope, prices)
    values = model_by_formula(later, slope, metrics[rows], codewords, prices).gather(2, model.candidates[rows])
    out = model.candidates[rows] == later[..., None]
    out[1, 2, 4] = True
    assert (changes[out] == torch.inf).all()
    torch.testing.assert_close(changes[~out], values[~out], rtol=1e-4, atol=1e-4)


def test_tokens_moved_together_are_no_neighbours() -> None:
    near = adjacency((4, 4))
    assert near.sum(1).tolist()[:2] == [4, 6]
    change = -torch.rand(20, 16)
    tokens, promising = tokens_apart(change, near, 3)
    assert promising.all()
    for row in tokens.tolist():
        assert not any(near[a, b] for a, b in itertools.combinations(row, 2))
    assert torch.equal(tokens[:, 0], change.argmin(1))


def test_proposals_change_the_tokens_that_promise_most_and_no_others() -> None:
    near, codes = adjacency((4, 4)), torch.zeros(2, 16, dtype=torch.long)
    move = torch.arange(1, 17).repeat(2, 1)
    change = torch.full((2, 16), torch.inf)
    change[0, 0] = -1.0  # the only move of the first image; the second has four, two of them neighbours
    change[1, [5, 6, 15, 12]] = torch.tensor([-4.0, -3.0, -2.0, 1.0])
    proposals, singles = _propose(codes, change, move, near, [1, 3])
    alone, together, second = proposals
    assert alone[0].nonzero().flatten().tolist() == [0]
    assert together[0].nonzero().flatten().tolist() == [0]
    assert alone[1].nonzero().flatten().tolist() == [5]
    assert together[1].nonzero().flatten().tolist() == [5, 15]
    assert second[1].nonzero().flatten().tolist() == [6]
    assert together[1, 15] == 16
    assert [token[1].item() for token in singles] == [5, 6]
