"""Search for codes on the decoded error itself: ``‖x − D(q)‖²`` of the image, not of its latents.

Coordinate descent over the tokens, best first. At the codes reached so far one backward pass gives the gradient ``g``
of the error for all tokens, and with the tokens' metrics a quadratic model of what any change costs,

    ΔE(q_t → c) ≈ g_tᵀ(c − q_t) + γ (c − q_t)ᵀ G_t (c − q_t),

the Gauss-Newton model of the decoder (its second derivatives are left out; γ > 1 stands in for them and for the other
tokens that move). The model only proposes: single moves, and several at once of tokens that are not neighbours. Each
proposal is decoded, and the best one is accepted if the error falls. An image is left alone when the model promises
nothing more. It begins, image by image, at the best of the codes it is given, and its result is never worse than any of
them: what a last look in full precision finds worse goes back to the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.assignment.prices import CodePrices, Prices
from geovq.assignment.proposals import DecodedImages, MoveModel, adjacency, move_counts, tokens_apart
from geovq.errors import InputError
from geovq.evaluation.reconstruction import GREATEST_PSNR_DB
from geovq.geometry.checks import check_decoder, of_images
from geovq.geometry.computing import Precision, images_per_pass, runs_in_bf16
from geovq.progress import progress

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_GAIN = 1e-5
"""Share of an image's cost that a change must gain to be tried or accepted: some hundred roundings of float32."""

