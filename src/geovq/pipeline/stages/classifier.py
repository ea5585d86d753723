"""images -> classifier: the small network whose features measure and whose labels judge.

It depends on the data alone, so that all runs on a data set share one and their numbers compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.options import Training
from geovq.models.classifier import SmallClassifier
from geovq.pipeline.fit import Metrics, Task, seeded, training_settings
from geovq.pipeline.stage import ArtifactWriter, Config, Context, DataInfo, Inputs, Stage
from geovq.pipeline.stages.training import Images, images_on_device, load_network, train_stage, write_network

WEIGHT_DECAY = 1e-4


def make_classifier(info: DataInfo, seed: int) -> SmallClassifier:
    """An untrained classifier for these images."""
    with seeded(seed):
        return SmallClassifier(info.channels, info.height, info.width, info.n_classes)


@dataclass
class ClassifierTask(Task[nn.Module]):
    """Batches and validation of the classifier on byte images with labels (N,)."""

    name = "classifier"
    labels: Tensor
    validation_labels: Tensor

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy in nats."""
        loss = F.cross_entropy(model(self.train[index].float() / 255).float(), self.labels[index])
        return loss, {"cross_entropy": loss.detach()}

    def validate(self, model: nn.Module) -> tuple[float, Metrics]:
        """Cross-entropy and accuracy on validation images."""
        logits = predict(self.model, self.validation, self.validation.device)
        cross_entropy = float(F.cross_entropy(logits, self.validation_labels))
        return cross_entropy, {"cross_entropy": cross_entropy, "accuracy": _accuracy(logits, self.validation_labels)}


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


@torch.no_grad()
def predict(network: Callable[[Tensor], Tensor], images: Images, device: torch.device) -> Tensor:
    """What a network on ``device`` makes of byte images, or of float images in [0, 1]; on the CPU."""
    scale = 255 if images.dtype == torch.uint8 else 1
    return torch.cat([network(batch.to(device).float() / scale).float().cpu() for batch in images.split(500)])


def train_classifier(context: Context, out: ArtifactWriter, model: nn.Module, seed: int) -> None:
    """Train a network to tell the classes of the training images; write it with its accuracy on test images."""
    data, device = context.data, context.device
    assert data.train.labels is not None
    assert data.validation.labels is not None
    assert data.test.labels is not None
    settings = Training(**classifier_settings(context.config), seed=seed)
    images, labels = images_on_device(context), data.train.labels.to(device)
    task = ClassifierTask(model.to(device), *images, labels, data.validation.labels)
    result = train_stage(context, out, task, settings)
    accuracy = _accuracy(predict(model, data.test.images, device), data.test.labels)
    write_network(out, model, result, trained=True, test_accuracy=accuracy)


def classifier_settings(config: Config) -> dict[str, Any]:
    """How classifiers are trained, but for their seed."""
    return config.evaluation.classifier.model_dump() | {"weight_decay": WEIGHT_DECAY}


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train where there are labels; otherwise say why there is no classifier."""
    info, seed = context.info, context.config.data.split_seed
    if info.n_classes < 2:
        out.json("summary", {"trained": False, "reason": "the images have fewer than two classes"})
        return
    train_classifier(context, out, make_classifier(info, seed), seed)


def load_classifier(context: Context, inputs: Inputs) -> SmallClassifier | None:
    """The trained classifier, or None where the data have no labels."""
    artifact = inputs["classifier"]
    if not artifact.json("summary")["trained"]:
        return None
    return load_network(make_classifier(context.info, context.config.data.split_seed), artifact, context.device)


STAGE = Stage(
    "classifier",
    lambda config: f"training the evaluation classifier, {config.evaluation.classifier.steps:,} steps",
    build,
    settings=lambda config: training_settings(config.trainer, classifier_settings(config)),
    uses_data=True,
    on_ranks=lambda config: True,
)
