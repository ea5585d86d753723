"""The typed form of a run's configuration, and the rules that hold between its sections.

A key that no section names is refused. Faults are collected and told together, before any compute.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, model_validator

from geovq.errors import ConfigError
from geovq.models.sizes import JOINED_CODES
from geovq.pipeline.assign_sections import AssignSection
from geovq.pipeline.finetune_sections import FineTuneSection
from geovq.pipeline.joint_sections import JointSection
from geovq.pipeline.quantizer_sections import QuantizerSection
from geovq.pipeline.sections import (
    Data,
    Evaluation,
    Geo,
    Paths,
    Samples,
    Section,
    Seed,
    StageName,
    StalePolicy,
    Tracking,
    Trainer,
    Transformer,
    Vae,
)
from geovq.pipeline.structured_sections import StructuredSection

_POST_HOC = ("vae", "graph", "codebook")
"""Stages that a joint quantizer does without."""

SectionType = TypeVar("SectionType", bound=Section)


class Config(Section):
    """A whole run."""

    data: Data
    vae: Vae
    quantizer: Annotated[QuantizerSection | StructuredSection | JointSection, Field(discriminator="name")]
    geo: Geo
    assign: AssignSection
    finetune: FineTuneSection
    transformer: Transformer
    evaluation: Evaluation
    tracking: Tracking
    trainer: Trainer
    samples: Samples
    paths: Paths
    seed: Seed
    stages: Literal["all"] | list[StageName]
    stale: StalePolicy

    @model_validator(mode="after")
    def _posterior_metric_needs_a_balanced_posterior(self) -> Config:
        reader = {"geo.metric": self.geo.metric, "quantizer": self.quantizer.name}
        for key in (key for key, value in reader.items() if value == "posterior"):
            if self.vae.loss != "mse":
                raise ValueError(
                    f"{key}=posterior reads the metric off a squared-error posterior: vae.loss={self.vae.loss} must "
                    "be mse, or take another"
                )
            if self.vae.free_bits not in (0, "rate"):
                raise ValueError(
                    f"{key}=posterior reads the metric off variances that the KL divergence holds in balance: "
                    f"vae.free_bits={self.vae.free_bits} must be rate or 0, or take another"
                )
        return self

    @model_validator(mode="after")
    def _some_choices_need_metrics(self) -> Config:
        if self.geo.metric != "none":
            return self
        structured = getattr(self.quantizer, "metric", None) == "pullback"
        if self.quantizer.name in ("whitened", "pullback") or structured:
            raise ValueError(
                f"quantizer={self.quantizer.name} needs the tokens' metrics: geo.metric=none must be sketch, exact or "
                "posterior" + (", or quantizer.metric=euclidean" if structured else "")
            )
        if self.assign.name in ("whitened", "metric", "search"):
            raise ValueError(
                f"assign={self.assign.name} needs the tokens' metrics: geo.metric=none must be sketch, exact or "
                "posterior"
            )
        asked = [name for name in ("metrics", "metrics_held_out") if name in self.stages]
        if asked:
            raise ValueError(
                f"stages=[{','.join(asked)}] measures metrics: geo.metric=none must be sketch, exact or posterior"
            )
        if self.geo.length != "trapezoid":
            raise ValueError(
                f"geo.length={self.geo.length} measures edges in pixels, and tokens outside the graph attach to it by "
                "metrics: geo.metric=none must be sketch, exact or posterior, or geo.length=trapezoid"
            )
        if self.geo.search != "latent":
            raise ValueError(
                f"geo.search={self.geo.search} needs the tokens' metrics: geo.metric=none must be another, or take "
                "geo=euclidean, which has geo.search=latent"
            )
        return self

    @model_validator(mode="after")
    def _assignment_fits_the_quantizer(self) -> Config:
        if self.assign.name == "own":
            return self
        if not self.tokens_are_latents and self.assign.name != "search":
            what = "scores of codewords" if not self.latents_are_points else "made for codes on two grids"
            raise ValueError(
                f"assign={self.assign.name} measures how far latents are from codewords, and those of "
                f"quantizer={self.quantizer.name} are {what}: take assign=own or assign=search"
            )
        if self.quantizer.K > JOINED_CODES:
            raise ValueError(
                f"assign={self.assign.name} looks at every value of a token: quantizer.K={self.quantizer.K} must be at "
                f"most {JOINED_CODES}, or take assign=own"
            )
        return self

    @model_validator(mode="after")
    def _joint_quantizers_have_no_graph(self) -> Config:
        if not self.is_joint:
            if "joint" in self.stages:
                raise ValueError(
                    f"stages=[joint] belongs to joint quantizers: quantizer={self.quantizer.name} is fitted after its "
                    "VAE; leave it out, or take quantizer=vqvae_ema"
                )
            return self
        asked = [] if self.stages == "all" else [name for name in self.stages if name in _POST_HOC]
        if asked:
            raise ValueError(
                f"stages=[{','.join(asked)}] belong to post-hoc codebooks, and quantizer={self.quantizer.name} is "
                "trained with its autoencoder: leave them out, or take quantizer=geodesic"
            )
        measured = self.assign.name in ("whitened", "metric", "search") or any(
            name in self.stages for name in ("metrics", "metrics_held_out")
        )
        if measured and self.geo.metric == "posterior":
            raise ValueError(
                f"geo.metric=posterior: quantizer={self.quantizer.name} has no posterior; take geo.metric=sketch or "
                "exact"
            )
        return self

    @model_validator(mode="after")
    def _tuning_is_asked_for(self) -> Config:
        asked = [name for name in ("finetune", "tuned_codes") if name in self.stages]
        if asked and self.finetune.name == "none":
            raise ValueError(
                f"stages=[{','.join(asked)}] needs fine-tuning: finetune=none must be codebook, decoder or both"
            )
        return self

    @model_validator(mode="after")
    def _a_prior_is_asked_for(self) -> Config:
        asked = [name for name in ("prior", "samples") if name in self.stages]
        if asked and self.prior is None:
            raise ValueError(f"stages=[{','.join(asked)}] needs a prior: transformer=none must be small, base or large")
        return self

    @model_validator(mode="after")
    def _blocks_divide_the_token(self) -> Config:
        parts = getattr(self.quantizer, "n_parts", 1)
        if self.vae.dim % parts:
            raise ValueError(
                f"quantizer.n_parts={parts} must divide vae.dim={self.vae.dim}, so that all blocks have as many "
                "dimensions"
            )
        return self

    @property
    def is_joint(self) -> bool:
        """Whether the quantizer is trained together with its autoencoder."""
        return self.quantizer.name in _names(JointSection)

    @property
    def latents_are_points(self) -> bool:
        """Whether latents lie in the space of the codewords, which the decoder reads: all but scores do."""
        return self.quantizer.name != "gumbel"

    @property
    def tokens_are_latents(self) -> bool:
        """Whether each token has a latent of its own beside whole codewords: not scores, and not codes on two grids."""
        return self.latents_are_points and self.quantizer.name != "vqvae2"

    @property
    def prior(self) -> Transformer | None:
        """The prior's settings, or None where there is no prior."""
        return None if self.transformer.name == "none" else self.transformer

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


