"""images -> vae: train the autoencoder and keep the weights that did best on validation images, or take given ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.configuration.options import Vae
from geovq.configuration.section import blamed, is_ours
from geovq.models.autoencoder import check_autoencoder, encoded
from geovq.models.condition import ClassNetworks, given
from geovq.models.networks import Networks
from geovq.models.objective import VaeObjective
from geovq.models.vae import GridVAE
from geovq.pipeline.checkpoint import TrainingState
from geovq.pipeline.fit import Metrics, Part, seeded, training_settings
from geovq.pipeline.shared_draws import shared_parts
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage
from geovq.pipeline.stages.given_weights import take_weights
from geovq.pipeline.stages.perceptual_network import (
    distances,
    image_loss_settings,
    make_image_loss,
    parts_of,
    perceptual_inputs,
)
from geovq.pipeline.stages.training import ImageTask, load_network, train_stage, write_network


def networks_of(config: Config, info: DataInfo) -> Networks:
    """What makes encoder and decoder for these images, of a class that says so; the decoder told classes or not."""
    networks: Networks = config.vae.networks(info.image_shape)
    condition = config.vae.condition
    return networks if condition == "none" else ClassNetworks(networks, condition, info.n_classes)


def make_objective(config: Config, info: DataInfo) -> VaeObjective:
    """An untrained network for these images, seeded by ``vae.seed``."""
    settings = config.vae
    with seeded(settings.seed):
        if settings.condition == "none":
            vae = settings.make(image_shape=info.image_shape)
        else:
            vae = GridVAE(networks_of(config, info), settings.dim)
    if not is_ours(type(vae)):
        with blamed(vae, "encode and decode"):
            check_autoencoder(vae, info.image_shape, (settings.dim, settings.grid, settings.grid))
    rate = (settings.beta, settings.free_bits, config.rate_bits_per_token)
    return VaeObjective(vae, settings.reconstruction, *rate)


@dataclass
class VaeTask(ImageTask[VaeObjective]):
    """Batches and validation of a VAE on byte images; beta rises linearly over the warm-up steps."""

    name = "vae"
    warmup_steps: float
    n_tokens: int
    settings: Vae

    @property
    def parts(self) -> tuple[Part, ...]:
        """The autoencoder and, where there is one, the discriminator."""
        return parts_of(self.model, self.model.image_loss, self.settings.image_loss)

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps > 0 else 1.0
        x, labels = self.batch(index)
        return model(x, warm, step / self.settings.steps, labels)

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Score and its parts on the validation images.

        With losses that make sets alike, best is what is closest to them as a set, at the rate that is asked for.
        """
        sums = torch.zeros(2)
        for part in shared_parts(len(self.validation)):
            sums += self.model.held_out_sums(*self.held_out(part)).cpu()
        reconstruction, bits = (ranks.total_(sums) / len(self.validation)).tolist()
        score = self.model.held_out_score(reconstruction, bits / self.n_tokens, self.n_tokens)
        told = {"reconstruction": reconstruction, "kl_bits_per_token": bits / self.n_tokens}
        loss = self.model.image_loss
        if loss is not None and loss.sharpens:  # squared error would keep weights from before they drew sharply
            told["frechet"] = distances(loss, len(self.validation), 500, self._unquantized)["frechet"]
            score = told["frechet"] if math.isfinite(score) else score
        return score, told | {"score": score}

    def _unquantized(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Validation images (B, C, H, W) and the decoder's logits at their latents."""
        x, labels = self.held_out(index)
        mean, _ = encoded(self.model.vae, x)
        return x, given(self.model.decoder, labels).logits(mean)


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train, unless weights are given; write weights, history and a summary."""
    config = context.config
    objective = make_objective(config, context.info).to(context.device)
    if config.vae.takes_weights:
        take_weights(objective.vae, config.vae, context.info.image_shape)
        write_network(out, objective, TrainingState(best_step=0), beta=float(objective.controller.beta))
        return
    settings = config.image_losses.get("vae.image_loss")
    if settings is not None:
        adversarial = config.vae.loss == "perceptual+adversarial"
        objective.image_loss = make_image_loss(
            context, inputs, settings, config.vae, config.vae.reconstruction, adversarial
        )
    warmup_steps = config.vae.kl_warmup * config.vae.steps
    task = VaeTask.of(context, objective, warmup_steps, config.n_tokens, config.vae, withholding=True)
    result = train_stage(context, out, task, config.vae, of=objective.vae)
    objective.image_loss = None  # it has done its work: what is loaded later has none
    write_network(out, objective, result, beta=float(objective.controller.beta))


def load_vae(context: Context, inputs: Inputs) -> VaeObjective:
    """The trained network in evaluation mode, without gradients."""
    return load_network(make_objective(context.config, context.info), inputs["vae"], context.device)


def _settings(config: Config) -> dict[str, Any]:
    """What of the configuration a training depends on: of other losses only where there are any."""
    own = config.vae.dumped()
    if config.vae.takes_weights:
        return own
    settings = training_settings(config.trainer, own, rate_bits_per_token=config.rate_bits_per_token)
    return settings | image_loss_settings(config, "vae.image_loss")


STAGE = Stage(
    "vae",
    lambda config: (
        "taking the autoencoder's weights as they are"
        if config.vae.takes_weights
        else f"training the autoencoder, {config.vae.steps:,} steps"
    ),
    build,
    lambda config: perceptual_inputs(config, "vae.image_loss"),
    settings=_settings,
    applies=lambda config: not config.is_joint,
    uses_data=True,
    classes=lambda config: ("vae",),
    on_ranks=lambda config: True,
)
