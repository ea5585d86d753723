"""everything -> report: what the codes cost and what they keep, on test images that no fit has seen.

``metrics.json`` holds the same names for every run on a data set; a score that is not measured stands with its reason
in ``omitted.json``. Which scores there are, and how they are measured: ``geovq.evaluation.evaluators``.
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from geovq.evaluation.codebook import usage_of_streams
from geovq.evaluation.evaluator import Measured, measure
from geovq.evaluation.evaluators import OURS, evaluators_of, foreign_modules
from geovq.evaluation.inception import inception_identity
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage, those
from geovq.pipeline.stages.evaluated_run import EvaluatedRun, geodesic_unit, no_geodesics
from geovq.pipeline.stages.networks import codes_stage, final_networks
from geovq.pipeline.stages.page_pictures import at_other_classes, codewords_in_context, shown_samples
from geovq.pipeline.stages.samples import to_bytes
from geovq.pipeline.stages.unquantized import perception_settings

MOST_SHOWN = 4096
"""Codewords that a picture of the codebook can show."""


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Measure what codes change, add what they do not, draw the figures."""
    run, before = EvaluatedRun(context, inputs), inputs["unquantized"]
    foreign = evaluators_of(context.config)
    found = Measured(before.json("metrics"), before.tensors("per_image"), before.json("omitted"))
    found |= measure((*(each for each in OURS if not each.of_autoencoder), *foreign), run)
    out.json("metrics", dict(sorted(found.values.items())))
    out.json("omitted", found.omitted)
    out.json("spectrum", before.json("spectrum"))
    out.json("added_scores", [asdict(score) for each in foreign for score in each.scores])
    out.tensors("per_image", found.per_image)
    _draw(run, out)


def _draw(run: EvaluatedRun, out: ArtifactWriter) -> None:
    """Reconstructions on fixed indices, usage, the decoded codebook: as figures, and for the page as arrays."""
    from geovq import viz

    # Evenly spaced, since some sets are stored class by class.
    shown = torch.linspace(0, len(run.images) - 1, run.config.evaluation.n_figure_images).long().unique()
    pictures = {"original": run.images[shown], "quantized": run.quantized[shown]}
    if run.config.latents_are_points:
        pictures["continuous"] = run.unquantized[shown]
    labels = {"continuous": "without quantizer" if run.config.is_joint else "VAE"}
    order = [name for name in ("original", "continuous", "quantized") if name in pictures]
    out.figure("reconstructions", viz.reconstruction_figure({labels.get(name, name): pictures[name] for name in order}))
    out.tensors("pictures", {"index": shown} | {name: to_bytes(value) for name, value in pictures.items()})
    if run.config.vae.condition != "none":
        out.figure("classes", viz.samples_figure(at_other_classes(run, shown), "The same codes at every class"))
    _, histogram = usage_of_streams(run.codec.streams(run.codes))
    out.figure("usage", viz.usage_figure(histogram))
    out.tensors("usage", {"counts": histogram})
    in_context = codewords_in_context(run)
    if in_context is not None:
        out.tensors("codewords", in_context)
    if run.prior is not None:
        out.tensors("samples", shown_samples(run))
    codewords = run.codec.whole_codewords()
    if codewords is not None and len(codewords) <= MOST_SHOWN:
        # Each codeword as an image: the grid filled with it, decoded.
        filled = codewords[:, :, None, None].expand(-1, -1, *run.codec.levels[0].grid)
        out.figure("codebook", viz.codebook_figure(run.decoded(filled), histogram))


STAGE = Stage(
    "report",
    lambda config: "measuring codes and samples",
    build,
    lambda config: (
        *(*final_networks(config), codes_stage(config), "latents", "classifier", "features", "unquantized"),
        *those(graph=no_geodesics(config) is None, prior=config.has_prior, samples=config.has_prior),
    ),
    lambda config: {
        **config.evaluation.model_dump(exclude={"classifier", "inception_weights"}),
        **perception_settings(config),
        "inception": inception_identity(config.evaluation.inception_weights),
        "geodesic_unit": geodesic_unit(config),
    },
    added_modules=foreign_modules,
    schema=11,
)
