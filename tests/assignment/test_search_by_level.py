"""The search over codes on several grids: against trying everything, and against the search on one grid."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from curved_decoder import CurvedDecoder
from geovq.assignment import search
from geovq.assignment.search import search_codes
from geovq.assignment.search_by_level import search_by_level
from geovq.errors import InputError
from geovq.geometry.metric import token_metrics
from geovq.models.codec import Codec, CodeLevel, flat_codec, stacked_codec


class LinearDecoder(nn.Module):
    """Every number of the latent grid paints all pixels: an image is ``0.5 + W z``."""

    def __init__(self, n_numbers: int, n_pixels: int = 30) -> None:
        super().__init__()
        weight = 0.1 * torch.randn(n_pixels, n_numbers, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 0.5 + (z.flatten(1) @ self.weight.T).view(len(z), 1, -1, 1)


def two_grids(n_top: int = 3, n_bottom: int = 4, grid: tuple[int, int] = (2, 2)) -> Codec:
    generator = torch.Generator().manual_seed(1)
    top, bottom = torch.randn(1, n_top, 2, generator=generator), torch.randn(1, n_bottom, 3, generator=generator)
    coarse = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return Codec((CodeLevel(top, (n_top,), coarse), CodeLevel(bottom, (n_bottom,), grid)))


def problem(codec: Codec, n: int = 16, seed: int = 3):  # type: ignore[no-untyped-def]
    """A decoder of the codec's latents, images near random codes, and other random codes to start from."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.stack([torch.randint(size, (n,), generator=generator) for size in codec.sizes], 1)  # noqa: E731
    truth, start = draw().reshape(n, *codec.shape), draw().reshape(n, *codec.shape)
    decoder = LinearDecoder(codec.embed(truth)[0].numel()).eval()
    images = decoder(codec.embed(truth)) + 0.02 * torch.randn(n, 1, 30, 1, generator=generator)
    return decoder, images, start


def errors(decoder: nn.Module, images: torch.Tensor, codes: torch.Tensor, codec: Codec) -> torch.Tensor:
    return (decoder(codec.embed(codes)) - images).square().flatten(1).sum(1)


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("grid", [(2, 2), (3, 4)])
def test_no_image_gets_worse_and_the_costs_are_true(precision: str, grid: tuple[int, int]) -> None:
    codec = two_grids(grid=grid)
    decoder, images, start = problem(codec, n=24)
    found = search_by_level(decoder, images, start, codec, n_rounds=(5, 5), precision=precision)  # type: ignore[arg-type]
    before, after = (errors(decoder, images, codes, codec) for codes in (start, found.codes))
    assert found.codes.shape == start.shape
    assert (after <= before + 1e-5).all()
    assert after.mean() < 0.6 * before.mean()
    torch.testing.assert_close(found.cost_before, before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cost_after, after, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.psnr_gain, 10 * torch.log10(before / after), rtol=1e-3, atol=1e-3)


