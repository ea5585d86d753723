"""The settings of codebooks with several codes per token: ``quantizer=product | residual | scalar``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geovq.pipeline.quantizer_sections import Codebook
from geovq.pipeline.sections import Count, Positive


class Structured(Codebook):
    """What they have in common."""

    metric: Literal["euclidean", "pullback"]
    ridge: Positive
    max_iter: Count
    beam: Count


class Product(Structured):
    """A codebook per block of dimensions."""

    name: Literal["product"]
    n_parts: Count


class Residual(Structured):
    """A codebook per stage, each for what the stages before it left over."""

    name: Literal["residual"]
    n_stages: Count


class Scalar(Structured):
    """Levels along principal axes."""

    name: Literal["scalar"]


StructuredSection = Annotated[Product | Residual | Scalar, Field(discriminator="name")]
