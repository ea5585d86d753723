"""The sections of a run's configuration, each with the values it allows.

The YAML files under ``configs/`` are the only home of a run's settings: nothing here has a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from geovq.folders import absolute, writable

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Resamplings = Annotated[int, Field(ge=1, le=10_000_000)]
FilePath = Annotated[str, AfterValidator(absolute)]
OutputFolder = Annotated[str, AfterValidator(writable)]

StageName = Literal[
    "vae",
    "joint",
    "latents",
    "metrics",
    "metrics_held_out",
    "graph",
    "codebook",
    "codes",
    "finetune",
    "tuned_codes",
    "prior",
    "classifier",
    "samples",
    "unquantized",
    "report",
]

StalePolicy = Literal["warn", "rebuild", "ignore"]


class Section(BaseModel):
    """A group of settings: no unknown keys, and all numbers finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def parts_of(annotation: Any) -> Iterator[Any]:
    """The types that a field may have, down to the entries of lists: ``int | list[str]`` is made of int and str."""
    if isinstance(annotation, type) or not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from parts_of(part)


class Steps(Section):
    """Gradient steps that suit a data set; the networks' settings refer to them."""

    vae: Count
    finetune: Count
    transformer: Count
    classifier: Count


class Data(Section):
    """Which images, and how they are split."""

    name: Literal["digits", "mnist", "fashion", "cifar10", "folder"]
    root: FilePath
    path: FilePath | None
    download: bool
    validation: Fraction | Annotated[int, Field(ge=1, strict=True)]  # 1.0 is neither
    test_fraction: Fraction
    image_size: Count | None
    channels: Literal[1, 3] | None
    full_scale: Annotated[int, Field(ge=1, le=65535)] | None
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
    free_bits: NotNegative | Literal["rate"]
    rate_bits_per_token: Positive | Literal["log2_K"] | None

    @model_validator(mode="after")
    def _width_grows_from_level_to_level(self) -> Vae:
        if self.width > self.max_width:
            raise ValueError(f"vae.width={self.width} must be at most vae.max_width={self.max_width}, or raise that")
        return self

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
    search: Literal["latent", "whitened", "pullback"]
    k: Count
    symmetrize: Literal["union", "mutual"]
    length: Literal["trapezoid", "simpson", "chord"]
    recall: Annotated[float, Field(gt=0, le=1)]
    seed: Seed


class Transformer(Training):
    """Prior over codes; named ``none`` there is no prior, and the other settings wait for one."""

    name: Literal["none", "small", "base", "large"]
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
    geodesic_codewords: Literal["auto", "all", 0] | Annotated[int, Field(ge=2)]
    lpips: Literal["auto", "off"]
    lpips_weights: FilePath | None
    lpips_net: Literal["alex", "vgg", "squeeze"]
    bootstrap: Resamplings
    seed: Seed
    evaluators: list[dict[str, Any]]
    classifier: Classifier


class Tracking(Section):
    """Where runs are logged."""

    enabled: bool
    uri: str | None
    experiment: str
    run_name: str | None
    log_every: Count
    wait_seconds: Positive


class Trainer(Section):
    """How networks are trained, whichever they are."""

    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    warmup: Annotated[float, Field(ge=0, lt=1)]
    gradient_clip: Positive
    validations: Annotated[int, Field(ge=1, le=100_000)]
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

    root: OutputFolder

    @property
    def absolute(self) -> Path:
        """Absolute folder of all output, symbolic links followed."""
        return Path(self.root).resolve()
