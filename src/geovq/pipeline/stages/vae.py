"""images -> vae: train the autoencoder and keep the weights that did best on validation images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geovq.configuration.section import blamed, is_ours
from geovq.models.autoencoder import check_autoencoder
from geovq.models.condition import ClassNetworks, rows, slices, withheld
from geovq.models.networks import Networks
from geovq.models.objective import VaeObjective
from geovq.models.vae import GridVAE
from geovq.pipeline.fit import Metrics, Task, seeded, training_settings
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage
from geovq.pipeline.stages.training import images_on_device, labels_on_device, load_network, train_stage, write_network


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
    return VaeObjective(vae, settings.loss, settings.beta, settings.free_bits, config.rate_bits_per_token)


@dataclass
class VaeTask(Task[VaeObjective]):
    """Batches and validation of a VAE on byte images; beta rises linearly over the warm-up steps."""

    name = "vae"
    warmup_steps: float
    n_tokens: int
    labels: Tensor | None = None
    validation_labels: Tensor | None = None
    withheld: float = 0.0

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps > 0 else 1.0
        labels = withheld(rows(self.labels, index), self.withheld)
        return model(self.train[index].float() / 255, warm, labels)

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Score and its parts on the validation images."""
        sums = torch.zeros(2)
        for part in slices(len(self.validation)):
            x, labels = self.validation[part].float() / 255, rows(self.validation_labels, part)
            sums += self.model.held_out_sums(x, labels).cpu()
        reconstruction, bits = (sums / len(self.validation)).tolist()
        score = self.model.held_out_score(reconstruction, bits / self.n_tokens, self.n_tokens)
        return score, {"reconstruction": reconstruction, "kl_bits_per_token": bits / self.n_tokens, "score": score}


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write weights, history and a summary."""
    config = context.config
    objective = make_objective(config, context.info).to(context.device)
    warmup_steps = config.vae.kl_warmup * config.vae.steps
    task = VaeTask(objective, *images_on_device(context), warmup_steps, config.n_tokens, *labels_on_device(context))
    task.withheld = config.vae.condition_dropout if task.labels is not None else 0.0
    result = train_stage(context, out, task, config.vae, of=objective.vae)
    write_network(out, objective, result, beta=float(objective.controller.beta))


def load_vae(context: Context, inputs: Inputs) -> VaeObjective:
    """The trained network in evaluation mode, without gradients."""
    return load_network(make_objective(context.config, context.info), inputs["vae"], context.device)


STAGE = Stage(
    "vae",
    lambda config: f"training the autoencoder, {config.vae.steps:,} steps",
    build,
    settings=lambda config: training_settings(
        config.trainer, config.vae.dumped(), rate_bits_per_token=config.rate_bits_per_token
    ),
    applies=lambda config: not config.is_joint,
    uses_data=True,
    classes=lambda config: ("vae",),
)
