"""images -> classifier: the small network whose features measure and whose labels judge.

It depends on the data alone, so that all runs on a data set share one and their numbers compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.sections import Training
from geovq.models.classifier import SmallClassifier
from geovq.pipeline.fit import seeded, training_settings
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.training import load_network, train_stage, write_network

if TYPE_CHECKING:
    from collections.abc import Callable

    from geovq.data import DataInfo
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter

WEIGHT_DECAY = 1e-4


def network_name(info: DataInfo) -> str:
    """Name that every metric of this network carries."""
    return f"{info.name}_cnn"


def make_classifier(info: DataInfo, seed: int) -> SmallClassifier:
    """An untrained classifier for these images."""
    with seeded(seed):
        return SmallClassifier(info.channels, info.height, info.width, info.n_classes)


class ClassifierTask:
    """Batches and validation of the classifier."""

    name = "classifier"

    def __init__(self, model: SmallClassifier, context: Context) -> None:
        data, device = context.data, context.device
        assert data.train.labels is not None
        assert data.validation.labels is not None
        self.model: nn.Module = model
        self.images, self.labels = data.train.images.to(device), data.train.labels.to(device)
        self.held_out, self.held_out_labels = data.validation.images, data.validation.labels
        self.device = device
        self.n_examples = len(self.images)

    def loss(self, model: nn.Module, index: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy in nats."""
        loss = F.cross_entropy(model(self.images[index].float() / 255).float(), self.labels[index])
        return loss, {"cross_entropy": loss.detach()}

    def validate(self, model: nn.Module) -> tuple[float, dict[str, float]]:
        """Cross-entropy and accuracy on validation images."""
        logits = predict(self.model, self.held_out, self.device)
        cross_entropy = float(F.cross_entropy(logits, self.held_out_labels))
        accuracy = float((logits.argmax(1) == self.held_out_labels).float().mean())
        return cross_entropy, {"cross_entropy": cross_entropy, "accuracy": accuracy}


@torch.no_grad()
def predict(network: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """What a network on ``device`` makes of byte images, or of float images in [0, 1]; on the CPU."""
    scale = 255 if images.dtype == torch.uint8 else 1
    return torch.cat([network(batch.to(device).float() / scale).float().cpu() for batch in images.split(500)])


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Train where there are labels; otherwise say why there is no classifier."""
    info, evaluation = context.info, context.config.evaluation
    if info.n_classes < 2:
        out.json("summary", {"trained": False, "reason": "the images have fewer than two classes"})
        return
    settings = Training(
        **evaluation.classifier.model_dump(), weight_decay=WEIGHT_DECAY, seed=context.config.data.split_seed
    )
    model = make_classifier(info, settings.seed).to(context.device)
    task = ClassifierTask(model, context)
    result = train_stage(context, out, task, settings)
    test = context.data.test
    assert test.labels is not None
    accuracy = float(torch.eq(predict(model, test.images, context.device).argmax(1), test.labels).float().mean())
    write_network(out, model, result, trained=True, test_accuracy=accuracy)


def load_classifier(artifact: Artifact, context: Context) -> SmallClassifier | None:
    """The trained classifier, or None where the data have no labels."""
    if not artifact.json("summary")["trained"]:
        return None
    return load_network(make_classifier(context.info, context.config.data.split_seed), artifact, context.device)


STAGE = Stage(
    name="classifier",
    inputs=lambda config: (),
    settings=lambda config: {
        **config.evaluation.classifier.model_dump(),
        "weight_decay": WEIGHT_DECAY,
        **training_settings(config.trainer),
    },
    build=build,
    uses_data=True,
)
