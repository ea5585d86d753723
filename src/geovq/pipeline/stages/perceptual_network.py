"""images -> perceptual_network: the features that perceptual losses compare; never those that the report judges with.

It depends on the data alone, so that all runs on a data set share one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geovq.configuration.options import ImageLossSettings, Training
from geovq.evaluation.frechet import frechet
from geovq.models import frechet_loss
from geovq.models.adversarial import Discriminator, ImageLoss
from geovq.models.lpips import Lpips, weights_identity
from geovq.models.perceptual_network import PerceptualNetwork
from geovq.models.vae import reconstruction_loss
from geovq.pipeline.fit import Metrics, Part, mixed_seed, seeded, training_settings
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage, those
from geovq.pipeline.stages.classifier import classifier_settings, train_classifier
from geovq.pipeline.stages.training import load_network

MOST_VALIDATED = 2000
"""Validation images that are looked at: enough to tell weights apart, and seconds on a CPU."""


def make_perceptual_network(info: DataInfo, seed: int) -> PerceptualNetwork:
    """An untrained one for these images."""
    with seeded(seed):
        return PerceptualNetwork(info.channels, info.height, info.width, info.n_classes)


def _seed(config: Config) -> int:
    """Another one than the classifier's."""
    return config.data.split_seed + 1


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train it to tell the classes."""
    train_classifier(context, out, make_perceptual_network(context.info, _seed(context.config)), _seed(context.config))


def make_image_loss(
    context: Context,
    inputs: Inputs,
    settings: ImageLossSettings,
    training: Training,
    reconstruction: str,
    adversarial: bool = True,
) -> ImageLoss:
    """The loss of a training on its device, with an untrained discriminator, drawn from its seed, if ``adversarial``.

    Says so where training ends before the distance of sets counts.
    """
    info, evaluation, discriminator = context.info, context.config.evaluation, None
    perception: PerceptualNetwork | Lpips
    if settings.features == "classifier":
        untrained = make_perceptual_network(info, _seed(context.config))
        perception = load_network(untrained, inputs["perceptual_network"], context.device)
    else:
        perception = Lpips.found(evaluation.lpips_weights, evaluation.lpips_net).requires_grad_(False)
        perception.to(context.device)
    maps = perception.features(torch.zeros(1, *info.image_shape, device=context.device))
    if adversarial and settings.adversarial_weight > 0:
        with seeded(mixed_seed(training.seed, 1)):
            discriminator = Discriminator(info.channels, (info.height, info.width), [each.shape[1] for each in maps])
    weights = (settings.perceptual_weight, settings.adversarial_weight, settings.adversarial_start)
    frechet = None
    if settings.frechet_weight > 0:
        frechet = frechet_loss.FrechetTerm(perception.layout(maps).shape[1])
        seen = training.steps * min(training.batch_size, len(context.data.train.images))
        if seen < frechet_loss.MEMORY:
            print(
                f"remark: frechet_weight is without effect: the distance of sets counts once {frechet_loss.MEMORY:,} "
                f"images have been seen, and {training.steps} steps see {seen:,}",
                file=sys.stderr,
            )
    loss = ImageLoss(discriminator, perception, reconstruction, *weights, frechet, settings.frechet_weight)
    return loss.to(context.device)


@torch.no_grad()
def distances(loss: ImageLoss, n: int, per_pass: int, drawn: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Metrics:
    """How far what is drawn is from n validation images, of which at most ``MOST_VALIDATED``, evenly spaced, are seen.

    ``drawn`` gives originals (B, C, H, W) in [0, 1] and the decoder's logits of the images at places (B,).

    ``frechet`` is that of both as sets, on the features that the loss compares: other ones than the report's. The
    reconstruction term and the perceptual distance are means over the images.
    """
    perception, terms = loss.perception, list[Tensor]()
    layouts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for places in torch.linspace(0, n - 1, min(n, MOST_VALIDATED)).long().split(per_pass):
        x, logits = drawn(places)
        maps = [perception.features(images) for images in (x, torch.sigmoid(logits))]
        terms.append(
            torch.stack([reconstruction_loss(logits, x, loss.reconstruction), perception.distance(*maps)]).double()
        )
        for found, each in zip(layouts, maps, strict=True):
            found.append(perception.layout(each).cpu())
    reconstruction, perceptual = torch.cat(terms, dim=1).mean(1).tolist()
    apart = frechet(torch.cat(layouts[0]), torch.cat(layouts[1]))
    return {"frechet": apart, "reconstruction": reconstruction, "perceptual": perceptual}


def parts_of(model: nn.Module, loss: ImageLoss | None, settings: ImageLossSettings) -> tuple[Part, ...]:
    """A model that holds its loss, apart from the discriminator in that."""
    discriminator = () if loss is None or loss.discriminator is None else tuple(loss.discriminator.parameters())
    others = tuple(p for p in model.parameters() if all(p is not other for other in discriminator))
    if not discriminator:
        return (Part(others),)
    return Part(others), Part(discriminator, settings.discriminator_rate, betas=(0.5, 0.9))


def image_loss_settings(config: Config, key: str) -> dict[str, Any]:
    """What a stage whose loss has its settings at ``key`` depends on; nothing where there is no such loss."""
    settings, evaluation = config.image_losses.get(key), config.evaluation
    if settings is None:
        return {}
    told = {name: getattr(settings, name) for name in ImageLossSettings.model_fields}
    if settings.frechet_weight:
        told["kept_by"] = "layout"
    else:  # keys are older than this term, and than what weights are kept by
        del told["frechet_weight"]
    if settings.features == "lpips":
        told["lpips_weights"] = weights_identity(evaluation.lpips_weights, evaluation.lpips_net)
    return {"image_loss": told}


def perceptual_inputs(config: Config, key: str) -> tuple[str, ...]:
    """The stage that gives the features which that loss compares."""
    settings = config.image_losses.get(key)
    return those(perceptual_network=settings is not None and settings.features == "classifier")


STAGE = Stage(
    "perceptual_network",
    lambda config: f"training features for perceptual losses, {config.evaluation.classifier.steps:,} steps",
    build,
    settings=lambda config: training_settings(config.trainer, classifier_settings(config)),
    applies=lambda config: config.reads_perceptual_network,
    uses_data=True,
    on_ranks=lambda config: True,
)
