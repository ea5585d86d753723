"""The search against trying everything, and what it promises image by image."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from curved_decoder import CurvedDecoder
from geovq.assignment import search
from geovq.assignment.proposals import move_counts
from geovq.assignment.search import search_codes
from geovq.errors import InputError
from geovq.evaluation.reconstruction import GREATEST_PSNR_DB
from geovq.geometry.metric import token_metrics
from geovq.models.tokens import grids_of


class LinearDecoder(nn.Module):
    """Every token paints all pixels: an image is ``0.5 + W z``."""

    def __init__(self, n_numbers: int, n_pixels: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.1 * torch.randn(n_pixels, n_numbers, generator=generator), requires_grad=False)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        tokens = z.permute(0, 2, 3, 1).flatten(1)
        return 0.5 + (tokens @ self.weight.T).view(len(z), 1, -1, 1)


def problem(n: int = 12, grid: tuple[int, int] = (2, 2), d: int = 3, n_codes: int = 5, seed: int = 0):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    decoder = LinearDecoder(grid[0] * grid[1] * d, 20, seed).eval()
    latents = torch.randn(n, d, *grid, generator=generator)
    codewords = torch.randn(n_codes, d, generator=generator)
    images = decoder(latents) + 0.02 * torch.randn(n, 1, 20, 1, generator=generator)
    start = torch.randint(n_codes, (n, *grid), generator=generator)
    return decoder, images, start, codewords, token_metrics(decoder, latents, "exact")


def errors(decoder: nn.Module, images: torch.Tensor, codes: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    decoded = decoder(grids_of(codewords[codes.flatten()], tuple(codes.shape[1:])))
    return (decoded - images).square().flatten(1).sum(1)


def test_enough_rounds_leave_no_single_change_that_pays() -> None:
    decoder, images, start, codewords, metrics = problem()
    found = search_codes(
        decoder, images, start, codewords, metrics, n_candidates=5, n_rounds=400, damping=1.0, precision="32"
    )
    best = errors(decoder, images, found.codes, codewords)
    for row, column, code in itertools.product(range(2), range(2), range(5)):
        changed = found.codes.clone()
        changed[:, row, column] = code
        assert (errors(decoder, images, changed, codewords) >= best - 2e-5 * best).all()


class Dimmed(nn.Module):
    """A decoder whose images are a power of two times as bright: the same numbers but for their exponents."""

    def __init__(self, decoder: nn.Module, factor: float) -> None:
        super().__init__()
        self.decoder, self.factor = decoder, factor

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.factor * self.decoder(z)


@pytest.mark.parametrize("exponent", [-3, -10])
def test_what_is_worth_taking_does_not_depend_on_the_size_of_errors(exponent: int) -> None:
    decoder, images, start, codewords, metrics = problem(n=40, grid=(3, 3), n_codes=9)
    settings = {"n_candidates": 9, "n_rounds": 20, "precision": "32"}
    bright = search_codes(decoder, images, start, codewords, metrics, **settings)  # type: ignore[arg-type]
    factor = 2.0**exponent
    dim = Dimmed(decoder, factor).eval()
    found = search_codes(dim, factor * images, start, codewords, factor**2 * metrics, **settings)  # type: ignore[arg-type]
    assert torch.equal(found.codes, bright.codes)


def test_the_gain_is_that_of_the_reported_psnr() -> None:
    decoder, _, start, codewords, metrics = problem(n=20)
    goal = torch.randint(5, start.shape, generator=torch.Generator().manual_seed(9))
    images = decoder(grids_of(codewords[goal.flatten()], (2, 2)))
    found = search_codes(
        decoder, images, start, codewords, metrics, n_candidates=5, n_rounds=60, damping=1.0, precision="32"
    )
    mse = (errors(decoder, images, codes, codewords) / 20 for codes in (start, found.codes))
    before, after = (-10 * each.clamp(min=1e-10).log10() for each in mse)
    assert (after == GREATEST_PSNR_DB).any()
    torch.testing.assert_close(found.psnr_gain, after - before, rtol=0, atol=1e-2)


def test_mostly_finds_the_best_of_all_combinations_of_a_small_problem() -> None:
    decoder, images, start, codewords, metrics = problem(n=40)
    found = search_codes(decoder, images, start, codewords, metrics, n_candidates=5, n_rounds=60, damping=1.0)
    everything = torch.tensor(list(itertools.product(range(5), repeat=4))).view(-1, 2, 2)
    decoded = decoder(grids_of(codewords[everything.flatten()], (2, 2)))
    least = (decoded[None] - images[:, None]).square().flatten(2).sum(2).amin(1)
    gap = errors(decoder, images, found.codes, codewords) - least
    assert gap.min() > -1e-5
    begun = errors(decoder, images, start, codewords) - least
    assert float(gap.mean()) < 0.1 * float(begun.mean())


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("seed", range(3))
def test_no_image_gets_worse_and_the_costs_are_true(precision: str, seed: int) -> None:
    decoder, images, start, codewords, metrics = problem(n=30, grid=(4, 3), n_codes=9, seed=seed)
    found = search_codes(
        decoder,
        images,
        start,
        codewords,
        metrics,
        n_candidates=4,
        n_rounds=6,
        precision=precision,  # type: ignore[arg-type]
    )
    before, after = (errors(decoder, images, codes, codewords) for codes in (start, found.codes))
    assert (after <= before + 1e-6).all()
    assert after.mean() < 0.9 * before.mean()
    torch.testing.assert_close(found.cost_before, before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.cost_after, after, rtol=1e-4, atol=1e-5)
    assert 0 < found.decodings_per_image <= 2 + 6 * (2 + len(move_counts(12)) + 1)


def test_an_image_starts_from_the_best_codes_it_is_given() -> None:
    decoder, images, start, codewords, metrics = problem(n=30)
    other = (start + torch.randint(0, 2, start.shape)) % 5
    found = search_codes(decoder, images, start, codewords, metrics, alternatives=(other,), precision="32")
    each = torch.stack([errors(decoder, images, codes, codewords) for codes in (start, other)])
    assert 0 < int((each[0] < each[1]).sum()) < 30  # either start is the better one somewhere
    torch.testing.assert_close(found.cost_before, each.amin(0), rtol=1e-4, atol=1e-5)
    after = errors(decoder, images, found.codes, codewords)
    assert (after <= each.amin(0) + 1e-6).all()
    torch.testing.assert_close(found.psnr_gain, 10 * torch.log10(each.amin(0) / after), rtol=1e-3, atol=1e-4)


def test_images_do_not_depend_on_their_company() -> None:
    decoder, images, start, codewords, metrics = problem(n=9)
    whole = search_codes(decoder, images, start, codewords, metrics, n_rounds=5, precision="32").codes
    alone = search_codes(decoder, images[4:5], start[4:5], codewords, metrics[16:20], n_rounds=5, precision="32").codes
    assert torch.equal(whole[4:5], alone)


def test_a_prohibitive_price_keeps_all_other_codes() -> None:
    decoder, images, start, codewords, metrics = problem()
    prices = torch.zeros(5)
    prices[2] = 1e3
    found = search_codes(
        decoder, images, start.where(start != 2, 1), codewords, metrics, n_rounds=40, penalty=prices, precision="32"
    )
    assert not (found.codes == 2).any()


def test_bytes_and_floats_are_the_same_images() -> None:
    decoder = CurvedDecoder().eval()
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(6, *decoder.latent_shape, generator=generator)
    codewords = torch.randn(7, decoder.latent_shape[0], generator=generator)
    start = torch.randint(7, (6, *decoder.latent_shape[1:]), generator=generator)
    with torch.no_grad():
        shape = decoder(latents).shape
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    metrics = token_metrics(decoder, latents, "exact")
    results = [
        search_codes(decoder, each, start, codewords, metrics, precision="32").codes
        for each in (images, images.float() / 255)
    ]
    assert torch.equal(*results)


class MisleadingInHalfPrecision(LinearDecoder):
    """Half precision shows another image than the one that full precision decodes to."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return super().forward(-z if torch.is_autocast_enabled("cpu") else z)


