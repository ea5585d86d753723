"""The groups of a whole run, and what follows from their settings.

What a class needs or is, it says itself (``needs_metrics``, ``is_joint``, …); nothing here knows a class by its name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from geovq.configuration.codes import AdversarialTuning, Assign, Finetune, Search
from geovq.configuration.fields import Seed, StalePolicy
from geovq.configuration.options import Data, ImageLossSettings, Prior, Quantizer, Transformer, Vae
from geovq.configuration.section import Section
from geovq.configuration.sections import Evaluation, Geo, Paths, Samples, Tracking, Trainer


def _known_stage(name: str) -> str:
    from geovq.pipeline.stages import STAGES

    names = [stage.name for stage in STAGES]
    if name not in names:
        raise ValueError(f"no such stage; choose {', '.join(names)}")
    return name


class Groups(Section):
    """A whole run."""

    data: Data
    vae: Vae
    quantizer: Quantizer
    geo: Geo
    assign: Assign
    finetune: Finetune
    transformer: Transformer
    prior: Prior
    evaluation: Evaluation
    tracking: Tracking
    trainer: Trainer
    samples: Samples
    paths: Paths
    seed: Seed
    """Of networks, metric tensors, graph, codebook and samples; data.split_seed and evaluation.seed stay."""
    stages: Literal["all"] | Annotated[list[Annotated[str, AfterValidator(_known_stage)]], Field(min_length=1)]
    """all, or a list of stages: these and whatever they need."""
    stale: StalePolicy
    """Of artifacts built with other code than today's."""

    @property
    def is_joint(self) -> bool:
        """Whether the quantizer is trained together with its autoencoder."""
        return self.quantizer.said("is_joint")

    @property
    def latents_are_points(self) -> bool:
        """Whether latents lie in the space of the codewords, which the decoder reads: all but scores do."""
        return not self.is_joint or self.quantizer.said("latents_are_points")

    @property
    def tokens_are_latents(self) -> bool:
        """Whether each token has a latent of its own beside whole codewords: not scores, and not codes on two grids."""
        return self.latents_are_points and self.grids == 1

    @property
    def grids(self) -> int:
        """Grids of tokens per image."""
        return int(type(self.quantizer).owner.grids) if self.is_joint else 1

    @property
    def reads_graph(self) -> bool:
        """Whether the quantizer lives on the graph: its key then depends on it, and else not."""
        return not self.is_joint and self.quantizer.said("needs_graph")

    @property
    def sees_neighbours(self) -> bool:
        """Whether what a code decodes to depends on other codes of its image."""
        return not self.is_joint and self.quantizer.said("sees_neighbours")

    @property
    def reads_posterior(self) -> bool:
        """Whether the quantizer takes its metric tensors from the encoder, whatever ``geo.metric`` is."""
        return not self.is_joint and self.quantizer.said("needs_posterior")

    @property
    def reads_metric_tensors(self) -> bool:
        """Whether the quantizer is fitted with metric tensors that the decoder is asked for."""
        return not self.is_joint and self.quantizer.said("needs_metrics") and not self.reads_posterior

    @property
    def own_rule_is_metric_rule(self) -> bool:
        """Whether the codebook's own rule gives the codes of ``assign=metric`` with the ridge of the search."""
        ridge = None if self.is_joint else self.quantizer.said("metric_rule_ridge")
        return isinstance(self.assign, Search) and ridge == self.assign.ridge

    @property
    def searches_under_prior(self) -> bool:
        """Whether a search charges for code lengths under a prior, which then learns codes in rounds."""
        return isinstance(self.assign, Search) and self.assign.priced_by == "prior"

    @property
    def has_prior(self) -> bool:
        """Whether there is a prior."""
        return self.transformer.name != "none" and bool(type(self.prior).owner.is_prior)

    @property
    def reads_perceptual_network(self) -> bool:
        """Whether a loss compares the features of a network that is trained for it."""
        return any(settings.features == "classifier" for settings in self.image_losses.values())

    @property
    def reads_second_network(self) -> bool:
        """Whether a loss compares sets of images, which takes the features of two such networks."""
        return any(settings.takes_two_networks for settings in self.image_losses.values())

    @property
    def image_losses(self) -> dict[str, ImageLossSettings]:
        """The losses beside the reconstruction term, by the key of their settings."""
        tuning = {"finetune": self.finetune} if isinstance(self.finetune, AdversarialTuning) else {}
        return tuning | ({"vae.image_loss": self.vae.image_loss} if self.vae.loss != self.vae.reconstruction else {})

    @property
    def root(self) -> Path:
        """Absolute folder of all output."""
        return self.paths.absolute

    @property
    def rate_bits_per_token(self) -> float | None:
        """Target of the rate controller in bits per token, or None."""
        target = self.vae.rate_bits_per_token
        return math.log2(self.quantizer.K) if target == "log2_K" else target

    @property
    def n_tokens(self) -> int:
        """Tokens per image."""
        return self.vae.grid**2
