"""What reconstructions look like to networks: LPIPS, a distance on our classifier's features, the labels they keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from geovq.evaluation import perceptual
from geovq.pipeline.stages.classifier import NO_CLASSES, network_name, predict

if TYPE_CHECKING:
    import torch

    from geovq.models.classifier import SmallClassifier
    from geovq.pipeline.stage import Context


def measure_perception(
    context: Context,
    images: Tensor,
    output: Tensor,
    classifier: SmallClassifier | None,
    labels: Tensor | None,
    suffix: str = "",
) -> tuple[dict[str, float], dict[str, Tensor], dict[str, str]]:
    """Perceptual metrics of reconstructions.

    Args:
        context: which LPIPS, and the name of the data set's classifier.
        images: (N, C, H, W) in [0, 1].
        output: their reconstructions.
        classifier: on the run's device; None where the data have no labels.
        labels: (N,) what the classifier takes the originals for (:func:`labels_of`).
        suffix: put behind each name.

    Returns:
        The means, the values per image (N,), and the reasons for what cannot be had.
    """
    evaluation, name = context.config.evaluation, f"perceptual_{network_name(context.info)}"
    per_image: dict[str, Tensor] = {}
    omitted: dict[str, str] = {}
    if evaluation.lpips == "off":
        omitted["lpips"] = "evaluation.lpips=off"
    else:
        distances, note = perceptual.lpips_per_image(
            images, output, evaluation.lpips_weights, evaluation.lpips_net, context.device
        )
        if distances is None:
            omitted["lpips"] = note
        else:
            per_image["lpips"] = distances.cpu()
    if classifier is None or labels is None:
        omitted |= {name: NO_CLASSES, "label_agreement": NO_CLASSES}
    else:
        network = network_name(context.info)
        _, per_image[name] = perceptual.perceptual_metrics(classifier, network, images, output, context.device)
        per_image["label_agreement"] = (labels_of(classifier, output, context.device) == labels).float()
    metrics = {f"{name}{suffix}": float(values.double().mean()) for name, values in per_image.items()}
    return (
        metrics,
        {f"{name}{suffix}": values for name, values in per_image.items()},
        {f"{name}{suffix}": reason for name, reason in omitted.items()},
    )


def labels_of(classifier: SmallClassifier, images: Tensor, device: torch.device) -> Tensor:
    """What the classifier, which is on ``device``, takes images (N, C, H, W) in [0, 1] for, (N,)."""
    return predict(classifier, images, device).argmax(1)
