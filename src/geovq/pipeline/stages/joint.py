"""images -> joint: train an autoencoder together with its quantizer, and keep what did best on validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from geovq.models.joint import JointAutoencoder, held_out_sums
from geovq.models.joint_quantizer import perplexity, usage
from geovq.pipeline.fit import seeded, training_settings
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.training import load_network, train_stage, write_network

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.data import DataInfo
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter

RATE = {"beta", "kl_warmup", "free_bits", "rate_bits_per_token"}
"""What of ``config.vae`` a joint training does not read: the codebook sets the rate."""


def make_joint(config: Config, info: DataInfo) -> JointAutoencoder:
    """An untrained network for these images: the quantizer seeded by ``quantizer.seed``, the rest by ``vae.seed``."""
    vae: Any = config.vae  # the settings of our convolutional networks
    with seeded(config.quantizer.seed):
        quantizers = [config.quantizer.make(dim=vae.dim) for _ in range(config.grids)]
    with seeded(vae.seed):
        return JointAutoencoder(
            quantizers,
            info.image_shape,
            (vae.grid, vae.grid),
            vae.width,
            vae.max_width,
            vae.blocks,
            vae.norm,
            vae.loss,
        )


class JointTask:
    """Batches and validation of a joint autoencoder on images that live on the device as bytes."""

    name = "joint"

    def __init__(self, model: JointAutoencoder, train: Tensor, validation: Tensor, steps: int) -> None:
        self.model: nn.Module = model
        self.autoencoder = model
        self.train = train
        self.validation = validation
        self.n_examples = len(train)
        self.steps = steps

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch."""
        return model(self.train[index].float() / 255, step / self.steps)

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """The reconstruction term from hard codes, and the use of the codes over all validation images."""
        total = 0.0
        counts: list[list[Tensor]] = []
        for batch in self.validation.split(500):
            reconstruction, found = held_out_sums(self.autoencoder, batch.float() / 255)
            total += float(reconstruction)
            counts = [_sums(*level) for level in zip(counts, found, strict=True)] if counts else found
        metrics = {"reconstruction": total / len(self.validation)}
        for level, count in enumerate(counts):
            suffix = "" if level == len(counts) - 1 else "_top"
            metrics |= {f"perplexity{suffix}": float(perplexity(count)), f"usage{suffix}": float(usage(count))}
        return metrics["reconstruction"], metrics


def _sums(counts: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    return [sum_ + more for sum_, more in zip(counts, found, strict=True)]


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write weights, history and a summary."""
    config, device = context.config, context.device
    model = make_joint(config, context.info).to(device)
    data = context.data
    task = JointTask(model, data.train.images.to(device), data.validation.images.to(device), config.vae.steps)
    result = train_stage(context, out, task, config.vae)
    _, metrics = task.validate(model)
    write_network(out, model, result, **{f"validation_{name}": value for name, value in metrics.items()})


def load_joint(artifact: Artifact, config: Config, info: DataInfo, device: torch.device) -> JointAutoencoder:
    """The trained network in evaluation mode, without gradients."""
    return load_network(make_joint(config, info), artifact, device)


STAGE = Stage(
    name="joint",
    inputs=lambda config: (),
    settings=lambda config: {
        **config.vae.model_dump(exclude=RATE),
        "quantizer": config.quantizer.model_dump(),
        **training_settings(config.trainer),
    },
    build=build,
    applies=lambda config: config.is_joint,
    uses_data=True,
    classes=lambda config: ("quantizer",),
    schema=2,
)
