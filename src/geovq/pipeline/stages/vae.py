"""images -> vae: train the autoencoder and keep the weights that did best on validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.configuration.section import blamed, is_ours
from geovq.models.autoencoder import check_autoencoder
from geovq.models.objective import VaeObjective
from geovq.pipeline.fit import seeded, training_settings
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.training import load_network, train_stage, write_network

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.data import DataInfo
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter


def make_objective(config: Config, info: DataInfo) -> VaeObjective:
    """An untrained network for these images, seeded by ``vae.seed``."""
    settings = config.vae
    with seeded(settings.seed):
        vae = settings.make(image_shape=info.image_shape)
    if not is_ours(type(vae)):
        with blamed(vae, "encode and decode"):
            check_autoencoder(vae, info.image_shape, (settings.dim, settings.grid, settings.grid))
    return VaeObjective(vae, settings.loss, settings.beta, settings.free_bits, config.rate_bits_per_token)


class VaeTask:
    """Batches and validation of a VAE on images that live on the device as bytes."""

    name = "vae"

    def __init__(
        self, model: VaeObjective, train: Tensor, validation: Tensor, warmup_steps: float, n_tokens: int
    ) -> None:
        self.n_tokens = n_tokens
        self.model: nn.Module = model
        self.objective = model
        self.train = train
        self.validation = validation
        self.n_examples = len(train)
        self.warmup_steps = warmup_steps

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch; beta rises linearly over the warm-up steps."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps > 0 else 1.0
        return model(self.train[index].float() / 255, warm)

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Score and its parts on the validation images."""
        sums = torch.zeros(2)
        for batch in self.validation.split(500):
            sums += self.objective.held_out_sums(batch.float() / 255).cpu()
        reconstruction, bits = (sums / len(self.validation)).tolist()
        score = self.objective.held_out_score(reconstruction, bits / self.n_tokens, self.n_tokens)
        return score, {"reconstruction": reconstruction, "kl_bits_per_token": bits / self.n_tokens, "score": score}


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write weights, history and a summary."""
    config, device = context.config, context.device
    objective = make_objective(config, context.info).to(device)
    task = VaeTask(
        objective,
        context.data.train.images.to(device),
        context.data.validation.images.to(device),
        config.vae.kl_warmup * config.vae.steps,
        config.n_tokens,
    )
    result = train_stage(context, out, task, config.vae, of=objective.vae)
    write_network(out, objective, result, beta=float(objective.controller.beta))


def load_vae(artifact: Artifact, config: Config, info: DataInfo, device: torch.device) -> VaeObjective:
    """The trained network in evaluation mode, without gradients."""
    return load_network(make_objective(config, info), artifact, device)


STAGE = Stage(
    name="vae",
    inputs=lambda config: (),
    settings=lambda config: {
        **config.vae.model_dump(),
        "rate_bits_per_token": config.rate_bits_per_token,
        **training_settings(config.trainer),
    },
    build=build,
    applies=lambda config: not config.is_joint,
    uses_data=True,
    classes=lambda config: ("vae",),
)
