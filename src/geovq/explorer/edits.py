"""The codes of one image, changed by hand or by the moves that search would make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geovq.assignment.prices import CodePrices
from geovq.assignment.proposals import DecodedImages, MoveModel
from geovq.errors import InputError
from geovq.explorer.explored_run import ExploredRun, SplitTokens, jacobian
from geovq.geometry.metric import token_metrics
from geovq.models.codec import half_mask
from geovq.models.condition import given
from geovq.models.prior import CategoricalPrior, OrderedPrior
from geovq.pipeline.contracts import check_sampled

_DECODED_AT_ONCE = 64


@dataclass(frozen=True)
class Slot:
    """One code of an image: where it stands in the flattened codes, how many values it has, and its place in the grid.

    Attributes:
        position, size: of the code.
        level, slot: of the codec.
        row, col: in the grid of its level.
    """

    position: int
    size: int
    level: int
    slot: int
    row: int
    col: int


class EditedImage:
    """Codes (*shape) of an image of a split, and what they decode to.

    A decoder that is told classes is told that of the image, or the one ``told``: its number, -1 for none.
    """

    def __init__(self, split: SplitTokens, image: int, codes: Tensor, told: int | None = None) -> None:
        self.split, self.run, self.image, self.codes, self.told = split, split.run, image, codes, told
        self.original = split.data.images[image].float() / 255
        self._classes = split.classes_of(torch.tensor([image])) if told is None else torch.tensor([told])

    @property
    def decoded(self) -> Tensor:
        """(C, H, W) what the codes decode to."""
        return self._decode(self.codes[None])[0]

    def error(self, decoded: Tensor) -> float:
        """Squared pixel error of an image, summed."""
        return float((decoded - self.original).square().sum())

    def slots(self, level: int = 0, slot: int = 0) -> list[Slot]:
        """The codes of one slot of one level, row by row."""
        codec = self.run.codec
        before = sum(each.n_slots for each in codec.levels[:level])
        grid, n_slots = codec.levels[level].grid, len(codec.levels[level].sizes)
        return [
            Slot(before + place * n_slots + slot, codec.levels[level].sizes[slot], level, slot, *divmod(place, grid[1]))
            for place in range(grid[0] * grid[1])
        ]

    def with_code(self, position: int, code: int) -> EditedImage:
        """The same with another code at a position of the flattened codes; InputError for one that is not there."""
        size = self.run.codec.sizes[position]
        if not 0 <= code < size:
            raise InputError(f"code={code}: there are codes 0 to {size - 1} at this place")
        codes = self.codes.flatten().clone()
        codes[position] = code
        return self._with(codes)

    def alternatives(self, chosen: Slot, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The k codes of least decoded error at a place: (k,) codes, (k,) errors, (k, C, H, W) images.

        Those are decoded which a quadratic model of the decoder around the image's codes finds best, and the code that
        is there; all where a code changes what later ones stand for, since no such model knows that.
        """
        tried = torch.arange(chosen.size) if self.run.codec.sees_neighbours else self._promising(chosen)
        codes = self.codes.flatten().repeat(len(tried), 1)
        codes[:, chosen.position] = tried
        images = self._decode(codes.reshape(len(tried), *self.codes.shape))
        errors = (images - self.original).square().flatten(1).sum(1)
        order = errors.argsort()[:k]
        return tried[order], errors[order], images[order]

    def _promising(self, chosen: Slot) -> Tensor:
        """Codes (n,) at a place that a quadratic model of the decoder finds best, and the one that is there."""
        table = self.run.codec.levels[chosen.level].tables[chosen.slot][: chosen.size]
        here = int(self.codes.flatten()[chosen.position])
        jacobian = self._jacobian(chosen)  # (P, d')
        offset = (table - table[here]) @ jacobian.T
        residual = (self.decoded - self.original).flatten()
        predicted = (residual + offset).square().sum(1)
        tried = predicted.topk(min(_DECODED_AT_ONCE, chosen.size), largest=False).indices
        return torch.cat([tried, torch.tensor([here])]).unique()

    def best_move(self) -> tuple[EditedImage, float] | None:
        """What search would do next: the one change of a whole code that lowers the decoded error most, and how much.

        Proposals are those of ``assign=search`` (its quadratic model with the sketched metrics of the tokens), the best
        of them are decoded, without a price of codes. None where none lowers it.

        Raises:
            InputError: tokens without whole codes.
        """
        run, codewords = self.run, self.run.codewords
        if codewords is None:
            raise InputError(f"No single moves: {run.no_codewords}")
        mean, grid = self.split.mean[self.image : self.image + 1], self.split.grid
        whole = run.codec.join_codes(self.codes[None]).flatten(1)  # (1, T)
        packed = token_metrics(self._decoder, mean, method="sketch", n_probes=16, seed=0, device=run.device)
        free, codewords = torch.zeros(len(codewords), device=run.device), codewords.to(run.device)
        original, here = self.original[None].to(run.device), whole.to(run.device)
        batch = DecodedImages(self._decoder, original, grid, codewords, CodePrices(free), bf16=False)
        model = MoveModel(packed.float().to(run.device), codewords, 1.0, min(16, len(codewords)))
        now, gradient = batch.gradient(here)
        model.start(here, gradient, free)
        changes = model.changes(torch.zeros(1, dtype=torch.long, device=run.device), here, gradient, free)[0]
        best = changes.flatten().topk(min(_DECODED_AT_ONCE, changes.numel()), largest=False).indices.cpu()
        token, place = best // changes.shape[1], best % changes.shape[1]
        moved = whole.repeat(len(best), 1)
        moved[torch.arange(len(best)), token] = model.candidates[0].cpu()[token, place]
        costs = batch.of(torch.zeros(len(best), dtype=torch.long, device=run.device)).cost(moved.to(run.device)).cpu()
        least = int(costs.argmin())
        if float(costs[least]) >= float(now):
            return None
        return self._with(run.codec.split_codes(moved[least].reshape(1, *grid))), float(now) - float(costs[least])

    def prior_bits(self) -> Tensor:
        """(L,) bits that the prior gives each code, the codes before it and the image's class known."""
        with torch.no_grad():
            lengths = self._prior.code_lengths(self._ids())[0]
        return lengths.cpu() / math.log(2)

    def prior_probabilities(self, position: int) -> Tensor:
        """(size,) probability of each code at a position, given the codes before it and the class."""
        with torch.no_grad():
            logits = self._prior.logits(self._ids())[0, position]
        return logits.softmax(-1)[: self.run.codec.sizes[position]].cpu()

    def _ids(self) -> Tensor:
        labels = self.split.data.labels
        label = None if labels is None else labels[self.image : self.image + 1]
        return self._prior.layout.encode(self.codes[None], label).to(self.run.device)

    @property
    def _prior(self) -> OrderedPrior:
        """The prior of a run for which :attr:`ExploredRun.no_single_codes` is None."""
        assert isinstance(self.run.code_prior, OrderedPrior)
        return self.run.code_prior

    def _with(self, codes: Tensor) -> EditedImage:
        return EditedImage(self.split, self.image, codes.reshape(self.codes.shape), self.told)

    @property
    def _decoder(self) -> nn.Module:
        decoder: nn.Module = given(self.run.decoder, self._classes)
        return decoder

    def _decode(self, codes: Tensor) -> Tensor:
        return self.run.decoded(self.run.codec.embed(codes), self._classes)

    def _jacobian(self, chosen: Slot) -> Tensor:
        """(P, d') of the decoded image with respect to the vector that a code adds."""
        # The decoder is loaded here: below, where derivatives are taken, no weights can be drawn.
        decoder, codec, device = self._decoder, self.run.codec, self.run.device
        rest, grid = codec.embed(self.codes[None]).to(device), codec.levels[chosen.level].grid
        here = torch.zeros(1, 1, *grid, device=device)
        here[0, 0, chosen.row, chosen.col] = 1

        def decode(vectors: Tensor) -> Tensor:
            decoded: Tensor = decoder(rest + codec.lift(chosen.level, vectors[:, :, None, None] * here))
            return decoded

        return jacobian(decode, torch.zeros(codec.levels[chosen.level].tables.shape[2], device=device))


