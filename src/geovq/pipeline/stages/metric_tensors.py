"""latents -> metrics: the metric tensor of every token, in its own image and position.

Training tokens first: graphs and codebooks are fitted with theirs. Those of validation and test tokens are a stage of
their own, asked for only where codes are assigned with them. Sketches draw other probes for every split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geovq.geometry.metric import posterior_metrics, token_metrics
from geovq.pipeline.device import measuring_precision
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder
from geovq.pipeline.stages.vae import load_vae

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.models.objective import VaeObjective
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter

# Half the size on disk and in memory; the rounding, at most 2⁻⁸, is far below the error of a sketch.
_STORED = {"sketch": torch.bfloat16, "posterior": torch.bfloat16, "exact": torch.float32}


def _measure(context: Context, inputs: Inputs, out: ArtifactWriter, splits: tuple[str, ...]) -> None:
    geo = context.config.geo
    if geo.metric == "none":
        raise AssertionError("geo.metric=none has no metric tensors to measure")
    decoder = load_decoder(inputs, context.config, context.info, context.device)
    for split in splits:
        latents = inputs["latents"].tensors(split)
        if geo.metric == "posterior":
            objective = load_vae(inputs["vae"], context.config, context.info, context.device)
            packed = posterior_of(latents, objective)
        else:
            packed = token_metrics(
                decoder,
                latents["mean"],
                method=geo.metric,
                n_probes=geo.n_probes,
                seed=geo.seed + 1000 * SPLITS.index(split),
                precision=measuring_precision(context.config.trainer),
                device=context.device,
            )
        out.tensors(split, {"packed": packed.to(_STORED[geo.metric])})


def posterior_of(latents: dict[str, Tensor], objective: VaeObjective) -> Tensor:
    """Packed metrics (N*h*w, d(d+1)/2) read from the variances of a split's latents."""
    return posterior_metrics(latents["log_variance"], scale=float(objective.controller.beta) / 2)


def load_metric_tensors(artifact: Artifact, split: str) -> Tensor:
    """Packed metrics (N*h*w, d(d+1)/2) of a split, as they are stored: fp32 or bf16."""
    return artifact.tensors(split)["packed"]


def metric_tensors_of(inputs: Inputs, split: str) -> Tensor:
    """The same of any split, from the stage that has it."""
    return load_metric_tensors(inputs["metric_tensors" if split == "train" else "metric_tensors_held_out"], split)


def _settings(config: Config) -> dict[str, Any]:
    geo = config.geo
    sketched = {"n_probes": geo.n_probes, "seed": geo.seed} if geo.metric == "sketch" else {}
    return {"metric": geo.metric, **sketched}


STAGE = Stage(
    name="metric_tensors",
    inputs=lambda config: (autoencoder_stage(config), "latents"),
    settings=_settings,
    build=lambda context, inputs, out: _measure(context, inputs, out, ("train",)),
)

HELD_OUT = Stage(
    name="metric_tensors_held_out",
    inputs=lambda config: (autoencoder_stage(config), "latents"),
    settings=_settings,
    build=lambda context, inputs, out: _measure(context, inputs, out, ("validation", "test")),
)
