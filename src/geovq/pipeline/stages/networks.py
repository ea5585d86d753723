"""Which stages give a run its encoder and decoder, and how the decoder is loaded.

Fine-tuning puts another decoder behind the codes, never another encoder.
"""

from __future__ import annotations

from torch import nn

from geovq.models.condition import ClassDecoder
from geovq.pipeline.stage import Artifact, Config, Context, Inputs, those
from geovq.pipeline.stages.joint import load_joint
from geovq.pipeline.stages.vae import load_vae


def autoencoder_stage(config: Config) -> str:
    """The stage that trains encoder and decoder."""
    return "joint" if config.is_joint else "vae"


def load_decoder(context: Context, inputs: Inputs) -> nn.Module:
    """The decoder that was trained with the encoder, in evaluation mode, without gradients."""
    return (load_joint if context.config.is_joint else load_vae)(context, inputs).decoder


def final_networks(config: Config) -> tuple[str, ...]:
    """The stages that ``load_final_decoder`` reads."""
    return (autoencoder_stage(config), *those(finetune=config.finetune.name != "none"))


def unpriced_codes_stage(config: Config) -> str:
    """The stage whose codes are the last that no prior was asked for."""
    return "codes" if config.finetune.name == "none" else "tuned_codes"


def codes_stage(config: Config) -> str:
    """The stage whose codes everything downstream reads."""
    return "rate_codes_2" if config.searches_under_prior else unpriced_codes_stage(config)


def final_codes(inputs: Inputs) -> Artifact:
    """The artifact of those codes: the last of the stages with codes that are there."""
    return next(inputs[name] for name in ("rate_codes_2", "rate_codes_1", "tuned_codes", "codes") if name in inputs)


def load_final_decoder(context: Context, inputs: Inputs) -> nn.Module:
    """The decoder that images of codes come from, fine-tuned where that is asked for, without gradients."""
    decoder = load_decoder(context, inputs)
    if context.config.finetune.name != "none":
        decoder.load_state_dict(inputs["finetune"].tensors("decoder"))
    return decoder


def of_split(decoder: nn.Module, context: Context, split: str) -> nn.Module:
    """The decoder for the images of a split, told their classes where it is one that is."""
    return decoder.given(getattr(context.data, split).labels) if isinstance(decoder, ClassDecoder) else decoder