def original(split: SplitTokens, image: int | None) -> EditedImage:
    """The codes that the run gave an image.

    Raises:
        InputError: no such image, or a split without codes.
    """
    if split.raw_codes is None:
        raise InputError(
            "The training images of this run have no codes (only a prior needs them); take the test images."
        )
    if image is None or not 0 <= image < len(split.raw_codes):
        raise InputError(f"image={image}: the {split.name} images go from 0 to {len(split.raw_codes) - 1}")
    return EditedImage(split, image, split.raw_codes[image])


def completed(run: ExploredRun, codes: Tensor, label: int, n: int, settings: dict[str, Any]) -> Tensor:
    """Codes (n, *shape) that keep the upper half of an image's codes (*shape), the rest drawn from the prior.

    Raises:
        InputError: one row of tokens, which has no upper half, or a prior that cannot go on.
    """
    prior, shape = run.code_prior, run.codec.shape
    if not isinstance(prior, CategoricalPrior):
        raise InputError(f"prior={run.config.prior.name} draws whole images and completes none")
    mask = half_mask(run.codec, "upper").expand(n, *shape)
    start = prior.layout.start_ids(torch.full((n,), label), n)
    drawn: Tensor = check_sampled(prior, prior.complete(start, codes.expand(n, *shape), mask, **settings), n, run.codec)
    return drawn
