"""A score: how sharp reconstructions are, beside the images that they are of."""

from __future__ import annotations

from torch import Tensor

from geovq.configuration.fields import Positive
from geovq.evaluation.evaluator import HIGHER, Evaluator, Measured, Score
from geovq.pipeline.stages.evaluated_run import EvaluatedRun


class Sharpness(Evaluator):
    """Size of the horizontal gradient of reconstructions, as a share of that of the images.

    Args:
        power: of the gradient.
    """

    scores = (
        Score("sharpness", "sharpness", better=HIGHER, form=".3f", description="gradient, of that of the images"),
    )

    def __init__(self, power: Positive = 1.0) -> None:
        self.power = power

    def measure(self, run: EvaluatedRun) -> Measured:
        """The mean over the test images, and the value of each."""
        return Measured.of_images({"sharpness": self._size(run.quantized) / self._size(run.images)})

    def _size(self, images: Tensor) -> Tensor:
        return images.diff(dim=3).abs().pow(self.power).flatten(1).mean(1)
