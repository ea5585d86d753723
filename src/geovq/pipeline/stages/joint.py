"""images -> joint: train an autoencoder together with its quantizer, and keep what did best on validation images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.models.joint import JointAutoencoder, held_out_sums, level_counts
from geovq.models.joint_quantizer import perplexity, usage
from geovq.pipeline.fit import Metrics, seeded, training_settings
from geovq.pipeline.shared_draws import shared_parts
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage
from geovq.pipeline.stages.training import ImageTask, load_network, train_stage, write_network
from geovq.pipeline.stages.vae import networks_of

RATE = {"beta", "kl_warmup", "free_bits", "rate_bits_per_token"}
"""What of ``config.vae`` a joint training does not read: the codebook sets the rate."""


def make_joint(config: Config, info: DataInfo) -> JointAutoencoder:
    """An untrained network for these images: the quantizer seeded by ``quantizer.seed``, the rest by ``vae.seed``."""
    vae = config.vae
    with seeded(config.quantizer.seed):
        quantizers = [config.quantizer.make(dim=vae.dim) for _ in range(config.grids)]
    with seeded(vae.seed):
        return JointAutoencoder(quantizers, networks_of(config, info), vae.loss)


@dataclass
class JointTask(ImageTask[JointAutoencoder]):
    """Batches and validation of a joint autoencoder on byte images."""

    name = "joint"
    steps: int

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch."""
        x, labels = self.batch(index)
        return model(x, step / self.steps, labels)

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """The reconstruction term from hard codes, and the use of the codes over all validation images."""
        total, codec = 0.0, self.model.codec()
        counts = level_counts(torch.empty(0, *codec.shape, dtype=torch.long, device=self.validation.device), codec)
        for part in shared_parts(len(self.validation)):
            reconstruction, found = held_out_sums(self.model, *self.held_out(part))
            total += float(reconstruction)
            levels = zip(counts, found, strict=True)
            counts = [[a + b for a, b in zip(*level, strict=True)] for level in levels]
        counts = [[ranks.total_(count) for count in level] for level in counts]
        metrics = {"reconstruction": ranks.total(total) / len(self.validation)}
        for level, count in enumerate(counts):
            suffix = "" if level == len(counts) - 1 else "_top"
            metrics |= {f"perplexity{suffix}": float(perplexity(count)), f"usage{suffix}": float(usage(count))}
        return metrics["reconstruction"], metrics


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train; write weights, history and a summary."""
    model = make_joint(context.config, context.info).to(context.device)
    vae = context.config.vae
    task = JointTask.of(context, model, vae.steps, withholding=True)
    result = train_stage(context, out, task, vae)
    _, metrics = task.validate(model)
    write_network(out, model, result, **{f"validation_{name}": value for name, value in metrics.items()})


def load_joint(context: Context, inputs: Inputs) -> JointAutoencoder:
    """The trained network in evaluation mode, without gradients."""
    return load_network(make_joint(context.config, context.info), inputs["joint"], context.device)


STAGE = Stage(
    "joint",
    lambda config: f"training autoencoder and quantizer together, {config.vae.steps:,} steps",
    build,
    settings=lambda config: training_settings(
        config.trainer, config.vae.dumped(exclude=RATE), quantizer=config.quantizer.model_dump()
    ),
    applies=lambda config: config.is_joint,
    uses_data=True,
    classes=lambda config: ("vae", "quantizer"),
    schema=2,
    on_ranks=lambda config: True,
)
