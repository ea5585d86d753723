"""images, classifier -> features: what the classifier makes of training and test images, once per data set."""

from __future__ import annotations

from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage
from geovq.pipeline.stages.classifier import load_classifier, predict


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """The embedding (N, D) of all images of both splits; nothing where there is no classifier."""
    classifier = load_classifier(context, inputs)
    out.json("summary", {"classifier": classifier is not None})
    if classifier is None:
        return
    for split in ("train", "test"):
        images = getattr(context.data, split).images
        out.tensors(split, {"features": predict(classifier.embedding, images, context.device)})


STAGE = Stage(
    "features", lambda config: "what the classifier makes of the images", build, lambda config: ("classifier",)
)