def validate(values: object) -> Config:
    """Typed configuration of a run from plain values; see :func:`parse`."""
    return parse(Config, values)


def parse(kind: type[SectionType], values: object) -> SectionType:
    """A typed section from plain values.

    Raises:
        ConfigError: with one line per fault: the key, the value and what is allowed.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults: dict[str, list[str]] = {}
        for subject, message in sorted({_describe(fault) for fault in error.errors()}):
            # A key that takes a word or a number has a fault for each; together they are one line.
            known = faults.setdefault(subject, [])
            known.append(message.removeprefix("input should be ") if known else message)
        # Where an entry of a list is at fault, that the list is no word either goes without saying.
        entries = {subject.split("[")[0] for subject in faults if re.match(r"[\w.]+\[\d+\]=", subject)}
        faults = {subject: told for subject, told in faults.items() if subject.split("=")[0] not in entries}
        raise ConfigError("\n".join(subject + " or ".join(told) for subject, told in faults.items())) from None


def _describe(fault: Any) -> tuple[str, str]:
    """One fault in the words of the command line: what it is about, and what is wrong with it."""
    # Where a union was tried, the location ends in a tag such as `int` or `list[…]`, which is no key.
    parts = [str(part) for part in fault["loc"]]
    named = [part for part in parts if part.isidentifier() and part not in _UNION_TAGS]
    key = ".".join(named) + "".join(f"[{part}]" for part in fault["loc"] if isinstance(part, int))
    if fault["type"] == "extra_forbidden":
        return f"{key}: ", "no such key; configs/ lists those there are"
    if fault["type"] == "missing":
        return f"{key}: ", "missing; give it a value"
    if fault["type"] == "list_type":
        return f"{key}={fault['input']!r}: ", f"give a list: {key}=[{fault['input']}]"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message, ""
    return f"{key}={fault['input']!r}: ", f"{message[0].lower()}{message[1:]}"


def _names(union: Any) -> set[str]:
    """The words that tell the sections of a union apart."""
    sections = get_args(get_args(union)[0])
    return {name for section in sections for name in get_args(section.model_fields["name"].annotation)}


_UNION_TAGS = (
    {"int", "float", "str", "bool", "none"}
    | _names(QuantizerSection)
    | _names(StructuredSection)
    | _names(JointSection)
    | _names(AssignSection)
    | _names(FineTuneSection)
)