def test_enough_rounds_leave_no_change_of_a_fine_code_and_few_of_a_coarse_one_that_pay() -> None:
    codec = two_grids()
    decoder, images, start = problem(codec, n=30)
    found = search_by_level(
        decoder, images, start, codec, n_rounds=(200, 200), n_probes=30, damping=1.0, precision="32"
    ).codes
    best = errors(decoder, images, found, codec)
    for place, size in enumerate(codec.sizes):
        paying = torch.zeros(len(images), dtype=torch.bool)
        for code in range(size):
            changed = found.clone()
            changed[:, place] = code
            paying |= errors(decoder, images, changed, codec) < best - 2e-3
        assert int(paying.sum()) <= (len(images) // 2 if place == 0 else 0)  # the coarse grid was not asked again


def test_comes_near_the_best_of_all_combinations() -> None:
    codec = two_grids()
    decoder, images, start = problem(codec, n=30)
    found = search_by_level(decoder, images, start, codec, n_rounds=(40, 40), damping=1.0, precision="32").codes
    everything = torch.tensor(list(itertools.product(*(range(size) for size in codec.sizes))))
    decoded = decoder(codec.embed(everything))
    least = torch.stack([(decoded - image).square().flatten(1).sum(1).min() for image in images])
    gap, begun = (errors(decoder, images, codes, codec) - least for codes in (found, start))
    assert gap.min() > -1e-5
    assert float(gap.mean()) < 0.2 * float(begun.mean())


def test_one_grid_is_searched_as_by_the_search_with_metrics_at_its_codes() -> None:
    decoder = CurvedDecoder()
    generator = torch.Generator().manual_seed(5)
    d, height, width = decoder.latent_shape
    codewords = torch.randn(7, d, generator=generator)
    start = torch.randint(7, (9, height, width), generator=generator)
    codec = flat_codec(codewords, (height, width))
    images = decoder(torch.randn(9, d, height, width, generator=generator)).detach()
    pixels = images[0].numel()
    metrics = token_metrics(decoder, codec.embed(start), "exact")
    expected = search_codes(decoder, images, start, codewords, metrics, n_rounds=6, precision="32")
    found = search_by_level(decoder, images, start, codec, n_rounds=[6], n_probes=pixels, precision="32")
    assert torch.equal(found.codes, expected.codes)
    torch.testing.assert_close(found.cost_after, expected.cost_after)
    assert found.decodings_per_image == pytest.approx(expected.decodings_per_image + pixels + 1)


def test_slots_of_a_token_are_joined_and_split_again() -> None:
    generator = torch.Generator().manual_seed(6)
    codec = stacked_codec([torch.randn(size, 3, generator=generator) for size in (2, 3)], (2, 2))
    decoder, images, start = problem(codec)
    found = search_by_level(decoder, images, start, codec, n_rounds=[10], precision="32")
    assert found.codes.shape == (16, 2, 2, 2)
    assert (found.codes[..., 0] < 2).all()
    after, before = (errors(decoder, images, codes, codec) for codes in (found.codes, start))
    assert (after <= before + 1e-5).all()
    assert after.mean() < 0.6 * before.mean()


def test_prices_of_each_grid_are_part_of_the_costs_and_move_codes() -> None:
    codec = two_grids()
    decoder, images, start = problem(codec)
    prices = [torch.tensor([0.0, 50.0, 50.0]), torch.tensor([50.0, 0.0, 50.0, 50.0])]
    found = search_by_level(decoder, images, start, codec, n_rounds=(30, 30), penalties=prices, precision="32")
    assert torch.equal(found.codes, torch.tensor([0, 1, 1, 1, 1]).expand(16, 5))
    for codes, costs in ((start, found.cost_before), (found.codes, found.cost_after)):
        paid = sum(price[part].sum(1) for price, part in zip(prices, codec.by_level(codes), strict=True))
        torch.testing.assert_close(costs, errors(decoder, images, codes, codec) + paid, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rounds": (0, 5)}, "1 round"),
        ({"n_rounds": (5,)}, "1 numbers for 2 grids"),
        ({"n_candidates": 1}, "2 candidates"),
        ({"codes": torch.zeros(15, 5, dtype=torch.long)}, "15 codes for 16 images"),
        ({"codes": torch.zeros(16, 4, dtype=torch.long)}, r"\(4,\) per image"),
        ({"codes": torch.full((16, 5), 3)}, "beyond those that there are"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    codec = two_grids()
    decoder, images, start = problem(codec)
    arguments = {"codes": start, "n_rounds": (5, 5)} | change
    with pytest.raises(InputError, match=message):
        search_by_level(decoder, images, arguments.pop("codes"), codec, **arguments)


def test_each_grid_has_rounds_of_its_own() -> None:
    codec = two_grids()
    decoder, images, start = problem(codec, n=30)
    found = search_by_level(decoder, images, start, codec, n_rounds=(9, 1), precision="32").codes
    moved = (found != start)[:, 1:].sum(1)  # a round on four tokens changes one
    assert int(moved.max()) == 1
    found = search_by_level(decoder, images, start, codec, n_rounds=(1, 9), precision="32").codes
    assert int((found != start)[:, 1:].sum(1).max()) > 1


def test_blocks_of_images_are_coded_like_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = two_grids(grid=(3, 4))
    decoder, images, start = problem(codec, n=11)
    whole = search_by_level(decoder, images, start, codec, n_rounds=(4, 4), n_probes=4, precision="32")
    monkeypatch.setattr(search, "_IMAGES", 4)
    parts = search_by_level(decoder, images, start, codec, n_rounds=(4, 4), n_probes=4, precision="32")
    assert torch.equal(whole.codes, parts.codes)
    torch.testing.assert_close(whole.cost_after, parts.cost_after, rtol=1e-5, atol=1e-6)
    assert whole.decodings_per_image == pytest.approx(parts.decodings_per_image)