def test_what_only_half_precision_finds_better_goes_back_to_the_start() -> None:
    honest, _, _, codewords, _ = problem(n=20, n_codes=9)
    decoder = MisleadingInHalfPrecision(12, 20).eval()
    start = torch.randint(9, (20, 2, 2), generator=torch.Generator().manual_seed(4))
    latents = grids_of(codewords[start.flatten()], (2, 2))
    images, metrics = honest(latents), token_metrics(honest, latents, "exact")  # the start cannot be bettered
    found = search_codes(decoder, images, start, codewords, metrics, precision="bf16")
    assert torch.equal(found.codes, start)
    assert not found.psnr_gain.any()


def curved_problem(n: int = 40, n_codes: int = 8):  # type: ignore[no-untyped-def]
    decoder = CurvedDecoder()
    generator = torch.Generator().manual_seed(2)
    latents = 2 * torch.randn(n, *decoder.latent_shape, generator=generator)
    codewords = 2 * torch.randn(n_codes, decoder.latent_shape[0], generator=generator)
    start = torch.randint(n_codes, (n, *decoder.latent_shape[1:]), generator=generator)
    return decoder, decoder(latents), start, codewords, token_metrics(decoder, latents, "exact")


def test_a_round_never_undoes_what_another_gained() -> None:
    decoder, images, start, codewords, metrics = curved_problem()
    costs = []
    for n_rounds in range(1, 8):  # without damping the model promises far too much, so many proposals are worse
        found = search_codes(
            decoder, images, start, codewords, metrics, n_rounds=n_rounds, damping=0.01, precision="32"
        )
        costs.append(found.cost_after)
    assert all((later <= earlier + 1e-5).all() for earlier, later in itertools.pairwise(costs))
    assert float(costs[-1].mean()) < 0.9 * float(costs[0].mean())


