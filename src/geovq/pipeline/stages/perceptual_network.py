"""images -> perceptual_network: the features that perceptual losses compare; never those that the report judges with.

It depends on the data alone, so that all runs on a data set share one.
"""

from __future__ import annotations

from typing import Any

from geovq.configuration.codes import AdversarialTuning
from geovq.models.adversarial import ImageLoss, PatchDiscriminator
from geovq.models.lpips import Lpips, weights_identity
from geovq.models.perceptual_network import Perception, PerceptualNetwork
from geovq.pipeline.fit import mixed_seed, seeded, training_settings
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage
from geovq.pipeline.stages.classifier import classifier_settings, train_classifier
from geovq.pipeline.stages.training import load_network


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


def load_perceptual_network(context: Context, inputs: Inputs) -> PerceptualNetwork:
    """The trained network, frozen."""
    untrained = make_perceptual_network(context.info, _seed(context.config))
    return load_network(untrained, inputs["perceptual_network"], context.device)


def make_image_loss(context: Context, inputs: Inputs, settings: AdversarialTuning, reconstruction: str) -> ImageLoss:
    """The loss of adversarial training with an untrained discriminator, seeded by ``settings.seed``."""
    with seeded(mixed_seed(settings.seed, 1)):
        discriminator = PatchDiscriminator(context.info.channels, (context.info.height, context.info.width))
    weights = (settings.perceptual_weight, settings.adversarial_weight, settings.adversarial_start)
    perception: Perception
    if settings.features == "lpips":
        evaluation = context.config.evaluation
        perception = Lpips.found(evaluation.lpips_weights, evaluation.lpips_net).to(context.device)
    else:
        perception = load_perceptual_network(context, inputs)
    return ImageLoss(discriminator, perception, reconstruction, *weights)


def perception_settings(config: Config) -> dict[str, Any]:
    """What a stage that compares LPIPS' features depends on."""
    if not (isinstance(config.finetune, AdversarialTuning) and config.finetune.features == "lpips"):
        return {}
    evaluation = config.evaluation
    return {"lpips_weights": weights_identity(evaluation.lpips_weights, evaluation.lpips_net)}


def _settings(config: Config) -> dict[str, Any]:
    return training_settings(config.trainer, classifier_settings(config))


STAGE = Stage(
    "perceptual_network",
    lambda config: f"training features for perceptual losses, {config.evaluation.classifier.steps:,} steps",
    build,
    settings=_settings,
    applies=lambda config: config.reads_perceptual_network,
    uses_data=True,
)
