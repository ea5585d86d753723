"""The settings of how codes are assigned: ``assign=<name>``, from the quickest rule to the dearest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geovq.pipeline.sections import Count, NotNegative, Positive, Section, Seed


class Simple(Section):
    """By the quantizer's own rule, or by latent L2."""

    name: Literal["own", "euclidean"]


class ByMetric(Section):
    """In the mean metric of the training tokens, or in each token's own."""

    name: Literal["whitened", "metric"]
    ridge: Positive


class Decoding(Section):
    """What asks the decoder, and so costs milliseconds per image; whether for the training images too.

    ``needed`` leaves these out where neither a prior nor fine-tuning learns from their codes.
    """

    training_images: Literal["needed", "all"]


class Sequential(Decoding):
    """Token after token in the metric of the whole image, the error so far being passed on."""

    name: Literal["sequential"]
    n_probes: Count
    shrinkage: Annotated[float, Field(ge=0, le=1)]
    ridge: Positive
    seed: Seed


class Search(Decoding):
    """Coordinate descent on the decoded error itself."""

    name: Literal["search"]
    n_candidates: Annotated[int, Field(ge=2)]
    n_rounds: Count | Literal["auto"]
    damping: Positive
    ridge: Positive
    rate_lambda: NotNegative

    def rounds(self, n_tokens: int) -> int:
        """Changes per image at most: as given, or five for 16 tokens or fewer and in proportion for more."""
        return max(5, round(5 * n_tokens / 16)) if self.n_rounds == "auto" else self.n_rounds


AssignSection = Annotated[Simple | ByMetric | Sequential | Search, Field(discriminator="name")]
