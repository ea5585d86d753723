"""codes -> finetune: decoder, codewords or both, trained on for a short while on quantized latents.

Encoder and codes are frozen while this lasts; ``tuned_codes`` are then assigned anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geovq.configuration.codes import FineTune
from geovq.models.codec import Codec, CodeLevel
from geovq.models.vae import reconstruction_loss
from geovq.pipeline.fit import Metrics, Task, training_settings
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder
from geovq.pipeline.stages.training import images_on_device, train_stage


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


@dataclass
class FineTuneTask(Task[CodesToImages]):
    """Batches and validation of decoding fixed codes (N, *shape) to byte images."""

    name = "finetune"
    codes: Tensor
    validation_codes: Tensor
    kind: str

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean reconstruction term of a batch."""
        value = reconstruction_loss(model(self.codes[index]), self.train[index].float() / 255, self.kind).mean()
        return value, {"reconstruction": value.detach()}

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Mean reconstruction term of the validation images, in full precision."""
        total = 0.0
        for images, codes in zip(self.validation.split(500), self.validation_codes.split(500), strict=True):
            total += float(reconstruction_loss(self.model(codes), images.float() / 255, self.kind).sum())
        value = total / len(self.validation)
        return value, {"reconstruction": value}


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write the decoder's weights, the codec and the history."""
    settings = context.config.finetune
    assert isinstance(settings, FineTune)

    def untuned() -> CodesToImages:
        return CodesToImages(load_codec(inputs["codes"]), load_decoder(context, inputs), settings.name)

    model = untuned().to(context.device)
    train, validation = (load_codes(inputs["codes"], split).to(context.device) for split in ("train", "validation"))
    task = FineTuneTask(model, *images_on_device(context), train, validation, context.config.vae.loss)
    with torch.no_grad():
        before, _ = task.validate(model.eval())
    result = train_stage(context, out, task, settings, patience=settings.patience)
    # What got worse is not kept: the untouched networks are a candidate too.
    better = result.best_score < before
    model = model if better else untuned()
    out.tensors("decoder", model.decoder.state_dict())
    out.tensors("codec", model.codec().to_tensors())
    scores = {"": min(before, result.best_score), "_before": before}
    summary = {"best_step": result.best_step if better else 0, "seconds_training": result.seconds}
    out.json("summary", summary | {f"validation_reconstruction{when}": score for when, score in scores.items()})


STAGE = Stage(
    "finetune",
    lambda config: f"fine-tuning ({config.finetune.name})",
    build,
    lambda config: (autoencoder_stage(config), "codes"),
    lambda config: training_settings(config.trainer, config.finetune.model_dump(), loss=config.vae.loss),
    applies=lambda config: config.finetune.name != "none",
    schema=2,
)
