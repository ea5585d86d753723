"""The way of the data, stage by stage, in order.

    images -> vae -> latents -> metrics -> graph -> codebook -> codes -> prior -> samples -> report

Each stage is a function from artifacts to one artifact; read its module for what it does. The classifier
is trained once per data set and only measures.
"""

from __future__ import annotations

from geovq.pipeline.stage import Stage
from geovq.pipeline.stages import (
    classifier,
    codebook,
    codes,
    graph,
    latents,
    metrics,
    prior,
    report,
    samples,
    vae,
)

STAGES: tuple[Stage, ...] = (
    vae.STAGE,
    latents.STAGE,
    metrics.STAGE,
    metrics.HELD_OUT,
    graph.STAGE,
    codebook.STAGE,
    codes.STAGE,
    prior.STAGE,
    classifier.STAGE,
    samples.STAGE,
    report.STAGE,
)
