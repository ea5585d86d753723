"""``assign=search`` for codes whose tokens are no latents beside codewords: those of ``vqvae2`` and ``gumbel``."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.assignment.search_by_level import search_by_level
from geovq.configuration.codes import Search
from geovq.models.codec import Codec
from geovq.pipeline.device import measuring_precision
from geovq.pipeline.stages.latents import SPLITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from geovq.pipeline.stage import Context


class LevelSearchEncoder:
    """Codes of a split by descent on the decoded error, grid after grid, from codes that are known.

    ``known`` gives the codes (N, *shape) of a split to start from; ``summary`` says what the search of the last split
    found.
    """

    rule = (
        "coordinate descent on the decoded error, grid after grid, from the quantizer's own codes, or after "
        "fine-tuning from those that the networks were tuned on"
    )

    def __init__(self, context: Context, codec: Codec, decoder: nn.Module, known: Callable[[str], Tensor]) -> None:
        self.context, self.codec, self.decoder, self.known = context, codec, decoder, known
        self.summary: dict[str, float] = {}

    def __call__(self, split: str) -> Tensor:
        """Codes (N, *shape)."""
        config, settings = self.context.config, self.context.config.assign
        assert isinstance(settings, Search)
        result = search_by_level(
            self.decoder,
            getattr(self.context.data, split).images,
            self.known(split),
            self.codec,
            n_rounds=[settings.rounds(level.grid[0] * level.grid[1]) for level in self.codec.levels],
            n_probes=config.geo.n_probes,
            seed=config.geo.seed + 1000 * SPLITS.index(split),
            n_candidates=settings.n_candidates,
            damping=settings.damping,
            penalties=self._penalties if settings.rate_lambda > 0 else None,
            precision=measuring_precision(config.trainer),
            device=self.context.device,
        )
        self.summary = result.summary()
        return result.codes

    @cached_property
    def _penalties(self) -> list[Tensor]:
        """Of each grid lambda times the values' code lengths, by the counts of the training codes to start from."""
        settings = self.context.config.assign
        assert isinstance(settings, Search)
        return [
            code_prices(torch.bincount(codes.flatten(), minlength=size), settings.rate_lambda)
            for codes, size in self.codec.streams(self.known("train"))
        ]


def code_prices(counts: Tensor, rate_lambda: float) -> Tensor:
    """Squared pixel error (K,) that each code must win back: lambda times its length in bits, by counts (K,).

    Laplace's rule: one more is counted of each.
    """
    smoothed = counts.double() + 1
    return (-rate_lambda * torch.log2(smoothed / smoothed.sum())).float()
