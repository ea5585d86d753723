"""The settings of quantizers that are trained together with their autoencoder: ``quantizer=<name>``."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from geovq.models.sizes import JOINED_CODES, check_split
from geovq.pipeline.sections import Count, Fraction, NotNegative, Positive, Section, Seed

Parts = Annotated[int, Field(ge=2)]


class Joint(Section):
    """What all of them have: codes of one token, and the seed of the quantizer's initial weights."""

    K: Annotated[int, Field(ge=2)]
    seed: Seed


class Vectors(Joint):
    """Those whose tokens are held to codewords, of which the dead ones are restarted."""

    beta: Positive
    weight: Positive
    decay: Fraction
    restart: Annotated[float, Field(ge=0, lt=0.5)]


class VqVae(Vectors):
    """Codewords moved by gradients or as exponential means; straight-through or rotated; on one grid or on two."""

    name: Literal["vqvae", "vqvae_ema", "vqvae_rotation", "vqvae2"]


class Gumbel(Joint):
    """Codes drawn by Gumbel-softmax."""

    name: Literal["gumbel"]
    kl_weight: NotNegative
    kl_ramp: Annotated[float, Field(ge=0, le=1)]
    temperature_start: Positive
    temperature_end: Positive
    gain: Positive
    scale: Positive

    @model_validator(mode="after")
    def _temperature_falls(self) -> Gumbel:
        if self.temperature_end > self.temperature_start:
            raise ValueError(
                f"quantizer.temperature_end={self.temperature_end} must be at most quantizer.temperature_start="
                f"{self.temperature_start}: the samples harden as the temperature falls"
            )
        return self


class ResidualVq(Vectors):
    """A codebook per residual stage."""

    name: Literal["residual_vq"]
    n_stages: Parts

    @model_validator(mode="after")
    def _stages_share_k(self) -> ResidualVq:
        check_split(self.K, self.n_stages, "quantizer.n_stages")
        return self


class ProductVq(Vectors):
    """A codebook per block of dimensions."""

    name: Literal["product_vq"]
    n_parts: Parts

    @model_validator(mode="after")
    def _parts_share_k(self) -> ProductVq:
        check_split(self.K, self.n_parts, "quantizer.n_parts")
        return self


class Fsq(Joint):
    """Finite scalars: ``levels`` where given, else K shared evenly by ``n_levels`` dimensions."""

    name: Literal["fsq"]
    K: Annotated[int, Field(ge=2, le=JOINED_CODES)]  # the library lists every word
    n_levels: Count
    levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] | None

    @model_validator(mode="after")
    def _levels_share_k(self) -> Fsq:
        if self.levels is None:
            check_split(self.K, self.n_levels, "quantizer.n_levels")
        elif prod(self.levels) > self.K:
            raise ValueError(
                f"quantizer.levels={self.levels}: their product {prod(self.levels)} is more than quantizer.K={self.K}; "
                "take fewer levels, or a larger K"
            )
        elif 2 * prod(self.levels) <= self.K:
            raise ValueError(
                f"quantizer.levels={self.levels}: their product {prod(self.levels)} is a bit or more short of "
                f"quantizer.K={self.K}, under which the run would be compared; take quantizer.K={prod(self.levels)}"
            )
        return self


JointSection = Annotated[VqVae | Gumbel | ResidualVq | ProductVq | Fsq, Field(discriminator="name")]
