"""images -> perceptual_network, second_network: features that losses compare; never those that the report judges with.

They depend on the data alone, so that all runs on a data set share them. The second is there where sets are compared.
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
from geovq.models.perceptual_network import FlattenedNetwork, PairedPerception, PerceptualNetwork
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


def make_second_network(info: DataInfo, seed: int) -> FlattenedNetwork:
    """An untrained one for these images."""
    with seeded(seed):
        return FlattenedNetwork(info.channels, info.height, info.width, info.n_classes)


def _seeds(config: Config) -> tuple[int, int]:
    """Of both networks, other ones than the classifier's."""
    return config.data.split_seed + 1, config.data.split_seed + 2


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train the first to tell the classes."""
    seed, _ = _seeds(context.config)
    train_classifier(context, out, make_perceptual_network(context.info, seed), seed)


def build_second(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train the second likewise."""
    _, seed = _seeds(context.config)
    train_classifier(context, out, make_second_network(context.info, seed), seed)


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
    perception: PerceptualNetwork | PairedPerception | Lpips
    if settings.features == "classifier":
        seed, other = _seeds(context.config)
        perception = load_network(make_perceptual_network(info, seed), inputs["perceptual_network"], context.device)
        if settings.takes_two_networks:
            second = load_network(make_second_network(info, other), inputs["second_network"], context.device)
            perception = PairedPerception(perception, second)
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
    """The stages that give the features which that loss compares."""
    settings = config.image_losses.get(key)
    if settings is None:
        return ()
    return those(perceptual_network=settings.features == "classifier", second_network=settings.takes_two_networks)


def _stage(
    name: str, build: Callable[[Context, Inputs, ArtifactWriter], None], applies: Callable[[Config], bool]
) -> Stage:
    return Stage(
        name,
        lambda config: f"training features for perceptual losses, {config.evaluation.classifier.steps:,} steps",
        build,
        settings=lambda config: training_settings(config.trainer, classifier_settings(config)),
        applies=applies,
        uses_data=True,
        on_ranks=lambda config: True,
    )


STAGE = _stage("perceptual_network", build, lambda config: config.reads_perceptual_network)
SECOND = _stage("second_network", build_second, lambda config: config.reads_second_network)
