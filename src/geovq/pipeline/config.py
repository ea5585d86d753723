"""The typed form of a run's configuration, and the rules that hold between its sections.

A key that no section names is refused. Faults are collected and told together, before any compute.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ValidationError, model_validator

from geovq.errors import ConfigError
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
    Tracking,
    Trainer,
    Transformer,
    Vae,
)

SectionType = TypeVar("SectionType", bound=Section)


class Config(Section):
    """A whole run."""

    data: Data
    vae: Vae
    quantizer: QuantizerSection
    geo: Geo
    transformer: Transformer
    evaluation: Evaluation
    tracking: Tracking
    trainer: Trainer
    samples: Samples
    paths: Paths
    seed: Seed
    stages: Literal["all"] | list[StageName]

    @model_validator(mode="after")
    def _posterior_metric_needs_a_balanced_posterior(self) -> Config:
        reader = {"geo.metric": self.geo.metric, "quantizer": self.quantizer.name}
        for key in (key for key, value in reader.items() if value == "posterior"):
            if self.vae.loss != "mse":
                raise ValueError(
                    f"{key}=posterior reads the metric off a squared-error posterior: vae.loss={self.vae.loss} must "
                    "be mse, or take another"
                )
            if self.vae.free_bits > 0:
                raise ValueError(
                    f"{key}=posterior reads the metric off variances that the KL divergence holds in balance: "
                    f"vae.free_bits={self.vae.free_bits:g} must be 0, or take another"
                )
        return self

    @model_validator(mode="after")
    def _some_choices_need_metrics(self) -> Config:
        if self.geo.metric != "none":
            return self
        if self.quantizer.name in ("whitened", "pullback"):
            raise ValueError(
                f"quantizer={self.quantizer.name} needs the tokens' metrics: geo.metric=none must be sketch, exact or "
                "posterior"
            )
        if self.geo.search == "whitened":
            raise ValueError("geo.search=whitened needs the tokens' metrics: geo.metric=none must be another")
        return self

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
        faults = sorted({_describe(fault) for fault in error.errors()})
        raise ConfigError("\n".join(faults)) from None


def _describe(fault: Any) -> str:
    """One fault in the words of the command line."""
    # Where a union was tried, the location ends in a tag such as `int` or `list[…]`, which is no key.
    parts = [str(part) for part in fault["loc"]]
    named = [part for part in parts if part.isidentifier() and part not in _UNION_TAGS]
    key = ".".join(named)
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such key; configs/ lists those there are"
    if fault["type"] == "missing":
        return f"{key}: missing; give it a value"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return message
    return f"{key}={fault['input']!r}: {message[0].lower()}{message[1:]}"


_UNION_TAGS = {"int", "float", "str", "bool", "none"} | {
    name
    for section in get_args(get_args(QuantizerSection)[0])
    for name in get_args(section.model_fields["name"].annotation)
}
