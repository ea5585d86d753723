"""latents -> graph: metric tensors of every token, and the re-weighted neighbour graph of the training tokens.

The metric of a token is taken in its own image and position; with ``geo.context=neighbours`` a node of the graph
has the mean over all that lie around it. Validation and test tokens are not part of the graph. With
``geo.context=own`` their metrics are stored too, to measure how they attach to it when they are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.geometry.graph import TokenGraph, build_graph
from geovq.geometry.metric import posterior_metrics, token_metrics
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.vae import load_vae

if TYPE_CHECKING:
    from geovq.models.objective import VaeObjective
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter
    from geovq.pipeline.config import Geo


def metrics_of(
    latents: dict[str, Tensor], objective: VaeObjective, geo: Geo, device: torch.device, seed: int
) -> Tensor | None:
    """Packed metric tensors (N*h*w, d(d+1)/2) by the configured method, or None for ``geo.metric=none``."""
    if geo.metric == "none":
        return None
    if geo.metric == "posterior":
        return posterior_metrics(latents["log_variance"], scale=float(objective.controller.beta) / 2)
    return token_metrics(
        objective.vae.decoder,
        latents["mean"],
        method=geo.metric,
        n_probes=geo.n_probes,
        seed=seed,
        device=device,
    )


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Measure, connect, weigh."""
    geo = context.config.geo
    objective = load_vae(inputs["vae"], context.config, context.info, context.device)
    for offset, split in enumerate(SPLITS if geo.context == "own" else ("train",)):
        latents = inputs["latents"].tensors(split)
        metrics = metrics_of(latents, objective, geo, context.device, seed=geo.seed + 1000 * offset)
        if split == "train":
            graph = build_graph(
                tokens_of(latents["mean"]).numpy(),
                metrics,
                k=geo.k,
                symmetrize=geo.symmetrize,
                recall=geo.recall,
                seed=geo.seed,
                context=geo.context,
            )
            del metrics
            out.tensors("graph", {name: torch.from_numpy(array) for name, array in graph.to_arrays().items()})
            out.json("graph", graph.attributes())
        elif metrics is not None:
            out.tensors(f"metrics_{split}", {"packed": metrics})


def load_graph(artifact: Artifact) -> TokenGraph:
    """The graph of the training tokens."""
    arrays = {name: tensor.numpy() for name, tensor in artifact.tensors("graph").items()}
    return TokenGraph.from_arrays(arrays, artifact.json("graph"))


def load_metrics(artifact: Artifact, split: str) -> Tensor | None:
    """Packed metrics of validation or test tokens, or None where links are measured by the nodes' metrics alone."""
    name = f"metrics_{split}"
    return artifact.tensors(name)["packed"] if artifact.has(f"{name}.safetensors") else None


STAGE = Stage(
    name="graph",
    inputs=lambda config: ("vae", "latents"),
    settings=lambda config: config.geo.model_dump(),
    build=build,
)