# Costs of all codewords that exist at a time, and most images.
_BLOCK, _IMAGES = 1 << 24, 256


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        codes: (N, h, w) int64.
        cost_before: (N,) squared pixel error summed over the image, plus penalties, of the codes it started from.
        cost_after: (N,) the same of ``codes``; nowhere larger.
        psnr_gain: (N,) dB that the image gained over its start, both cut at 100 dB as in the report; below 0 only where
            a penalty was worth it.
        decodings_per_image: forward passes of the decoder, a backward pass counting as one more.
    """

    codes: Tensor
    cost_before: Tensor
    cost_after: Tensor
    psnr_gain: Tensor
    decodings_per_image: float

    def summary(self) -> dict[str, float]:
        """Means over the images, by the names of the report's metrics."""
        return {
            "search_gain_db": float(self.psnr_gain.double().mean()),
            "search_decodings_per_image": self.decodings_per_image,
        }

    @classmethod
    def joined(cls, parts: Sequence[SearchResult], n: int, step: int, shape: tuple[int, ...]) -> SearchResult:
        """The results of ``n`` images, whose codes have this shape, of those of each ``step``, of all ranks'."""
        own = ranks.share(n, step)

        def whole(values: list[Tensor], *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            filled = torch.empty(n, *shape, dtype=dtype)
            if values:
                filled[own] = torch.cat(values)
            return ranks.complete_(filled, step)

        counts = [torch.full((len(part.codes),), part.decodings_per_image, dtype=torch.float64) for part in parts]
        decodings = whole(counts, dtype=torch.float64).split(step)
        return cls(
            whole([part.codes for part in parts], *shape, dtype=torch.int64),
            whole([part.cost_before for part in parts]),
            whole([part.cost_after for part in parts]),
            whole([part.psnr_gain for part in parts]),
            sum(float(each[0]) * len(each) for each in decodings) / n,
        )


def search_codes(
    decoder: nn.Module,
    images: Tensor,
    codes: Tensor,
    codewords: Tensor,
    metrics: Tensor,
    *,
    alternatives: Sequence[Tensor] = (),
    n_candidates: int = 16,
    n_rounds: int = 5,
    damping: float = 1.75,
    penalty: Tensor | Prices | None = None,
    precision: Precision = "auto",
    device: torch.device | str | None = None,
) -> SearchResult:
    """Codes of smaller decoded error, from codes to start with.

    Time per image: ``n_rounds`` times a backward pass and three to five forward passes, fewer where images are done
    early; memory for a block of images only.

    Args:
        decoder: maps ``(B, d, h, w)`` to images in [0, 1]; in evaluation mode.
        images: ``(N, C, H, W)`` what the codes should decode to: bytes, or floats in [0, 1].
        codes: ``(N, h, w)`` in [0, K), to start from.
        codewords: ``(K, d)``.
        metrics: ``(N·h·w, d(d+1)/2)`` packed pull-back metrics of the tokens.
        alternatives: more codes of the same shape; an image starts from those of least cost.
        n_candidates: codewords per token that may be proposed, those of least cost in the model at the start; K are
            taken where there are fewer.
        n_rounds: changes per image at most.
        damping: γ; 1 is exact for a linear decoder. On Fashion-MNIST 1.5 to 2 gained most: at 1 moves go too far, at 3
            not far enough.
        penalty: what codes cost in squared pixel error, such as a multiple of their length in bits: ``(K,)`` of each
            codeword, or the prices of the codes of all images; nothing by default.
        precision: of the decodings while searching: ``auto`` takes bf16 where the device has it; ``32``, ``bf16``.
        device: where to compute; the decoder must be there.

    Raises:
        InputError: shapes or codes that do not fit together, no candidates or rounds, a decoder in training mode.
    """
    n_codes = len(codewords)
    check_budget(n_candidates, n_rounds)
    for given in (codes, *alternatives):
        if given.ndim != 3 or len(given) != len(images) or given.shape != codes.shape or len(given) == 0:
            raise InputError(f"codes of shape {tuple(given.shape)} for {len(images)} images: give (N, h, w), N of both")
        if int(given.min()) < 0 or int(given.max()) >= n_codes:
            raise InputError(f"codes reach from {int(given.min())} to {int(given.max())}; there are {n_codes}")
    if isinstance(penalty, Tensor) and (penalty.shape != (n_codes,) or not torch.isfinite(penalty).all()):
        raise InputError(f"penalty has shape {tuple(penalty.shape)}; give a finite number per codeword")
    if len(metrics) != codes.numel():
        raise InputError(f"{len(metrics)} metrics for {codes.numel()} tokens: each token needs its own")
    target = torch.device(device or "cpu")
    centers = codewords.detach().float().to(target)
    first = centers[codes[:1].to(target)].permute(0, 3, 1, 2)
    check_decoder(decoder, first)
    bf16 = runs_in_bf16(precision, target, torch.float32)
    most = images_per_pass(decoder, first, _IMAGES, backward=True, bf16=bf16)
    penalty = torch.zeros(n_codes) if penalty is None else penalty
    prices = CodePrices(penalty.float().to(target)) if isinstance(penalty, Tensor) else penalty
    grid = (codes.shape[1], codes.shape[2])
    n_tokens = grid[0] * grid[1]
    step = images_at_once(n_tokens * n_codes)
    parts = []
    own = ranks.starts(len(codes), step)
    with progress("searching codes", own.stop - own.start) as advance:
        for start in own:
            part = slice(start, start + step)
            starts = [each[part].to(target).long().flatten(1) for each in (codes, *alternatives)]
            goal = as_floats(images[part], target)
            priced = prices.of(torch.arange(start, start + len(goal), device=target))
            batch = DecodedImages(of_images(decoder, part), goal, grid, centers, priced, bf16, most=most)
            packed = metrics[start * n_tokens : start * n_tokens + starts[0].numel()].to(target)
            model = MoveModel(packed.float(), centers, damping, min(n_candidates, n_codes))
            parts.append(search_batch(batch, starts, model, n_rounds))
            advance(len(starts[0]))
    return SearchResult.joined(parts, len(codes), step, grid)


def search_batch(batch: DecodedImages, starts: Sequence[Tensor], model: MoveModel, n_rounds: int) -> SearchResult:
    """Codes of a batch of images that are searched together, from the best of several ``(B, T)`` to start with.

    The result is on the CPU, with the codes in their grid.
    """
    exact = replace(batch, bf16=False)
    begun, first = exact.best(starts)
    near = adjacency(batch.grid).to(begun.device)
    found, used = _descend(batch, begun, model, near, n_rounds)
    reached = exact.cost(found)
    better = reached < first
    ended = torch.where(better[:, None], found, begun)
    last = torch.where(better, reached, first)
    smallest = batch.images[0].numel() * 10 ** (-GREATEST_PSNR_DB / 10)
    errors = [(cost - batch.prices.total(of)).clamp(min=smallest) for cost, of in ((first, begun), (last, ended))]
    return SearchResult(
        ended.view(len(begun), *batch.grid).cpu(),
        first.cpu(),
        last.cpu(),
        (10 * torch.log10(errors[0] / errors[1])).cpu(),
        used / len(begun) + len(starts) + 1,
    )


def images_at_once(n_costs: int) -> int:
    """Images to search together, of which each has ``n_costs`` costs of codewords of its tokens."""
    return max(1, min(_IMAGES, _BLOCK // n_costs))


def as_floats(images: Tensor, device: torch.device) -> Tensor:
    """Images in [0, 1] on a device, from bytes or from floats in [0, 1]."""
    return images.to(device).float() / (255 if images.dtype == torch.uint8 else 1)


def _descend(
    batch: DecodedImages, codes: Tensor, model: MoveModel, near: Tensor, n_rounds: int
) -> tuple[Tensor, float]:
    """Codes ``(B, T)`` after at most ``n_rounds`` changes per image, and how many decodings that took."""
    codes = codes.clone()
    rows = torch.arange(len(codes), device=codes.device)
    counts = move_counts(codes.shape[1])
    used = 0.0
    for turn in range(n_rounds):
        if len(rows) == 0:
            break
        part, here = batch.of(rows), codes[rows]
        cost, gradient = part.gradient(here)
        prices = part.prices.each(here)
        if turn == 0:
            model.start(here, gradient, prices)
        change, choice = model.changes(rows, here, gradient, prices).min(2)  # the best candidate of each token
        move = model.candidates[rows].gather(2, choice[..., None])[..., 0]
        proposals, singles = _propose(here, change, move, near, counts)
        costs = torch.stack([part.cost(proposal) for proposal in proposals], 1)
        used += (2 + len(proposals)) * len(rows)
        lowest, which = costs.min(1)
        least = LEAST_GAIN * cost.abs()
        better = lowest < cost - least
        taken = torch.stack(proposals, 1)[torch.arange(len(rows), device=rows.device), which]
        codes[rows] = torch.where(better[:, None], taken, here)
        # A move tried alone in vain is not tried again until the image changes.
        model.tried[rows[better]] = False
        for token in singles:
            lost = ~better
            model.tried[rows[lost], token[lost], choice[lost, token[lost]]] = True
        rows = rows[better | (change.amin(1) < -least)]
    return codes, used


def _propose(
    codes: Tensor, change: Tensor, move: Tensor, near: Tensor, counts: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Proposals ``(B, T)``: the most promising tokens moved, 1, 3, 9, … at once, and the second one alone.

    The second value holds the tokens ``(B,)`` of the proposals that move one alone.
    """
    tokens, promising = tokens_apart(change, near, max(counts))
    chosen = promising[..., None] & (tokens[..., None] == torch.arange(codes.shape[1], device=codes.device))
    proposals = [torch.where(chosen[:, :count].any(1), move, codes) for count in counts]
    singles = [tokens[:, 0]]
    if codes.shape[1] > 1:
        second = change.topk(2, largest=False).indices[:, 1:]
        proposals.append(codes.scatter(1, second, move.gather(1, second)))
        singles.append(second[:, 0])
    return proposals, singles


def check_budget(n_candidates: int, n_rounds: int) -> None:
    """Raise InputError for a search that could not change anything."""
    if n_candidates < 2 or n_rounds < 1:
        raise InputError(
            f"n_candidates is {n_candidates} and n_rounds {n_rounds}: a search needs at least 2 candidates and 1 round"
        )
