"""The typed form of a run's configuration.

The YAML files under ``configs/`` are the only home of values: nothing here has a default, and a key that no
class below names is refused. Faults are collected and told together, before any compute.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geovq.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

StageName = Literal["vae", "latents", "graph", "codebook", "codes", "prior", "classifier", "samples", "report"]


class Section(BaseModel):
    """A group of settings: no unknown keys, no silent conversions of words to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Steps(Section):
    """Gradient steps that suit a data set; the networks' settings refer to them."""

    vae: Count
    transformer: Count
    classifier: Count


SectionType = TypeVar("SectionType", bound=Section)


class Data(Section):
    """Which images, and how they are split."""

    name: Literal["digits", "mnist", "fashion", "cifar10", "folder"]
    root: str
    path: str | None
    download: bool
    validation: Fraction | Count
    test_fraction: Fraction
    image_size: Count | None
    channels: Literal[1, 3] | None
    limit: Annotated[int, Field(ge=20)] | None
    default_grid: Count
    steps: Steps
    split_seed: Seed

    @model_validator(mode="after")
    def _folder_needs_path(self) -> Data:
        if (self.name == "folder") != (self.path is not None):
            raise ValueError("data.path names your images, with data=folder and only there")
        return self


class Training(Section):
    """What the shared training loop reads of any network's settings."""

    steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NotNegative
    seed: Seed


class Vae(Training):
    """Autoencoder: architecture, loss, rate."""

    name: Literal["spatial", "flat"]
    grid: Count
    dim: Count
    width: Count
    max_width: Count
    blocks: Annotated[int, Field(ge=0)]
    norm: Literal["group", "none"]
    loss: Literal["mse", "l1", "bce"]
    beta: Positive
    kl_warmup: Annotated[float, Field(ge=0, lt=1)]
    free_bits: NotNegative
    rate_bits_per_token: Positive | Literal["log2_K"] | None

    @model_validator(mode="after")
    def _flat_is_one_token(self) -> Vae:
        if self.name == "flat" and self.grid != 1:
            raise ValueError(f"vae=flat has one token per image: vae.grid={self.grid} must be 1, or take vae=spatial")
        return self


class Geo(Section):
    """Metric tensors and neighbour graph."""

    metric: Literal["sketch", "exact", "posterior", "none"]
    n_probes: Count
    context: Literal["neighbours", "own"]
    k: Count
    symmetrize: Literal["union", "mutual"]
    recall: Annotated[float, Field(gt=0, le=1)]
    seed: Seed


class Euclidean(Section):
    """k-means in latent space."""

    name: Literal["euclidean"]
    K: Annotated[int, Field(ge=2)]
    max_iter: Count
    seed: Seed


class Geodesic(Section):
    """k-medoids on the graph."""

    name: Literal["geodesic"]
    K: Annotated[int, Field(ge=2)]
    exponent: Literal[1, 2]
    max_iter: Count
    n_candidates: Count
    seed: Seed


class Transformer(Training):
    """Prior over codes."""

    name: str
    layers: Count
    width: Count
    heads: Count
    dropout: Annotated[float, Field(ge=0, lt=1)]
    class_conditional: bool
    class_dropout: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"transformer.width={self.width} must be a multiple of transformer.heads={self.heads}")
        return self


class Classifier(Section):
    """The small network whose features measure perceptual distance and whose labels judge samples."""

    steps: Count
    batch_size: Count
    learning_rate: Positive


class Evaluation(Section):
    """What the report measures, and on how many samples."""

    n_samples: Annotated[int, Field(ge=10)]
    n_figure_images: Count
    geodesic_codewords: Annotated[int, Field(ge=2)]
    lpips: Literal["auto", "off"]
    lpips_weights: str | None
    lpips_net: Literal["alex", "vgg", "squeeze"]
    bootstrap: Count
    seed: Seed
    classifier: Classifier


class Tracking(Section):
    """Where runs are logged."""

    enabled: bool
    uri: str | None
    experiment: str
    run_name: str | None
    log_every: Count


class Trainer(Section):
    """How networks are trained, whichever they are."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    threads: Count | None
    warmup: Annotated[float, Field(ge=0, lt=1)]
    gradient_clip: Positive
    validations: Count
    checkpoint_seconds: Positive
    profile: bool


class Samples(Section):
    """How images are drawn from the prior."""

    temperatures: Annotated[list[NotNegative], Field(min_length=1)]
    top_k: Count | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    per_class: Count
    seed: Seed


class Paths(Section):
    """Where output goes."""

    root: str

    @property
    def absolute(self) -> Path:
        """Absolute folder of all output."""
        return Path(self.root).expanduser().resolve()


class Config(Section):
    """A whole run."""

    data: Data
    vae: Vae
    quantizer: Annotated[Euclidean | Geodesic, Field(discriminator="name")]
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
    def _posterior_metric_needs_squared_error(self) -> Config:
        if self.geo.metric == "posterior" and self.vae.loss != "mse":
            raise ValueError(
                f"geo.metric=posterior reads the metric off a squared-error posterior: vae.loss={self.vae.loss} must "
                "be mse, or take geo=sketch"
            )
        return self

    @model_validator(mode="after")
    def _posterior_metric_needs_a_charged_posterior(self) -> Config:
        if self.geo.metric == "posterior" and self.vae.free_bits > 0:
            raise ValueError(
                f"geo.metric=posterior reads the metric off variances that the KL divergence holds in balance: "
                f"vae.free_bits={self.vae.free_bits:g} must be 0, or take geo=sketch"
            )
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


_UNION_TAGS = {"int", "float", "str", "bool", "none", "euclidean", "geodesic"}