def test_an_image_rests_once_all_that_was_promised_was_tried() -> None:
    decoder, images, start, codewords, metrics = curved_problem()
    spent = [
        search_codes(
            decoder, images, start, codewords, metrics, n_rounds=n_rounds, damping=0.01, precision="32"
        ).decodings_per_image
        for n_rounds in (150, 300)
    ]
    assert spent[0] == spent[1]


def test_blocks_of_images_are_coded_like_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, images, start, codewords, metrics = problem(n=11, grid=(3, 2), n_codes=9)
    other = (start + 1) % 9
    arguments = {"alternatives": (other,), "precision": "32", "n_rounds": 4}
    whole = search_codes(decoder, images, start, codewords, metrics, **arguments)  # type: ignore[arg-type]
    monkeypatch.setattr(search, "_IMAGES", 4)
    parts = search_codes(decoder, images, start, codewords, metrics, **arguments)  # type: ignore[arg-type]
    assert torch.equal(whole.codes, parts.codes)
    for name in ("cost_before", "cost_after", "psnr_gain"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-5, atol=1e-6)
    assert whole.decodings_per_image == pytest.approx(parts.decodings_per_image)


def test_prices_move_codes_that_decode_alike_and_are_part_of_the_costs() -> None:
    decoder, images, start, codewords, metrics = problem(n=20)
    twins = torch.cat([codewords, codewords])  # codes 5 to 9 are those of 0 to 4 at half the price
    prices = torch.cat([torch.full((5,), 0.4), torch.full((5,), 0.2)])
    found = search_codes(
        decoder, images, start, twins, metrics, n_candidates=10, n_rounds=40, penalty=prices, precision="32"
    )
    assert (found.codes >= 5).all()
    for codes, costs in ((start, found.cost_before), (found.codes, found.cost_after)):
        expected = errors(decoder, images, codes, twins) + prices[codes].flatten(1).sum(1)
        torch.testing.assert_close(costs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_rounds": 0}, "1 round"),
        ({"n_candidates": 1}, "2 candidates"),
        ({"codes": torch.full((12, 2, 2), 5)}, "there are 5"),
        ({"codes": torch.zeros(11, 2, 2, dtype=torch.long)}, "11|12 images"),
        ({"metrics": torch.ones(3, 6)}, "3 metrics for 48 tokens"),
        ({"penalty": torch.ones(4)}, "penalty has shape"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    decoder, images, start, codewords, metrics = problem()
    arguments = {"codes": start, "metrics": metrics} | change
    codes, packed = arguments.pop("codes"), arguments.pop("metrics")
    with pytest.raises(InputError, match=message):
        search_codes(decoder, images, codes, codewords, packed, **arguments)


@pytest.mark.gpu
def test_a_device_finds_codes_as_good_as_the_cpu_does() -> None:
    decoder, images, start, codewords, metrics = problem(n=64, grid=(4, 4), n_codes=16)
    here = search_codes(decoder, images, start, codewords, metrics, precision="32")
    there = search_codes(decoder.cuda(), images, start, codewords, metrics, precision="32", device="cuda")
    assert (there.cost_after <= there.cost_before).all()
    assert float(there.cost_after.mean()) == pytest.approx(float(here.cost_after.mean()), rel=0.02)
