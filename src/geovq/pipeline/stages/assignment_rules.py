"""Assignment rules on the images of a run: each option of ``assign=`` as a function from a split to codes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geovq.assignment.prices import Prices
from geovq.assignment.search import search_codes
from geovq.assignment.search_by_level import search_by_level
from geovq.assignment.sequential import sequential_codes
from geovq.configuration.codes import ByMetric, Search, Sequential
from geovq.geometry.symmetric import mean_metric, metric_shift, square_root
from geovq.models.codec import Codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.device import measuring_precision
from geovq.pipeline.stage import Context, Inputs
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.metric_tensors import load_metric_tensors
from geovq.pipeline.stages.networks import of_split
from geovq.quantizers.euclidean import nearest_in_coordinates
from geovq.quantizers.metric_assignment import nearest_by_metric
from geovq.quantizers.nearest import nearest_codes
from geovq.quantizers.whitened import constant_metric

RULES = {
    "euclidean": "nearest codeword by latent L2",
    "whitened": "nearest codeword in the mean metric of the training tokens",
    "metric": "nearest codeword in the metric of the token",
    "sequential": "token after token in the metric of the image, errors passed on to the open tokens",
    "search": "coordinate descent on the decoded error, from the better of the nearest codewords in the metrics of the "
    "tokens and other known codes: the quantizer's own, or after fine-tuning those that the networks were tuned on",
}


class RuleEncoder:
    """Codes of a split by one rule, whatever the codebook; needs every value of a token as a codeword.

    ``known`` gives other codes (N, *shape) of a split that search may start from. ``summary`` says what the last
    split's encoding found, where a rule has more to say than its codes.
    """

    def __init__(
        self,
        context: Context,
        inputs: Inputs,
        codec: Codec,
        decoder: nn.Module | None,
        known: Callable[[str], Tensor] | None = None,
    ) -> None:
        self.context, self.inputs, self.codec, self.decoder, self.known = context, inputs, codec, decoder, known
        self.settings = context.config.assign
        self.summary: dict[str, float] = {}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return RULES[self.settings.name]

    def __call__(self, split: str) -> Tensor:
        """Codes (N, *shape)."""
        mean = self._mean(split)
        whole = getattr(self, f"_{self.settings.name}")(split, mean)
        return self.codec.split_codes(torch.as_tensor(whole).long().reshape(len(mean), *mean.shape[2:]))

    def _mean(self, split: str) -> Tensor:
        return self.inputs["latents"].tensors(split)["mean"]

    @cached_property
    def codewords(self) -> Tensor:
        """Every value (K, d) of a token."""
        codewords = self.codec.whole_codewords()
        assert codewords is not None  # the configuration's rules see to it
        return codewords.detach()

    def _euclidean(self, split: str, mean: Tensor) -> np.ndarray:
        centre = self.codewords.mean(0)
        points, codewords = tokens_of(mean) - centre, self.codewords - centre
        return nearest_codes(points.numpy(), codewords.numpy(), self.context.device)

    def _whitened(self, split: str, mean: Tensor) -> np.ndarray:
        points, codewords = tokens_of(mean).numpy(), self.codewords.numpy()
        return nearest_in_coordinates(points, codewords, self._scale, str(self.context.device))

    @cached_property
    def _scale(self) -> np.ndarray:
        """Root of the mean metric of the training tokens."""
        assert isinstance(self.settings, ByMetric)
        tokens, metrics = tokens_of(self._mean("train")).numpy(), load_metric_tensors(self.inputs, "train")
        return square_root(constant_metric(tokens, metrics, "full", self.settings.ridge))

    def _metric(self, split: str, mean: Tensor) -> np.ndarray:
        metrics = load_metric_tensors(self.inputs, split)
        return nearest_by_metric(tokens_of(mean), metrics, self.codewords, self._shift, device=self.context.device)

    @cached_property
    def _shift(self) -> float:
        """What is added to every metric, from the mean metric of the training tokens."""
        assert isinstance(self.settings, ByMetric | Search)
        average = mean_metric(load_metric_tensors(self.inputs, "train")).double().cpu().numpy()
        return metric_shift(average, self.settings.ridge)

    def _sequential(self, split: str, mean: Tensor) -> Tensor:
        assert isinstance(self.settings, Sequential)
        assert self.decoder is not None
        given = self.settings.model_dump(include={"n_probes", "shrinkage", "ridge"})
        seed = self.settings.seed + 1000 * SPLITS.index(split)
        decoder = of_split(self.decoder, self.context, split)
        return sequential_codes(decoder, mean, self.codewords, **given, seed=seed, device=self.context.device)

    def _search(self, split: str, mean: Tensor) -> Tensor:
        assert isinstance(self.settings, Search)
        start = torch.from_numpy(self._metric(split, mean)).long().reshape(len(mean), *mean.shape[2:])
        return self._searched(
            search_codes,
            split,
            start,
            self.codewords,
            load_metric_tensors(self.inputs, split),
            alternatives=() if self.known is None else (self.codec.join_codes(self.known(split)),),
            n_rounds=self.settings.rounds(self.context.config.n_tokens),
            penalty=self._prices(split),
        )

    def _searched(self, search: Callable[..., Any], split: str, *values: Any, **named: Any) -> Tensor:
        """Codes that a search finds for the images of a split; its summary is kept."""
        given = self.settings.model_dump(include={"n_candidates", "damping"})
        precision, images = measuring_precision(self.context.config.trainer), getattr(self.context.data, split).images
        named |= given | {"precision": precision, "device": self.context.device}
        assert self.decoder is not None
        result = search(of_split(self.decoder, self.context, split), images, *values, **named)
        self.summary = result.summary()
        codes: Tensor = result.codes
        return codes

    def _prices(self, split: str) -> Tensor | Prices | None:
        """What codes cost beside their error; None where they cost nothing."""
        assert isinstance(self.settings, Search)
        return self._penalty if self.settings.priced_by == "unigram" else None

    @cached_property
    def _penalty(self) -> Tensor:
        """Squared pixel error that each codeword must win back: lambda times its code length by training counts.

        The counts are those of the codes by the tokens' metrics, whichever codes the search then starts from.
        """
        assert isinstance(self.settings, Search)
        codes = torch.as_tensor(self._metric("train", self._mean("train"))).long()
        return code_prices(codes, len(self.codewords), self.settings.rate_lambda)


class LevelSearchEncoder(RuleEncoder):
    """Codes whose tokens are no latents beside codewords, those of ``vqvae2`` and ``gumbel``: searched grid after grid.

    ``known`` gives the codes (N, *shape) of a split to start from.
    """

    @property
    def rule(self) -> str:
        """The rule in words."""
        return (
            "coordinate descent on the decoded error, grid after grid, from the quantizer's own codes, or after "
            "fine-tuning from those that the networks were tuned on"
        )

    def __call__(self, split: str) -> Tensor:
        """Codes (N, *shape)."""
        settings, geo = self.settings, self.context.config.geo
        assert isinstance(settings, Search)
        assert self.known is not None
        return self._searched(
            search_by_level,
            split,
            self.known(split),
            self.codec,
            n_rounds=[settings.rounds(level.grid[0] * level.grid[1]) for level in self.codec.levels],
            n_probes=geo.n_probes,
            seed=geo.seed + 1000 * SPLITS.index(split),
            penalties=self._penalties if settings.priced_by == "unigram" else None,
        )

    @cached_property
    def _penalties(self) -> list[Tensor]:
        """Of each grid lambda times the values' code lengths, by the counts of the training codes to start from."""
        assert isinstance(self.settings, Search)
        assert self.known is not None
        streams = self.codec.streams(self.known("train"))
        return [code_prices(codes, size, self.settings.rate_lambda) for codes, size in streams]


def code_prices(codes: Tensor, size: int, rate_lambda: float) -> Tensor:
    """Squared pixel error (size,) that each code must win back: lambda times its length in bits, by its count.

    Laplace's rule: one more is counted of each.
    """
    smoothed = torch.bincount(codes.flatten(), minlength=size).double() + 1
    return (-rate_lambda * torch.log2(smoothed / smoothed.sum())).float()
