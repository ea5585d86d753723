"""The way of the data, stage by stage, in order.

    images -> vae -> latents -> metric_tensors -> graph -> codebook -> codes -> prior -> samples -> report

``joint`` replaces the vae and the codebook where both are learned together. ``finetune`` follows the codes where it is
asked for, and ``tuned_codes`` then replace them; so do ``rate_codes_2`` where images are searched under a prior. The
classifier is trained once per data set and only measures; ``features`` is what it makes of the images.
``perceptual_network`` is another one, whose features losses compare, with ``second_network`` where they compare sets.
``unquantized`` measures once per autoencoder what no codebook changes.
"""

from __future__ import annotations

from geovq.pipeline.stage import Stage
from geovq.pipeline.stages import (
    classifier,
    codebook,
    codes,
    features,
    finetune,
    graph,
    joint,
    latents,
    metric_tensors,
    perceptual_network,
    prior,
    rate_codes,
    report,
    samples,
    unquantized,
    vae,
)

STAGES: tuple[Stage, ...] = (
    *(perceptual_network.STAGE, perceptual_network.SECOND, vae.STAGE, joint.STAGE, latents.STAGE),
    *(metric_tensors.STAGE, metric_tensors.HELD_OUT, graph.STAGE, codebook.STAGE),
    *(codes.STAGE, finetune.STAGE, codes.TUNED),
    *(rate_codes.PRIOR_1, rate_codes.CODES_1, rate_codes.PRIOR_2, rate_codes.CODES_2, prior.STAGE),
    *(classifier.STAGE, features.STAGE, samples.STAGE, unquantized.STAGE, report.STAGE),
)
