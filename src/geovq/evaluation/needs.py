"""What several evaluators need of a run; each docstring goes into the reference page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun


def points(run: EvaluatedRun) -> str | None:
    """latents that are points of the space that is decoded"""
    if run.config.latents_are_points:
        return None
    return "the quantizer's latents are scores of codewords, not points of the space that is decoded"


def classifier(run: EvaluatedRun) -> str | None:
    """images of two classes or more, for a classifier"""
    return "the images have fewer than two classes, so there is no classifier" if run.classifier is None else None


def prior(run: EvaluatedRun) -> str | None:
    """a prior"""
    return "transformer=none: there is no prior" if run.prior is None else None


def training_codes(run: EvaluatedRun) -> str | None:
    """codes of training images"""
    reason = "assign.training_images=needed: without a prior, training images have no codes to count"
    return None if run.has_training_codes else reason
