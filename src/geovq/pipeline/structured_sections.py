"""The settings of codebooks with several codes per token: ``quantizer=product | residual | scalar``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from geovq.models.sizes import JOINED_CODES, check_split
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

    @model_validator(mode="after")
    def _parts_share_k(self) -> Product:
        check_split(self.K, self.n_parts, "quantizer.n_parts")
        return self


class Residual(Structured):
    """A codebook per stage, each for what the stages before it left over."""

    name: Literal["residual"]
    n_stages: Count

    @model_validator(mode="after")
    def _stages_share_k(self) -> Residual:
        check_split(self.K, self.n_stages, "quantizer.n_stages")
        return self


class Scalar(Structured):
    """Levels along principal axes."""

    name: Literal["scalar"]
    K: Annotated[int, Field(ge=2, le=JOINED_CODES)]  # every number of levels up to K is weighed


StructuredSection = Annotated[Product | Residual | Scalar, Field(discriminator="name")]
