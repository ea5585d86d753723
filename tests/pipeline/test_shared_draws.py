from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq import ranks
from geovq.pipeline.shared_draws import shared_draws, shared_parts

IMAGES, RANKS = 6, 3
OWN = IMAGES // RANKS

LAYER = nn.TransformerEncoderLayer(4, 2, 8, 0.4, batch_first=True)


def attention(x: Tensor) -> Tensor:
    query = x[:, None, None, None].expand(-1, 2, 5, 4) / 10
    return F.scaled_dot_product_attention(query, query, query, dropout_p=0.5)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(len(x)),
    "rand of a shape": lambda x: torch.rand((2 * len(x), 3)),
    "randn": lambda x: torch.randn(len(x), 4, 5),
    "rand_like": lambda x: torch.rand_like(x[:, None].expand(-1, 7).contiguous()),
    "randn_like": lambda x: torch.randn_like(x[:, None].double()),
    "uniform_": lambda x: torch.zeros(len(x), 3).uniform_(2, 3),
    "exponential_": lambda x: torch.empty(len(x), 3).exponential_(),
    "bernoulli_": lambda x: torch.empty(len(x), 30).bernoulli_(0.3),
    "dropout": lambda x: F.dropout(x[:, None].expand(-1, 20), 0.4),
    "a module": lambda x: nn.Dropout(0.4)(x[:, None].expand(-1, 20)),
    "in place": lambda x: F.dropout(x[:, None].repeat(1, 20), 0.4, inplace=True),
    "bf16": lambda x: F.dropout(x[:, None].expand(-1, 20).bfloat16(), 0.4),
    "other order in memory": lambda x: F.dropout(x[None, :].repeat(20, 1).T, 0.4),
    "rand_like of that": lambda x: torch.rand_like(x[None, :, None].repeat(20, 1, 4).transpose(0, 1)),
    "a layer": lambda x: LAYER(x[:, None, None].expand(-1, 5, 4)),
    "attention": attention,
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_every_image_gets_the_draws_of_one_rank(draw: Callable[[Tensor], Tensor]) -> None:
    x = torch.arange(1.0, IMAGES + 1)
    torch.manual_seed(5)
    whole, after = draw(x), torch.rand(3)
    parts = []
    for rank in range(RANKS):
        torch.manual_seed(5)
        with ranks.joined(rank, RANKS), shared_draws(IMAGES):
            parts.append(draw(x[ranks.share(IMAGES)]))
        assert torch.equal(torch.rand(3), after)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=0)
    assert len(whole.unique()) > 1


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 12])  # fewer than ranks, even and uneven, in one and several parts
def test_what_is_validated_is_shared_out_with_the_draws_of_one_rank(n: int) -> None:
    x = torch.arange(1.0, n + 1)

    def validated() -> tuple[list[int], list[Tensor]]:
        torch.manual_seed(5)
        parts = list[slice]()
        found = [
            torch.randn(len(x[part]), 2) + x[part, None] for part in shared_parts(n, size=5) if not parts.append(part)
        ]
        return [row for part in parts for row in range(n)[part]], found

    rows, found = validated()
    assert rows == list(range(n))
    expected, seen = torch.cat(found), list[int]()
    for rank in range(RANKS):
        with ranks.joined(rank, RANKS):
            own, parts = validated()
        assert len(own) <= -(-n // 5) * 2
        if own:
            assert torch.equal(torch.cat(parts), expected[own])
        seen += own
    assert sorted(seen) == rows


def test_what_belongs_to_no_image_is_the_same_on_all_ranks() -> None:
    generator = torch.Generator()

    def draws() -> list[Tensor]:
        torch.manual_seed(5)
        generator.manual_seed(1)
        own = torch.rand(4, generator=generator)
        return [torch.rand(()), torch.randn(3), torch.randint(0, 9, (4,)), torch.randperm(6), own]

    expected = draws()
    for rank in range(RANKS):
        with ranks.joined(rank, RANKS), shared_draws(IMAGES):
            found = draws()
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_evaluation_draws_nothing() -> None:
    x = torch.ones(OWN, 3)
    with ranks.joined(1, RANKS), shared_draws(IMAGES):
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        attended = F.scaled_dot_product_attention(x[None], x[None], x[None])
    assert torch.allclose(attended, x[None])


@pytest.mark.parametrize(("n", "unit"), [(10, 1), (10, 4), (3, 1), (1, 1), (300, 128), (0, 5)])
def test_shares_are_all_and_cut_at_the_blocks_of_one_rank(n: int, unit: int) -> None:
    assert ranks.share(n, unit) == slice(0, n)
    blocks: list[int] = []
    with ranks.joined(0, 3):
        parts = ranks.shares(n, unit)
    for rank in range(3):
        with ranks.joined(rank, 3):
            blocks += ranks.starts(n, unit)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
    assert blocks == list(range(0, n, unit))
