"""images, classifier -> features: what the classifier makes of training and test images, once per data set."""

from __future__ import annotations

from geovq.evaluation.neighbourhoods import nearest_squared
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage
from geovq.pipeline.stages.classifier import load_classifier, predict


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """The embedding (N, D) of all images of both splits, and how near test images are to training images.

    Nothing where there is no classifier.
    """
    classifier = load_classifier(context, inputs)
    out.json("summary", {"classifier": classifier is not None})
    if classifier is None:
        return
    train, test = (
        predict(classifier.embedding, each.images, context.device) for each in (context.data.train, context.data.test)
    )
    out.tensors("train", {"features": train})
    out.tensors("test", {"features": test, "nearest_squared": nearest_squared(test, train, context.device)})


STAGE = Stage(
    "features", lambda config: "what the classifier makes of the images", build, lambda config: ("classifier",)
)
