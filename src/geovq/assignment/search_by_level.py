"""Search where tokens are no latents beside codewords: codes on two grids, or latents that are scores.

The decoded error does not ask how codes came about, only what they decode to. So the descent of ``search`` serves here
too, grid after grid, the coarse one first, while the other is held: a move of a coarse code shifts all the positions
that it covers. There are no metric codes to start from and no latents to measure metrics at, so both are taken at the
codes that are given: a few backward passes sketch the metrics of a grid's vectors, through all that they reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.assignment.prices import CodePrices
from geovq.assignment.proposals import DecodedImages, MoveModel
from geovq.assignment.search import SearchResult, as_floats, check_budget, images_at_once, search_batch
from geovq.errors import InputError
from geovq.geometry.checks import check_decoder, of_images
from geovq.geometry.computing import Precision, runs_in_bf16
from geovq.geometry.sketch import sketch_blocks
from geovq.geometry.symmetric import pack_symmetric
from geovq.models.codec import Codec
from geovq.models.tokens import grids_of
from geovq.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence


def search_by_level(
    decoder: nn.Module,
    images: Tensor,
    codes: Tensor,
    codec: Codec,
    *,
    n_rounds: Sequence[int],
    n_probes: int = 16,
    seed: int = 0,
    n_candidates: int = 16,
    damping: float = 1.75,
    penalties: Sequence[Tensor] | None = None,
    precision: Precision = "auto",
    device: torch.device | str | None = None,
) -> SearchResult:
    """Codes of smaller decoded error than those given; of no image a larger one.

    Time per image and grid: a forward and ``n_probes`` backward passes, then what ``search_codes`` takes.

    Args:
        decoder: maps ``(B, d, h, w)`` to images in [0, 1]; in evaluation mode.
        images: ``(N, C, H, W)`` what the codes should decode to: bytes, or floats in [0, 1].
        codes: ``(N, *codec.shape)`` to start from.
        codec: what decodes them.
        n_rounds: of each grid the changes per image at most.
        n_probes: backward passes for the metrics of a grid.
        seed: of the probes.
        n_candidates: values per token that may be proposed.
        damping: as in ``search_codes``.
        penalties: of each grid ``(P,)``, the cost of each of its tokens' values in squared pixel error; nothing by
            default.
        precision: of the probes, and of the decodings while searching.
        device: where to compute; the decoder must be there.

    Returns:
        Codes ``(N, *codec.shape)``, and what all grids together cost and gained. The probes count as decodings.

    Raises:
        InputError: codes that do not fit images or codec, tokens of too many values, no candidates or rounds, a decoder
            in training mode.
    """
    _check(images, codes, codec, n_rounds)
    check_budget(n_candidates, min(n_rounds))
    target = torch.device(device or "cpu")
    check_decoder(decoder, codec.embed(codes[:1]).to(target))
    bf16 = runs_in_bf16(precision, target, torch.float32)
    grids = _grids_of(codec, n_rounds, penalties, target)
    step = min(images_at_once(prod(grid.size) * len(grid.values)) for grid in grids)
    parts = []
    own = ranks.starts(len(codes), step)
    with progress("searching codes", own.stop - own.start) as advance:
        for start in own:
            goal = as_floats(images[start : start + step], target)
            begun = [
                grid.codec.join_codes(part.to(target)).flatten(1)
                for grid, part in zip(grids, codec.by_level(codes[start : start + step]), strict=True)
            ]
            probe = partial(sketch_blocks, n_probes=n_probes, seed=seed, first_image=start, bf16=bf16)
            here = of_images(decoder, slice(start, start + step))
            parts.append(_search_grids(here, goal, begun, grids, probe, bf16, n_candidates, damping))
            advance(len(goal))
    found = SearchResult.joined(parts, len(codes), step, (len(codec.sizes),))
    probes = len(grids) * (n_probes + 1)
    return replace(
        found,
        codes=found.codes.reshape(len(codes), *codec.shape),
        decodings_per_image=found.decodings_per_image + probes,
    )


@dataclass(frozen=True, eq=False)
class _Grid:
    """A level of a codec: ``values`` (P, d) that a token takes, what each costs, and where its vectors go."""

    codec: Codec  # of this level alone
    values: Tensor
    prices: Tensor
    n_rounds: int
    lift: Callable[[Tensor], Tensor]

    @property
    def size(self) -> tuple[int, int]:
        return self.codec.levels[0].grid

    def lifted(self, codes: Tensor) -> Tensor:
        """What codes (B, T) add to the latent grids."""
        return self.lift(grids_of(self.values[codes.flatten()], self.size))


def _grids_of(
    codec: Codec, n_rounds: Sequence[int], penalties: Sequence[Tensor] | None, device: torch.device
) -> list[_Grid]:
    grids = []
    for index, level in enumerate(codec.levels):
        alone = Codec((level,))
        values = alone.whole_codewords()
        if values is None:
            raise InputError(f"a token of grid {level.grid} takes too many values to propose them one by one")
        prices = torch.zeros(len(values)) if penalties is None else penalties[index].float()
        values = values.detach().float().to(device)
        grids.append(_Grid(alone, values, prices.to(device), n_rounds[index], partial(codec.lift, index)))
    return grids


def _search_grids(
    decoder: nn.Module,
    goal: Tensor,
    begun: list[Tensor],
    grids: list[_Grid],
    probe: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
    bf16: bool,
    n_candidates: int,
    damping: float,
) -> SearchResult:
    """A batch of images, grid after grid; its codes come back as (B, L), those of all grids in a row."""
    codes, found = list(begun), []
    for index, grid in enumerate(grids):
        others = [other.lifted(codes[place]) for place, other in enumerate(grids) if place != index]
        rest = torch.stack(others).sum(0) if others else None
        priced = CodePrices(grid.prices)
        batch = DecodedImages(decoder, goal, grid.size, grid.values, priced, bf16, grid.lift, rest)
        metrics = pack_symmetric(probe(batch.decode, batch.vectors(codes[index])))
        model = MoveModel(metrics, grid.values, damping, min(n_candidates, len(grid.values)))
        found.append(search_batch(batch, [codes[index]], model, grid.n_rounds))
        codes[index] = found[-1].codes.flatten(1).to(goal.device)
    prices = [
        [grid.prices[each].sum(1).cpu() for grid, each in zip(grids, which, strict=True)] for which in (begun, codes)
    ]
    slots = [grid.codec.split_codes(each.codes).flatten(1) for grid, each in zip(grids, found, strict=True)]
    return SearchResult(
        torch.cat(slots, 1),
        sum(prices[0][1:], found[0].cost_before),
        sum(prices[1][:-1], found[-1].cost_after),
        torch.stack([each.psnr_gain for each in found]).sum(0),
        sum(each.decodings_per_image for each in found),
    )


def _check(images: Tensor, codes: Tensor, codec: Codec, n_rounds: Sequence[int]) -> None:
    if len(codes) != len(images) or len(codes) == 0:
        raise InputError(f"{len(codes)} codes for {len(images)} images: give as many of both")
    if tuple(codes.shape[1:]) != codec.shape:
        raise InputError(f"codes have shape {tuple(codes.shape[1:])} per image, the codec reads {codec.shape}")
    if len(n_rounds) != len(codec.levels):
        raise InputError(f"n_rounds has {len(n_rounds)} numbers for {len(codec.levels)} grids")
    flat, sizes = codes.flatten(1), torch.tensor(codec.sizes, device=codes.device)
    if bool((flat < 0).any()) or bool((flat >= sizes).any()):
        raise InputError(f"codes reach from {int(flat.min())} to {int(flat.max())}, beyond those that there are")
