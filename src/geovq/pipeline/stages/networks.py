"""Which stages give a run its encoder and decoder, and how the decoder is loaded.

A post-hoc quantizer stands on a VAE, a joint one on the autoencoder that was trained with it; fine-tuning puts another
decoder behind the codes, never another encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geovq.pipeline.stages.joint import load_joint
from geovq.pipeline.stages.vae import load_vae

if TYPE_CHECKING:
    import torch
    from torch import nn

    from geovq.configuration.config import Config
    from geovq.data import DataInfo
    from geovq.pipeline.artifacts import Artifact
    from geovq.pipeline.stage import Inputs


def autoencoder_stage(config: Config) -> str:
    """The stage that trains encoder and decoder."""
    return "joint" if config.is_joint else "vae"


def load_decoder(inputs: Inputs, config: Config, info: DataInfo, device: torch.device) -> nn.Module:
    """The decoder that was trained with the encoder, in evaluation mode, without gradients."""
    if config.is_joint:
        return load_joint(inputs["joint"], config, info, device).decoder
    return load_vae(inputs["vae"], config, info, device).decoder


def final_networks(config: Config) -> tuple[str, ...]:
    """The stages that :func:`load_final_decoder` reads."""
    return (autoencoder_stage(config), *(("finetune",) if config.finetune.name != "none" else ()))


def codes_stage(config: Config) -> str:
    """The stage whose codes everything downstream reads."""
    return "codes" if config.finetune.name == "none" else "tuned_codes"


def final_codes(inputs: Inputs) -> Artifact:
    """The artifact of those codes."""
    return inputs["tuned_codes"] if "tuned_codes" in inputs else inputs["codes"]


def load_final_decoder(inputs: Inputs, config: Config, info: DataInfo, device: torch.device) -> nn.Module:
    """The decoder that images of codes come from, fine-tuned where that is asked for, without gradients."""
    decoder = load_decoder(inputs, config, info, device)
    if config.finetune.name != "none":
        decoder.load_state_dict(inputs["finetune"].tensors("decoder"))
    return decoder
