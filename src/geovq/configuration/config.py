"""The rules that hold between the groups of a run.

What a class needs or is, it says itself (``needs_metrics``, ``is_joint``, …); no rule here knows a class by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import create_model, model_validator

from geovq.configuration.codes import Search
from geovq.configuration.groups import Groups
from geovq.configuration.parse import parse
from geovq.configuration.renamed import refuse_old_words
from geovq.configuration.section import ClassSection
from geovq.errors import ConfigError
from geovq.models.sizes import JOINED_CODES

_METRIC_TENSORS = ("metric_tensors", "metric_tensors_held_out")
_ANOTHER_METRIC = "geo.metric=none must be sketch, exact or posterior"


class Config(Groups):
    """A whole run, whose groups fit together."""

    @classmethod
    def for_values(cls, values: Mapping[str, Any], key: str = "") -> type[Config]:
        """The type whose groups have the settings of the classes that they name.

        Raises:
            ConfigError: a class cannot be imported or does not fit its group, a line for each; or old words.
        """
        refuse_old_words(values)
        groups: dict[str, type[ClassSection]] = {}
        faults = []
        for name, field in cls.model_fields.items():
            section, chosen = field.annotation, values.get(name)
            if isinstance(section, type) and issubclass(section, ClassSection) and isinstance(chosen, dict):
                try:
                    groups[name] = section.for_values(chosen, name)
                except ConfigError as error:
                    faults.append(str(error))
        if faults:
            raise ConfigError("\n".join(faults))
        return _with_groups(cls, tuple(groups.items()))

    @model_validator(mode="after")
    def _weights_are_for_codebooks_fitted_afterwards(self) -> Config:
        if not self.vae.takes_weights:
            return self
        if self.is_joint:
            key = f"vae.path={self.vae.path}" if self.vae.path is not None else f"vae.checkpoint={self.vae.checkpoint}"
            raise ValueError(
                f"{key}: quantizer={self.quantizer.name} trains an autoencoder of its own; take a quantizer that is "
                "fitted afterwards, such as geodesic"
            )
        if self.geo.metric == "posterior":
            raise ValueError(
                "geo.metric=posterior reads pixels off a posterior whose price of KL is known, and weights that are "
                "given do not tell it; take geo.metric=sketch or exact"
            )
        return self

    @model_validator(mode="after")
    def _posterior_metric_needs_a_balanced_posterior(self) -> Config:
        reader = {"geo.metric=posterior": self.geo.metric == "posterior"}
        reader[f"quantizer={self.quantizer.name}"] = self.reads_posterior
        for key in (key for key, reads in reader.items() if reads and not self.is_joint):
            if not self.vae.has_posterior:
                raise ValueError(f"{key} reads the encoder's variances, and vae={self.vae.name} has none; take another")
            if self.vae.loss != "mse":
                raise ValueError(
                    f"{key} reads the metric off a squared-error posterior: vae.loss={self.vae.loss} must "
                    "be mse, or take another"
                )
            if self.vae.free_bits not in (0, "rate"):
                raise ValueError(
                    f"{key} reads the metric off variances that the KL divergence holds in balance: "
                    f"vae.free_bits={self.vae.free_bits} must be rate or 0, or take another"
                )
        return self

    @model_validator(mode="after")
    def _some_choices_need_metrics(self) -> Config:
        if self.geo.metric != "none":
            return self
        if self.reads_metric_tensors:
            without = ", or quantizer.metric=euclidean" if hasattr(self.quantizer, "metric") else ""
            raise ValueError(f"quantizer={self.quantizer.name} needs the tokens' metrics: {_ANOTHER_METRIC}{without}")
        if self.assign.name in ("whitened", "metric", "search"):
            raise ValueError(f"assign={self.assign.name} needs the tokens' metrics: {_ANOTHER_METRIC}")
        if self.geo.length != "trapezoid":
            raise ValueError(
                f"geo.length={self.geo.length} measures edges in pixels, and tokens outside the graph attach to it by "
                f"metrics: {_ANOTHER_METRIC}, or geo.length=trapezoid"
            )
        if self.geo.search != "latent":
            raise ValueError(
                f"geo.search={self.geo.search} needs the tokens' metrics: geo.metric=none must be another, or take "
                "geo=euclidean, which has geo.search=latent"
            )
        return self

    @model_validator(mode="after")
    def _edges_have_no_class(self) -> Config:
        if self.vae.condition != "none" and self.geo.length != "trapezoid":
            raise ValueError(
                f"geo.length={self.geo.length} asks the decoder between tokens of different images, and "
                f"vae.condition={self.vae.condition} gives each a class: take geo.length=trapezoid, or none"
            )
        return self

    @model_validator(mode="after")
    def _assignment_fits_the_quantizer(self) -> Config:
        if self.sees_neighbours and self.vae.grid == 1:
            raise ValueError(
                f"quantizer={self.quantizer.name} reads a token's neighbours, and vae={self.vae.name} has one token "
                "per image: take vae=spatial, or quantizer=pullback"
            )
        if self.assign.name == "own":
            return self
        if self.sees_neighbours:
            raise ValueError(
                f"assign={self.assign.name} takes each code for one vector, and what one of quantizer="
                f"{self.quantizer.name} decodes to depends on the codes before it: take assign=own"
            )
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
    def _bits_are_priced_by_a_model(self) -> Config:
        if not isinstance(self.assign, Search):
            return self
        model, prior = self.assign.rate_model, self.prior
        if model == "none" and self.assign.rate_lambda > 0:
            raise ValueError(
                f"assign.rate_lambda={self.assign.rate_lambda:g} is a price of bits, and assign.rate_model=none counts "
                "none: take assign.rate_model=unigram or prior"
            )
        if model != "prior":
            return self
        if not self.has_prior:
            raise ValueError(f"assign.rate_model=prior needs a prior: {self._another_prior}")
        if not type(prior).owner.is_ordered:
            raise ValueError(
                f"assign.rate_model=prior needs the length of every code, and prior={prior.name} gives "
                f"{'only a bound' if type(prior).owner.bits_are_bound else 'none'}: take prior=autoregressive or "
                "pixelcnn, or assign.rate_model=unigram"
            )
        if not self.tokens_are_latents or len(type(self.quantizer).owner.least_sizes(self.quantizer)) > 1:
            raise ValueError(
                f"assign.rate_model=prior prices one code per token of one grid, and quantizer={self.quantizer.name} "
                "has more, or scores: take assign.rate_model=unigram"
            )
        return self

    @property
    def _another_prior(self) -> str:
        """What to change where there is none."""
        if self.transformer.name == "none":
            return "transformer=none must be small, base or large"
        return f"prior={self.prior.name} must be another"

    @model_validator(mode="after")
    def _joint_quantizers_have_no_graph(self) -> Config:
        if not self.is_joint:
            return self
        if self.vae.loss != self.vae.reconstruction:
            raise ValueError(
                f"vae.loss={self.vae.loss}: autoencoders that are trained with quantizer={self.quantizer.name} take "
                "mse, l1 or bce; finetune=adversarial trains them on with these losses"
            )
        if not self.vae.trains_jointly:
            raise ValueError(
                f"quantizer={self.quantizer.name} is trained with networks that the autoencoder's class makes: "
                f"vae={self.vae.name} has no method networks of its own; take vae=spatial or vit, or a quantizer that "
                "is fitted afterwards, such as geodesic"
            )
        measured = self.assign.name in ("whitened", "metric", "search") or any(
            name in self.stages for name in _METRIC_TENSORS
        )
        if measured and self.geo.metric == "posterior":
            raise ValueError(
                f"geo.metric=posterior: quantizer={self.quantizer.name} has no posterior; take geo.metric=sketch or "
                "exact"
            )
        return self

    @model_validator(mode="after")
    def _stages_asked_for_are_there(self) -> Config:
        quantizer = f"quantizer={self.quantizer.name}"
        lacking: dict[tuple[str, ...], str] = {}
        if self.geo.metric == "none":
            lacking[_METRIC_TENSORS] = f"measures metrics: {_ANOTHER_METRIC}"
        if self.is_joint:
            lacking["vae", "graph", "codebook"] = (
                f"belong to post-hoc codebooks, and {quantizer} is trained with its autoencoder: leave them out, or "
                "take quantizer=geodesic"
            )
        else:
            lacking[("joint",)] = (
                f"belongs to joint quantizers: {quantizer} is fitted after its VAE; leave it out, or take "
                "quantizer=vqvae_ema"
            )
        if self.finetune.name == "none":
            lacking["finetune", "tuned_codes"] = (
                "needs fine-tuning: finetune=none must be codebook, decoder, both or adversarial"
            )
        if not self.searches_under_prior:
            lacking["rate_prior_1", "rate_codes_1", "rate_prior_2", "rate_codes_2"] = (
                "belongs to search under a prior's code length: take assign=search, assign.rate_model=prior and a "
                "price assign.rate_lambda above 0"
            )
        if not self.has_prior:
            lacking["prior", "samples"] = f"needs a prior: {self._another_prior}"
        for stages, fault in lacking.items():
            if asked := [name for name in stages if name in self.stages]:
                raise ValueError(f"stages=[{','.join(asked)}] {fault}")
        return self

    @model_validator(mode="after")
    def _samples_can_be_drawn(self) -> Config:
        if self.samples.top_k is not None and self.samples.top_k > self.quantizer.K:
            raise ValueError(
                f"samples.top_k={self.samples.top_k} must be at most quantizer.K={self.quantizer.K}, or null for all"
            )
        if self.has_prior:
            check_drawing(self, self.samples.guidance, self.samples.steps, "samples.")
        return self

    @model_validator(mode="after")
    def _the_prior_fits_its_sizes(self) -> Config:
        owner = type(self.prior).owner
        if "heads" in self.prior.asked_of(self.transformer) and self.transformer.width % self.transformer.heads:
            raise ValueError(
                f"transformer.width={self.transformer.width} must be a multiple of "
                f"transformer.heads={self.transformer.heads}"
            )
        if self.has_prior and owner.needs_grid and self.vae.grid == 1:
            raise ValueError(
                f"prior={self.prior.name} reads codes on a grid, and vae={self.vae.name} has one token per image: take "
                "vae=spatial, or prior=autoregressive"
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


def check_drawing(config: Config, guidance: float, steps: int | None, prefix: str = "") -> None:
    """Raise ValueError where the prior of a run cannot be drawn from with such guidance, or in such steps."""
    prior, transformer, owner = config.prior, config.transformer, type(config.prior).owner
    if guidance != 1:
        key = f"{prefix}guidance={guidance:g}"
        if not owner.takes_guidance:
            raise ValueError(f"{key}: prior={prior.name} does not take it; leave it at 1")
        if not transformer.class_conditional:
            raise ValueError(f"{key} needs a prior with classes: transformer.class_conditional=false must be true")
        if transformer.class_dropout in (0, 1):
            lacking = "never without" if transformer.class_dropout == 0 else "never with"
            raise ValueError(
                f"{key} needs a prior that was trained with classes and without: with transformer.class_dropout="
                f"{transformer.class_dropout:g} it is trained {lacking} a class; take 0.1"
            )
    if steps is not None and not owner.takes_steps:
        raise ValueError(f"{prefix}steps={steps}: prior={prior.name} draws code after code; leave it at null")


@cache
def _with_groups(config: type[Config], groups: tuple[tuple[str, type[ClassSection]], ...]) -> type[Config]:
    fields: dict[str, Any] = {name: (section, ...) for name, section in groups}
    return create_model("Config", __base__=config, __module__=config.__module__, **fields)


def validate(values: object) -> Config:
    """Typed configuration of a run from plain values; see ``geovq.configuration.parse.parse``."""
    return parse(Config, values)
