"""The settings of fine-tuning: ``finetune=<name>``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geovq.pipeline.sections import Count, Section, Training


class NoFineTune(Section):
    """Decoder and codebook stay as they are."""

    name: Literal["none"]


class FineTune(Training):
    """What is trained on, and for how long."""

    name: Literal["codebook", "decoder", "both"]
    patience: Count


FineTuneSection = Annotated[NoFineTune | FineTune, Field(discriminator="name")]
