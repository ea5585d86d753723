"""Codewords that neighbours move: what each token sees, the encoder against all that there is, and storing."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from geovq.models.codec import Codec, conditional_codec, flat_codec
from geovq.models.neighbour_moves import NeighbourMoves


def network(
    n_tokens: int = 4, n_codes: int = 5, r: int = 2, d: int = 3, seed: int = 0
) -> tuple[NeighbourMoves, Tensor]:
    """A network whose moves are as large as the codewords are far apart, and a table (K, d)."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q[:, :r]
    maps = (2 * axes, axes.T / 2, torch.randn(d, generator=generator), torch.tensor([1.0, 0.5, 2.0])[:r])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        moves = NeighbourMoves(n_tokens, n_codes, *maps, width=8, layers=1, n_moves=3)
        for each in (moves.moves, moves.head.weight, moves.head.bias):
            torch.nn.init.normal_(each)
    return moves.eval().requires_grad_(False), torch.randn(n_codes, d, generator=generator)


def all_codes(n_tokens: int, n_codes: int) -> Tensor:
    return torch.tensor(list(product(range(n_codes), repeat=n_tokens)))


def metrics_of(n: int, n_tokens: int, r: int, seed: int) -> Tensor:
    factors = torch.randn(n, n_tokens, r, r, generator=torch.Generator().manual_seed(seed))
    return factors @ factors.mT


def test_a_code_changes_its_own_token_and_later_ones_alone():
    moves, table = network()
    codes = torch.randint(0, 5, (20, 4), generator=torch.Generator().manual_seed(1))
    before = moves.embed(table, codes)
    for token in range(4):
        changed = codes.clone()
        changed[:, token] = (codes[:, token] + 1) % 5
        after = moves.embed(table, changed)
        assert torch.equal(after[:, :token], before[:, :token])
        for later in range(token, 4):
            assert (after[:, later] != before[:, later]).any(1).all()


def test_all_tokens_at_once_are_what_they_are_one_after_another():
    moves, table = network(n_tokens=6)
    codes = torch.randint(0, 5, (30, 6), generator=torch.Generator().manual_seed(2))
    vectors = moves.embed(table, codes)
    points = moves.entries(vectors)
    at_once = moves.moved(moves.entries(table), codes, moves.coefficients(points))
    assert torch.allclose(at_once, points, atol=1e-4)
    unmoved = table[codes]
    # What the metric does not see stays that of the table.
    seen = moves.to_coordinates @ moves.back
    assert torch.allclose(vectors - vectors @ seen, unmoved - unmoved @ seen, atol=1e-4)


def cheapest(moves: NeighbourMoves, table: Tensor, points: Tensor, metrics: Tensor, beam: int) -> Tensor:
    """Codes (N, T) by the definition: the beginnings of least cost, each with every codeword behind it."""
    found = []
    for goal, metric in zip(points, metrics, strict=True):
        kept = torch.empty(1, 0, dtype=torch.int64)
        for token in range(len(goal)):
            tried = torch.cat([torch.cat([kept, torch.full((len(kept), 1), code)], 1) for code in range(len(table))])
            error = moves.entries(moves.embed(table, tried)) - goal[: token + 1]
            cost = torch.einsum("nti,tij,ntj->n", error, metric[: token + 1], error)
            kept = tried[cost.argsort()[:beam]]
        found.append(kept[0])
    return torch.stack(found)


@pytest.mark.parametrize("beam", [1, 3])
def test_the_encoder_finds_what_trying_every_beginning_finds(beam):
    moves, table = network(n_tokens=3)
    points = torch.randn(25, 3, 2, generator=torch.Generator().manual_seed(3))
    metrics = metrics_of(25, 3, 2, seed=4)
    codes, found = moves.encode(moves.entries(table), points, metrics, beam)
    assert torch.equal(codes, cheapest(moves, table, points, metrics, beam))
    assert torch.allclose(found, moves.entries(moves.embed(table, codes)), atol=1e-4)


def test_a_beam_that_keeps_all_beginnings_finds_the_best_codes():
    moves, table = network(n_tokens=3)
    points, metrics = torch.randn(9, 3, 2, generator=torch.Generator().manual_seed(5)), metrics_of(9, 3, 2, seed=6)
    tried = all_codes(3, 5)
    error = moves.entries(moves.embed(table, tried))[None] - points[:, None]
    costs = torch.einsum("nkti,ntij,nktj->nk", error, metrics, error)
    codes, _ = moves.encode(moves.entries(table), points, metrics, beam=125)
    assert torch.equal(codes, tried[costs.argmin(1)])
    greedy, _ = moves.encode(moves.entries(table), points, metrics)
    assert (greedy != codes).any()  # so that the search is no idle one


def test_codes_do_not_depend_on_the_images_beside():
    moves, table = network(n_tokens=6, n_codes=30)
    points, metrics = torch.randn(40, 6, 2, generator=torch.Generator().manual_seed(7)), metrics_of(40, 6, 2, seed=8)
    whole, _ = moves.encode(moves.entries(table), points, metrics, beam=2)
    for size in (1, 7):
        parts = zip(points.split(size), metrics.split(size), strict=True)
        assert torch.equal(torch.cat([moves.encode(moves.entries(table), *part, 2)[0] for part in parts]), whole)


def test_a_codec_with_moves_is_stored_and_read_bit_for_bit():
    moves, table = network()
    codec = conditional_codec(table, moves, (2, 2))
    again = Codec.from_tensors(codec.to_tensors())
    codes = torch.randint(0, 5, (10, 2, 2), generator=torch.Generator().manual_seed(9))
    assert torch.equal(again.embed(codes), codec.embed(codes))
    assert codec.embed(codes).shape == (10, 3, 2, 2)
    assert torch.equal(codec.embed(codes)[:, :, 1, 0], moves.embed(table, codes.flatten(1))[:, 2])
    assert (again.sizes, again.shape, again.sees_neighbours) == (codec.sizes, (2, 2), True)
    assert again.whole_codewords() is None
    assert flat_codec(table, (2, 2)).sees_neighbours is False
