"""Codes to latents and back against loops, for one slot, several, and two levels."""

from __future__ import annotations

import itertools

import pytest
import torch

from geovq.errors import InputError
from geovq.models.codec import Codec, CodeLevel, flat_codec, stacked_codec
from geovq.models.tokens import tokens_of


def slots(sizes: tuple[int, ...], n: int, positions: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(size, (n, positions), generator=generator) for size in sizes]
    return torch.stack(columns, dim=-1)


def test_a_flat_codebook_is_a_look_up() -> None:
    codewords, codes = torch.randn(7, 3), torch.randint(7, (5, 2, 4))
    codec = flat_codec(codewords, (2, 4))
    assert codec.shape == (2, 4)
    assert codec.sizes == (7,) * 8
    assert torch.equal(codec.embed(codes).permute(0, 2, 3, 1), codewords[codes])
    whole = codec.whole_codewords()
    assert whole is not None
    assert torch.equal(whole, codewords)


def test_several_slots_add_up_and_are_joined_in_the_order_of_all_combinations() -> None:
    sizes = (4, 2, 3)
    tables = [torch.randn(size, 5) for size in sizes]
    codec = stacked_codec(tables, (2, 2))
    codes = slots(sizes, 6, 4).reshape(6, 2, 2, 3)
    expected = sum(table[codes[..., slot]] for slot, table in enumerate(tables))
    torch.testing.assert_close(codec.embed(codes).permute(0, 2, 3, 1), expected)

    whole = codec.whole_codewords()
    assert whole is not None
    for row, digits in enumerate(itertools.product(*(range(size) for size in sizes))):
        torch.testing.assert_close(whole[row], sum(t[i] for t, i in zip(tables, digits, strict=True)))
    ((joined, size),) = codec.streams(codes)
    assert size == 24
    torch.testing.assert_close(whole[joined].reshape(-1, 5), tokens_of(codec.embed(codes)))
    assert torch.equal(codec.split_codes(joined.reshape(6, 2, 2)), codes)
    assert torch.equal(codec.join_codes(codes), joined.reshape(6, 2, 2))


def test_too_many_combinations_stay_apart() -> None:
    codec = stacked_codec([torch.randn(300, 2), torch.randn(300, 2)], (1, 2))
    codes = slots((300, 300), 3, 2).reshape(3, 1, 2, 2)
    assert codec.whole_codewords() is None
    streams = codec.streams(codes)
    assert [size for _, size in streams] == [300, 300]
    assert torch.equal(streams[1][0], codes[:, 0, :, 1])


def test_two_levels_stand_above_each_other_on_the_fine_grid() -> None:
    coarse, fine = torch.randn(1, 4, 2), torch.randn(1, 6, 3)
    codec = Codec((CodeLevel(coarse, (4,), (2, 2)), CodeLevel(fine, (6,), (4, 4))))
    assert codec.shape == (20,)
    codes = torch.cat([torch.randint(4, (5, 4)), torch.randint(6, (5, 16))], dim=1)
    latents = codec.embed(codes)
    assert latents.shape == (5, 5, 4, 4)
    for row, column in itertools.product(range(4), range(4)):
        top = coarse[0][codes[:, (row // 2) * 2 + column // 2]]
        bottom = fine[0][codes[:, 4 + row * 4 + column]]
        torch.testing.assert_close(latents[:, :, row, column], torch.cat([top, bottom], dim=1))
    assert [size for _, size in codec.streams(codes)] == [4, 6]


def test_tensors_and_back() -> None:
    codec = stacked_codec([torch.randn(4, 5), torch.randn(2, 5)], (3, 3))
    again = Codec.from_tensors(codec.to_tensors())
    codes = slots((4, 2), 2, 9).reshape(2, 3, 3, 2)
    assert again.shape == codec.shape
    assert again.sizes == codec.sizes
    assert torch.equal(again.embed(codes), codec.embed(codes))


def test_codes_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="the codec reads"):
        flat_codec(torch.randn(4, 2), (2, 2)).embed(torch.zeros(3, 2, 3, dtype=torch.long))
    with pytest.raises(InputError, match="do not hold slots"):
        CodeLevel(torch.randn(1, 4, 2), (5,), (2, 2))
