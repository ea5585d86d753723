"""codes -> finetune: decoder, codewords or both, trained on for a short while on quantized latents.

The encoder is frozen, and so are the codes while this lasts. ``tuned_codes`` are then assigned anew, by the same rule,
with what came out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.configuration.codes import FineTune
from geovq.models.codec import Codec, CodeLevel
from geovq.models.vae import reconstruction_loss
from geovq.pipeline.fit import training_settings
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder
from geovq.pipeline.stages.training import train_stage

if TYPE_CHECKING:
    from geovq.pipeline.artifacts import ArtifactWriter


class CodesToImages(nn.Module):
    """A decoder behind the tables of a codec; what is not trained has no gradients."""

    def __init__(self, codec: Codec, decoder: nn.Module, tuned: str) -> None:
        super().__init__()
        self.levels = codec.levels
        self.tables = nn.ParameterList(level.tables.clone() for level in codec.levels)
        self.decoder = decoder
        self.tables.requires_grad_(tuned in ("codebook", "both"))
        self.decoder.requires_grad_(tuned in ("decoder", "both"))

    def codec(self) -> Codec:
        """The codec with the tables as they are now."""
        pairs = zip(self.tables, self.levels, strict=True)
        return Codec(tuple(CodeLevel(table, level.sizes, level.grid) for table, level in pairs))

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, *shape) to decoder logits (B, C, H, W)."""
        logits: Tensor = self.decoder.logits(self.codec().embed(codes))  # type: ignore[operator]
        return logits


class FineTuneTask:
    """Batches and validation of decoding fixed codes."""

    name = "finetune"

    def __init__(
        self, model: CodesToImages, loss: str, images: tuple[Tensor, Tensor], codes: tuple[Tensor, Tensor]
    ) -> None:
        self.model: nn.Module = model
        self.kind = loss
        self.images, self.held_out = images
        self.codes, self.held_out_codes = codes
        self.n_examples = len(self.images)

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean reconstruction term of a batch."""
        value = reconstruction_loss(model(self.codes[index]), self.images[index].float() / 255, self.kind).mean()
        return value, {"reconstruction": value.detach()}

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Mean reconstruction term of the validation images, in full precision."""
        total = 0.0
        for images, codes in zip(self.held_out.split(500), self.held_out_codes.split(500), strict=True):
            total += float(reconstruction_loss(self.model(codes), images.float() / 255, self.kind).sum())
        value = total / len(self.held_out)
        return value, {"reconstruction": value}


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write the decoder's weights, the codec and the history."""
    config, data, device = context.config, context.data, context.device
    settings = config.finetune
    assert isinstance(settings, FineTune)
    decoder = load_decoder(inputs, config, context.info, device)
    model = CodesToImages(load_codec(inputs["codes"]), decoder, settings.name).to(device)
    task = FineTuneTask(
        model,
        config.vae.loss,
        (data.train.images.to(device), data.validation.images.to(device)),
        (
            load_codes(inputs["codes"], "train").to(device),
            load_codes(inputs["codes"], "validation").to(device),
        ),
    )
    with torch.no_grad():
        before, _ = task.validate(model.eval())
    result = train_stage(context, out, task, settings, patience=settings.patience)
    # What got worse is not kept: the untouched networks are a candidate too.
    if result.best_score >= before:
        model = CodesToImages(
            load_codec(inputs["codes"]), load_decoder(inputs, config, context.info, device), settings.name
        )
    out.tensors("decoder", model.decoder.state_dict())
    out.tensors("codec", model.codec().to_tensors())
    out.json(
        "summary",
        {
            "best_step": result.best_step if result.best_score < before else 0,
            "seconds_training": result.seconds,
            "validation_reconstruction_before": before,
            "validation_reconstruction": min(before, result.best_score),
        },
    )


STAGE = Stage(
    name="finetune",
    inputs=lambda config: (autoencoder_stage(config), "codes"),
    settings=lambda config: {
        **config.finetune.model_dump(),
        "loss": config.vae.loss,
        **training_settings(config.trainer),
    },
    build=build,
    schema=2,
    applies=lambda config: config.finetune.name != "none",
)
