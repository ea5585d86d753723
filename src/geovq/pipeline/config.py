"""The typed form of a run's configuration, and the rules that hold between its sections.

A key that no section names is refused. Faults are collected and told together, before any compute.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
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
    parts_of,
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
    stages: Literal["all"] | Annotated[list[StageName], Field(min_length=1)]
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
        from geovq.pipeline.stages.codebook import needs_metrics  # loads torch, so only where it decides

        if not self.is_joint and needs_metrics(self):
            structured = hasattr(self.quantizer, "metric")
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
        if self.samples.top_k is not None and self.samples.top_k > self.quantizer.K:
            raise ValueError(
                f"samples.top_k={self.samples.top_k} must be at most quantizer.K={self.quantizer.K}, or null for all"
            )
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
    faults: dict[str, list[str]] = {}
    for subject, message in _switches(kind, values, ""):
        faults[subject] = [message]
    try:
        section = kind.model_validate(values)
    except ValidationError as error:
        switches = set(faults)
        for subject, message in sorted({_describe(kind, fault) for fault in error.errors()}):
            if subject in switches:
                continue
            # A key that takes a word or a number has a fault for each; together they are one line.
            known = faults.setdefault(subject, [])
            known.append(message.removeprefix("input should be ") if known else message)
        # Where an entry of a list is at fault, that the list is no word either goes without saying.
        entries = {subject.split("[")[0] for subject in faults if re.match(r"[\w.]+\[\d+\]=", subject)}
        faults = {subject: told for subject, told in faults.items() if subject.split("=")[0] not in entries}
    if faults:
        raise ConfigError("\n".join(subject + " or ".join(told) for subject, told in faults.items())) from None
    return section


def _switches(annotation: Any, value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Where true or false is given for a number or a word, which pydantic would take for 1 or 0."""
    parts = list(parts_of(annotation))
    if isinstance(value, bool) and not {bool, Any} & set(parts):
        yield f"{key}={_spelled(value)}: ", "true and false are for switches; give a number or a word"
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from _switches(annotation, entry, f"{key}[{place}]")
    elif isinstance(value, dict):
        for name, child in value.items():
            fields = [part.model_fields[name] for part in _sections_in(parts) if name in part.model_fields]
            if fields:
                yield from _switches(fields[0].annotation, child, f"{key}.{name}" if key else str(name))


def _sections_in(parts: Iterable[Any]) -> list[type[Section]]:
    return [part for part in parts if isinstance(part, type) and issubclass(part, Section)]


def _describe(kind: type[Section], fault: Any) -> tuple[str, str]:
    """One fault in the words of the command line: what it is about, and what is wrong with it."""
    key, value = _key(kind, fault), _spelled(fault["input"])
    if fault["type"] == "extra_forbidden":
        return f"{key}: ", "no such key; configs/ lists those there are"
    if fault["type"] == "missing":
        return f"{key}: ", "missing; give it a value"
    if fault["type"] == "union_tag_not_found":
        return f"{key}.name: ", "missing; give it a value"
    if fault["type"] == "union_tag_invalid":
        named = fault["input"]["name"]
        return f"{key}.name={_spelled(named)}: ", f"input should be {fault['ctx']['expected_tags']}"
    if fault["type"] == "list_type":
        return f"{key}={value}: ", f"give a list: {key}=[{fault['input']}]"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{key}={value}: ", f"a group of settings, of which one is set by {key}.name=value"
    message = fault["msg"].removeprefix("Value error, ")
    # The rules of a whole section name their keys themselves.
    if fault["type"] == "value_error" and (isinstance(fault["input"], dict) or message.startswith(f"{key}=")):
        return message, ""
    return f"{key}={value}: ", f"{message[0].lower()}{message[1:]}"


def _key(kind: type[Section], fault: Any) -> str:
    """The key at fault. Where a union was tried, the location holds tags too, which are fields of no section."""
    key, sections = "", [kind]
    for place, part in enumerate(fault["loc"]):
        unknown = fault["type"] == "extra_forbidden" and place == len(fault["loc"]) - 1
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        if isinstance(part, int):
            key += f"[{part}]"
        elif fields or unknown:
            key = f"{key}.{part}" if key else str(part)
            sections = _sections_in(part for field in fields for part in parts_of(field.annotation))
    return key


def _spelled(value: Any) -> str:
    """A value as on the command line, words in quotes."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _names(union: Any) -> set[str]:
    """The words that tell the sections of a union apart."""
    sections = get_args(get_args(union)[0])
    return {name for section in sections for name in get_args(section.model_fields["name"].annotation)}
