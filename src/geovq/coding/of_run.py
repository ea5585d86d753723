"""The frequencies that the artifacts of a run give."""

from __future__ import annotations

from typing import Literal

from geovq.coding.integer_prior import IntegerPrior
from geovq.coding.priors import FrequencyPrior
from geovq.coding.tables import TablePrior
from geovq.configuration.config import Config
from geovq.errors import ConfigError
from geovq.models.autoregressive_prior import AutoregressivePrior
from geovq.models.codec import Codec
from geovq.pipeline.stage import Context, Inputs
from geovq.pipeline.stages.codes import load_codes, splits_encoded
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks
from geovq.pipeline.stages.prior import load_prior

Kind = Literal["uniform", "unigram", "position", "autoregressive"]


def kind_of(config: Config, wanted: Kind | Literal["auto"]) -> Kind:
    """Where probabilities come from: what is wanted, or what the run has; ConfigError where it has no such thing."""
    has_prior = config.has_prior and type(config.prior).owner is AutoregressivePrior
    counted = "train" in splits_encoded(config, tuned=codes_stage(config) == "tuned_codes")
    if wanted == "auto":
        return "autoregressive" if has_prior else "position" if counted else "uniform"
    if wanted == "autoregressive" and not has_prior:
        its = f"prior={config.prior.name}" if config.has_prior else "no prior"
        raise ConfigError(f"probabilities=autoregressive: this run has {its}; take probabilities=position, or auto")
    if wanted in ("unigram", "position") and not counted:
        raise ConfigError(f"probabilities={wanted}: this run has no codes of training images; take uniform, or auto")
    return wanted


def stages_read(config: Config, kind: Kind) -> tuple[str, ...]:
    """The stages that decoding needs, besides the one that completes."""
    return (*final_networks(config), codes_stage(config), *(("prior",) if kind == "autoregressive" else ()))


def frequency_prior(context: Context, inputs: Inputs, codec: Codec, kind: Kind) -> FrequencyPrior:
    """The frequencies of a run's codes."""
    if kind == "autoregressive":
        prior = load_prior(context, inputs)
        assert isinstance(prior, AutoregressivePrior)
        return IntegerPrior(prior)
    if kind == "uniform":
        return TablePrior(codec.sizes)
    codes = load_codes(final_codes(inputs), "train").flatten(1).numpy()
    if kind == "position":
        return TablePrior(codec.sizes, codes)
    streams = [
        (level, slot)
        for level, grid in enumerate(codec.levels)
        for _ in range(grid.grid[0] * grid.grid[1])
        for slot in range(len(grid.sizes))
    ]
    return TablePrior(codec.sizes, codes, [streams.index(stream) for stream in streams])
