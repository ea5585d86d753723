"""latents -> metrics: the metric tensor of every token, in its own image and position.

Those of validation and test tokens are a stage of their own, asked for only where codes are assigned with them.
Sketches draw other probes for every split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from geovq.geometry.metric import posterior_metrics, token_metrics
from geovq.geometry.symmetric import packed_size
from geovq.models.condition import slices
from geovq.pipeline.device import measuring_precision
from geovq.pipeline.stage import ArtifactWriter, Config, Context, Inputs, Stage
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder, of_split
from geovq.pipeline.stages.vae import load_vae

# Half the size on disk and in memory; the rounding, at most 2⁻⁸, is far below the error of a sketch.
_STORED = {"sketch": torch.bfloat16, "posterior": torch.bfloat16, "exact": torch.float32}


# Images whose posterior metrics are made at a time.
_IMAGES = 4_096


def _form(context: Context, inputs: Inputs, split: str) -> tuple[tuple[int, int], torch.dtype]:
    """Shape and type of the packed metrics of a split."""
    n_images, d, height, width = inputs["latents"].tensors(split)["mean"].shape
    return (n_images * height * width, packed_size(d)), _STORED[context.config.geo.metric]


def measured(context: Context, inputs: Inputs, split: str, result: Tensor | None = None) -> Tensor:
    """Packed metrics (N*h*w, d(d+1)/2) of a split as they are stored, fp32 or bf16; written to ``result`` if given."""
    geo = context.config.geo
    if result is None:
        shape, dtype = _form(context, inputs, split)
        result = torch.empty(shape, dtype=dtype)
    if geo.metric == "posterior":
        return posterior_of(context, inputs, split, result)
    return decoder_metrics(context, inputs, split, geo.metric, geo.seed + 1000 * SPLITS.index(split), result)


def decoder_metrics(
    context: Context, inputs: Inputs, split: str, method: Any, seed: int, result: Tensor | None = None
) -> Tensor:
    """Packed metrics (N*h*w, d(d+1)/2) of a split that the decoder is asked for, ``exact`` or by a ``sketch``."""
    return token_metrics(
        of_split(load_decoder(context, inputs), context, split),
        inputs["latents"].tensors(split)["mean"],
        method=method,
        n_probes=context.config.geo.n_probes,
        seed=seed,
        precision=measuring_precision(context.config.trainer),
        device=context.device,
        result=result,
    )


def posterior_of(context: Context, inputs: Inputs, split: str, result: Tensor | None = None) -> Tensor:
    """Packed metrics (N*h*w, d(d+1)/2) read from the variances of a split's latents, written to ``result`` if given."""
    beta = float(load_vae(context, inputs).controller.beta)
    log_variance = inputs["latents"].tensors(split)["log_variance"]
    if result is None:
        return posterior_metrics(log_variance, scale=beta / 2)
    per_image = result.view(len(log_variance), -1)
    for part in slices(len(log_variance), _IMAGES):
        here = per_image[part]
        here[:] = posterior_metrics(log_variance[part], scale=beta / 2).view(here.shape)
    return result


def load_metric_tensors(inputs: Inputs, split: str) -> Tensor:
    """Packed metrics (N*h*w, d(d+1)/2) of a split, from the stage that has it, as they are stored: fp32 or bf16."""
    stage = "metric_tensors" if split == "train" else "metric_tensors_held_out"
    return inputs[stage].tensors(split)["packed"]


def _settings(config: Config) -> dict[str, Any]:
    geo = config.geo
    sketched = {"n_probes": geo.n_probes, "seed": geo.seed} if geo.metric == "sketch" else {}
    return {"metric": geo.metric, **sketched}


def _stage(name: str, *splits: str) -> Stage:
    def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
        for split in splits:
            shape, dtype = _form(context, inputs, split)
            with out.written(split, {"packed": shape}, dtype) as tensors:
                measured(context, inputs, split, tensors["packed"])

    return Stage(
        name,
        lambda config: f"measuring the metric tensors of {' and '.join(splits)} tokens",
        build,
        lambda config: (autoencoder_stage(config), "latents"),
        _settings,
        on_ranks=lambda config: config.geo.metric in ("sketch", "exact"),
    )


STAGE = _stage("metric_tensors", "train")
HELD_OUT = _stage("metric_tensors_held_out", "validation", "test")
