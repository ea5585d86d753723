"""Assignment rules on the images of a run: each option of ``assign=`` as a function from a split to codes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from geovq.assignment.search import search_codes
from geovq.assignment.sequential import sequential_codes
from geovq.configuration.codes import ByMetric, Search, Sequential
from geovq.geometry.symmetric import mean_metric, square_root
from geovq.models.codec import Codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.device import measuring_precision
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.level_search import code_prices
from geovq.pipeline.stages.metric_tensors import load_metric_tensors, metric_tensors_of
from geovq.quantizers.euclidean import nearest_in_coordinates
from geovq.quantizers.metric_assignment import nearest_by_metric
from geovq.quantizers.metric_features import metric_shift
from geovq.quantizers.nearest import nearest_codes
from geovq.quantizers.whitened import constant_metric

if TYPE_CHECKING:
    from collections.abc import Callable

    from geovq.pipeline.stage import Context, Inputs

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
        codewords = codec.whole_codewords()
        assert codewords is not None  # the configuration's rules see to it
        self.context, self.inputs, self.codec, self.decoder, self.known = context, inputs, codec, decoder, known
        self.codewords = codewords.detach()
        self.settings = context.config.assign
        self.rule = RULES[self.settings.name]
        self.summary: dict[str, float] = {}

    def __call__(self, split: str) -> Tensor:
        """Codes (N, *shape)."""
        mean = self.inputs["latents"].tensors(split)["mean"]
        rules = {
            "euclidean": self._euclidean,
            "whitened": self._whitened,
            "metric": self._metric,
            "sequential": self._sequential,
            "search": self._search,
        }
        whole = rules[self.settings.name](split, mean)
        return self.codec.split_codes(torch.as_tensor(whole).long().reshape(len(mean), *mean.shape[2:]))

    def _euclidean(self, split: str, mean: Tensor) -> np.ndarray:
        centre = self.codewords.mean(0)
        points, codewords = tokens_of(mean) - centre, self.codewords - centre
        return nearest_codes(points.numpy(), codewords.numpy(), self.context.device)[0]

    def _whitened(self, split: str, mean: Tensor) -> np.ndarray:
        assert isinstance(self.settings, ByMetric)
        points, codewords = tokens_of(mean).numpy(), self.codewords.numpy()
        return nearest_in_coordinates(points, codewords, self._scale, str(self.context.device))

    @cached_property
    def _scale(self) -> np.ndarray:
        """Root of the mean metric of the training tokens."""
        assert isinstance(self.settings, ByMetric)
        latents = self.inputs["latents"].tensors("train")["mean"]
        metrics = load_metric_tensors(self.inputs["metric_tensors"], "train")
        return square_root(constant_metric(tokens_of(latents).numpy(), metrics, "full", self.settings.ridge))

    def _metric(self, split: str, mean: Tensor) -> np.ndarray:
        return self._nearest(mean, self._metrics(split))

    def _nearest(self, mean: Tensor, metrics: Tensor) -> np.ndarray:
        return nearest_by_metric(tokens_of(mean), metrics, self.codewords, self._shift, device=self.context.device)

    @cached_property
    def _shift(self) -> float:
        """What is added to every metric, from the mean metric of the training tokens."""
        assert isinstance(self.settings, ByMetric | Search)
        average = mean_metric(load_metric_tensors(self.inputs["metric_tensors"], "train")).double().cpu().numpy()
        return metric_shift(average, self.settings.ridge)

    def _sequential(self, split: str, mean: Tensor) -> Tensor:
        settings = self.settings
        assert isinstance(settings, Sequential)
        assert self.decoder is not None
        return sequential_codes(
            self.decoder,
            mean,
            self.codewords,
            n_probes=settings.n_probes,
            shrinkage=settings.shrinkage,
            ridge=settings.ridge,
            seed=settings.seed + 1000 * SPLITS.index(split),
            device=self.context.device,
        )

    def _search(self, split: str, mean: Tensor) -> Tensor:
        settings = self.settings
        assert isinstance(settings, Search)
        assert self.decoder is not None
        metrics = self._metrics(split)
        start = torch.from_numpy(self._nearest(mean, metrics)).long().reshape(len(mean), *mean.shape[2:])
        result = search_codes(
            self.decoder,
            getattr(self.context.data, split).images,
            start,
            self.codewords,
            metrics,
            alternatives=() if self.known is None else (self.codec.join_codes(self.known(split)),),
            n_candidates=settings.n_candidates,
            n_rounds=settings.rounds(self.context.config.n_tokens),
            damping=settings.damping,
            penalty=self._penalty if settings.rate_lambda > 0 else None,
            precision=measuring_precision(self.context.config.trainer),
            device=self.context.device,
        )
        self.summary = result.summary()
        return result.codes

    @cached_property
    def _penalty(self) -> Tensor:
        """Squared pixel error that each codeword must win back: lambda times its code length by training counts.

        The counts are those of the codes by the tokens' metrics, whichever codes the search then starts from.
        """
        assert isinstance(self.settings, Search)
        mean = self.inputs["latents"].tensors("train")["mean"]
        codes = torch.as_tensor(self._metric("train", mean)).long()
        return code_prices(torch.bincount(codes.flatten(), minlength=len(self.codewords)), self.settings.rate_lambda)

    def _metrics(self, split: str) -> Tensor:
        return metric_tensors_of(self.inputs, split)
