"""Scores of samples by how they are drawn: one curve of distance against recall over temperatures and guidances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from geovq.evaluation.frechet import frechet
from geovq.evaluation.neighbourhoods import Neighbourhoods
from geovq.pipeline.stages.classifier import load_classifier, predict
from geovq.pipeline.stages.networks import codes_stage, final_networks
from geovq.pipeline.stages.samples import Sampler

if TYPE_CHECKING:
    from geovq.commands.sample import SampleSettings
    from geovq.pipeline.runner import Runner

COLUMNS = ("temperature", "guidance", "frechet_distance", "precision", "recall", "class_agreement")


def score_draws(runner: Runner, settings: SampleSettings) -> list[dict[str, float]]:
    """A row of ``COLUMNS`` for each way of drawing: ``scored_images`` of all classes in turn, against all test images.

    Features and classes are those of the evaluation classifier. The distance depends on the number of images: compare
    rows of one number.
    """
    n, config = settings.scored_images or 0, runner.context.config
    inputs = runner.obtain((*final_networks(config), codes_stage(config), "prior", "classifier", "features"))
    sampler = Sampler(runner.context, inputs)
    classifier = load_classifier(runner.context, inputs)
    assert classifier is not None
    real = inputs["features"].tensors("test")["features"]
    among, rows = Neighbourhoods(real, device=runner.context.device), []
    n_classes, told = runner.context.info.n_classes, sampler.prior.layout.n_classes
    labels = torch.arange(n) % n_classes
    given = labels if told else torch.full_like(labels, -1)
    for _, _, draw in settings.draws:
        _, images = sampler.draw(given, **draw, top_k=settings.top_k, top_p=settings.top_p, seed=settings.seed)
        features = predict(classifier.embedding, images, runner.context.device)
        found = predict(classifier.output, features, runner.context.device).argmax(1)
        scores = among.scores(features)
        agreement = float((found == labels).double().mean()) if told else float("nan")
        values = (draw["temperature"], draw.get("guidance", 1), frechet(real, features, runner.context.device))
        rows.append(dict(zip(COLUMNS, (*values, scores["precision"], scores["recall"], agreement), strict=True)))
    return rows


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """The rows as comma-separated text with a head line."""
    frame = pd.DataFrame(rows, columns=COLUMNS, dtype=float)
    return str(frame.to_csv(index=False, float_format="%.6g", na_rep="nan", lineterminator="\n"))
