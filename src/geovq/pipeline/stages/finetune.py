"""codes -> finetune: decoder, codewords or both, trained on for a short while on quantized latents.

Encoder and codes are frozen while this lasts; ``tuned_codes`` are then assigned anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from geovq import ranks
from geovq.configuration.codes import AdversarialTuning, FineTune
from geovq.configuration.options import ImageLossSettings
from geovq.geometry.computing import images_per_pass
from geovq.models.adversarial import ImageLoss
from geovq.models.codec import Codec
from geovq.models.condition import given
from geovq.models.vae import reconstruction_loss
from geovq.pipeline.fit import Metrics, Part, training_settings
from geovq.pipeline.shared_draws import shared_parts
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder
from geovq.pipeline.stages.perceptual_network import (
    distances,
    image_loss_settings,
    make_image_loss,
    parts_of,
    perceptual_inputs,
)
from geovq.pipeline.stages.training import ImageTask, train_stage


class CodesToImages(nn.Module):
    """A decoder behind the tables of a codec; what is not trained has no gradients."""

    def __init__(self, codec: Codec, decoder: nn.Module, tuned: str) -> None:
        super().__init__()
        self.levels = codec.levels
        self.tables = nn.ParameterList(level.tables.clone() for level in codec.levels)
        self.moves = nn.ModuleList(level.moves for level in codec.levels if level.moves is not None)
        self.decoder = decoder
        for part in (self.tables, self.moves):
            part.requires_grad_(tuned in ("codebook", "both"))
        self.decoder.requires_grad_(tuned in ("decoder", "both"))

    def codec(self) -> Codec:
        """The codec with the tables as they are now."""
        pairs = zip(self.tables, self.levels, strict=True)
        return Codec(tuple(replace(level, tables=table) for table, level in pairs))

    @torch.no_grad()
    def per_pass(self, codes: Tensor) -> int:
        """How many of these codes (N, *shape) to decode at a time where nothing is trained."""
        return images_per_pass(given(self.decoder, None), self.codec().embed(codes[:1]), 500, backward=False)

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Codes (B, *shape) to decoder logits (B, C, H, W); labels (B,) for a decoder that is told classes."""
        logits: Tensor = given(self.decoder, labels).logits(self.codec().embed(codes))
        return logits


@dataclass
class FineTuneTask(ImageTask[CodesToImages]):
    """Batches and validation of decoding fixed codes (N, *shape) to byte images."""

    name = "finetune"
    codes: Tensor
    validation_codes: Tensor
    kind: str

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean reconstruction term of a batch."""
        x, labels = self.batch(index)
        value = reconstruction_loss(model(self.codes[index], labels), x, self.kind).mean()
        return value, {"reconstruction": value.detach()}

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Mean reconstruction term of the validation images, in full precision."""
        total = 0.0
        for part in shared_parts(len(self.validation), self.model.per_pass(self.validation_codes)):
            x, labels = self.held_out(part)
            logits = self.model(self.validation_codes[part], labels)
            total += float(reconstruction_loss(logits, x, self.kind).sum())
        value = ranks.total(total) / len(self.validation)
        return value, {"reconstruction": value}


class SharpTuning(nn.Module):
    """The tuned network beside the loss that has a discriminator to train.

    A discriminator never lets the weights rest, so what is kept is their exponential running mean over about ``memory``
    steps (Yazici et al. 2019); 1 and less: the weights themselves.
    """

    def __init__(self, network: CodesToImages, loss: ImageLoss, memory: float) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.averaged: AveragedModel | None = None
        if memory > 1:
            self.averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / memory))
            self.averaged.requires_grad_(False)

    @property
    def kept(self) -> CodesToImages:
        """The network that is validated and written."""
        if self.averaged is None:
            return self.network
        network = self.averaged.module
        assert isinstance(network, CodesToImages)
        return network

    def forward(
        self, codes: Tensor, x: Tensor, progress: float, labels: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of codes (B, *shape) that should decode to images x, and scalars worth logging."""
        if self.averaged is not None and self.training:
            self.averaged.update_parameters(self.network)
        found: tuple[Tensor, dict[str, Tensor]] = self.loss(self.network(codes, labels), x, progress)
        return found


@dataclass
class AdversarialTask(ImageTask[SharpTuning]):
    """The same with the losses of ``ImageLoss``; best is what is closest to validation images as a set.

    That is the Fréchet distance on the features of the perceptual loss, by their layout: other ones than the report's.
    """

    name = "finetune"
    codes: Tensor
    validation_codes: Tensor
    settings: AdversarialTuning

    @property
    def parts(self) -> tuple[Part, ...]:
        """Decoder and discriminator are clipped apart."""
        return parts_of(self.model, self.model.loss, self.settings)

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch."""
        x, labels = self.batch(index)
        return model(self.codes[index], x, step / self.settings.steps, labels)

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Fréchet distance, reconstruction term and perceptual distance of validation images, evenly spaced."""
        network = self.model.kept

        def drawn(index: Tensor) -> tuple[Tensor, Tensor]:
            x, labels = self.held_out(index)
            return x, network(self.validation_codes[index], labels)

        per_pass = network.per_pass(self.validation_codes)
        found = distances(self.model.loss, len(self.validation), per_pass, drawn)
        return found["frechet"], found


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write the decoder's weights, the codec and the history."""
    settings = context.config.finetune
    assert isinstance(settings, FineTune | AdversarialTuning)

    def untuned() -> CodesToImages:
        network = CodesToImages(load_codec(inputs["codes"]), load_decoder(context, inputs), settings.tuned)
        return network.to(context.device)

    kind = context.config.vae.reconstruction
    train, validation = (load_codes(inputs["codes"], split).to(context.device) for split in ("train", "validation"))
    task: FineTuneTask | AdversarialTask
    if isinstance(settings, AdversarialTuning):
        loss = make_image_loss(context, inputs, settings, settings, kind)
        model = SharpTuning(untuned(), loss, settings.averaging * settings.steps)
        task = AdversarialTask.of(context, model, train, validation, settings)
    else:
        task = FineTuneTask.of(context, untuned(), train, validation, kind)
    with torch.no_grad():
        before, scores_before = task.validate(task.model.eval())
    result = train_stage(context, out, task, settings, patience=settings.patience)
    # What got worse is not kept: the untouched networks are a candidate too.
    better = result.best_score < before
    if not better:
        task.model = untuned() if isinstance(task, FineTuneTask) else SharpTuning(untuned(), task.model.loss, memory=0)
    with torch.no_grad():
        _, scores = task.validate(task.model.eval())
    network = task.model.kept if isinstance(task.model, SharpTuning) else task.model
    out.tensors("decoder", network.decoder.state_dict())
    out.tensors("codec", network.codec().to_tensors())
    told = {"_before": scores_before, "": scores}
    summary = {"best_step": result.best_step if better else 0, "seconds_training": result.seconds}
    out.json(
        "summary", summary | {f"validation_{n}{when}": v for when, found in told.items() for n, v in found.items()}
    )


STAGE = Stage(
    "finetune",
    lambda config: f"fine-tuning ({config.finetune.name})",
    build,
    lambda config: (autoencoder_stage(config), "codes", *perceptual_inputs(config, "finetune")),
    lambda config: training_settings(
        config.trainer,
        config.finetune.model_dump(exclude=set(ImageLossSettings.model_fields)),
        loss=config.vae.reconstruction,
        **image_loss_settings(config, "finetune"),
    ),
    applies=lambda config: config.finetune.name != "none",
    schema=2,
    on_ranks=lambda config: True,
)
