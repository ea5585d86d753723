"""How codes are assigned (``assign=<name>``) and networks tuned on them (``finetune=<name>``)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geovq.configuration.fields import Count, NotNegative, Positive, Seed, Share, ShareBelowOne
from geovq.configuration.options import ImageLossSettings, Training
from geovq.configuration.section import Section


class Simple(Section):
    """By the quantizer's own rule, or by latent L2."""

    name: Literal["own", "euclidean"]
    """Name of the option."""


class ByMetric(Section):
    """In the mean metric of the training tokens, or in each token's own."""

    name: Literal["whitened", "metric"]
    """Name of the option."""
    ridge: Positive
    """Added to every metric, as a share of the mean eigenvalue of their mean."""


class Decoding(Section):
    """What asks the decoder, and so costs milliseconds per image; whether for the training images too."""

    training_images: Literal["needed", "all"]
    """needed: leave them out where neither a prior, fine-tuning nor a price on bits learns from their codes."""


class Sequential(Decoding):
    """Token after token in the metric of the whole image, the error so far being passed on."""

    name: Literal["sequential"]
    """Name of the option."""
    n_probes: Count
    """Backward passes per image."""
    shrinkage: Share
    """Taken from the blocks between tokens, which few probes show badly."""
    ridge: Positive
    """Added to the metric of an image, as a share of its mean eigenvalue."""
    seed: Seed
    """Of the probes."""


class Search(Decoding):
    """Coordinate descent on the decoded error itself, from the better of assign=own and assign=metric."""

    name: Literal["search"]
    """Name of the option."""
    n_candidates: Annotated[int, Field(ge=2)]
    """Codewords per token that are proposed."""
    n_rounds: Count | Literal["auto"]
    """Changes per image at most; auto: 5 for 16 tokens, in proportion for more."""
    damping: Positive
    """Factor on the quadratic term of the model of changes: above 1, smaller moves."""
    ridge: Positive
    """Of the metric assignment that it starts from."""
    rate_model: Literal["none", "unigram", "prior"]
    """What counts bits. unigram: counts of training codes; prior: the prior, all codes of an image, given its class."""
    rate_lambda: NotNegative
    """Squared error, summed over the pixels of an image in [0, 1], that a bit is worth; at 0 bits cost nothing."""

    @property
    def priced_by(self) -> Literal["none", "unigram", "prior"]:
        """Whose bits cost something."""
        return "none" if self.rate_model == "none" or self.rate_lambda == 0 else self.rate_model

    def rounds(self, n_tokens: int) -> int:
        """Changes per image at most: as given, or five for 16 tokens or fewer and in proportion for more."""
        return max(5, round(5 * n_tokens / 16)) if self.n_rounds == "auto" else self.n_rounds


Assign = Annotated[Simple | ByMetric | Sequential | Search, Field(discriminator="name")]


class NoFineTune(Section):
    """Decoder and codebook stay as they are."""

    name: Literal["none"]
    """Name of the option."""


class FineTune(Training):
    """What is trained on, and for how long."""

    name: Literal["codebook", "decoder", "both"]
    """Name of the option: what is tuned."""
    patience: Count
    """Validations without a better score before it ends."""

    @property
    def tuned(self) -> Literal["codebook", "decoder", "both"]:
        """What is trained."""
        return self.name


class AdversarialTuning(Training, ImageLossSettings):
    """Tuned to draw sharply: reconstruction, perceptual distance and a discriminator."""

    name: Literal["adversarial"]
    """Name of the option."""
    tuned: Literal["codebook", "decoder", "both"]
    """What is trained."""
    averaging: ShareBelowOne
    """Share of the steps that the running mean of the weights, which is what is kept, reaches back over; 0: none."""
    patience: Count
    """Validations without a better score before it ends."""


Finetune = Annotated[NoFineTune | FineTune | AdversarialTuning, Field(discriminator="name")]
