"""metrics -> graph: the re-weighted neighbour graph of the training tokens; others attach to it when they are encoded.

With ``geo.context=neighbours`` a node has the mean metric of all that lie around it, with ``own`` that of its tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from geovq.geometry.edges import DecodedEdges
from geovq.geometry.graph import TokenGraph, build_graph
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Artifact, ArtifactWriter, Config, Context, Inputs, Stage, those
from geovq.pipeline.stages.metric_tensors import load_metric_tensors
from geovq.pipeline.stages.vae import load_vae


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Connect, weigh."""
    geo, device = context.config.geo, context.device
    mean = inputs["latents"].tensors("train")["mean"]
    asks = asks_decoder(context.config)
    graph = build_graph(
        tokens_of(mean).numpy(),
        None if geo.metric == "none" else load_metric_tensors(inputs, "train"),
        **geo.model_dump(include={"k", "symmetrize", "recall", "seed", "context", "search", "length"}),
        decoded=DecodedEdges(load_vae(context, inputs).decoder, mean, device=device) if asks else None,
        device=device,
        scratch=out.scratch,
    )
    out.tensors("graph", {name: torch.from_numpy(array) for name, array in graph.to_arrays().items()})
    out.json("graph", graph.attributes())


def asks_decoder(config: Config) -> bool:
    """Whether edges are measured by decoding, not by the metrics of their ends."""
    return config.geo.length != "trapezoid"


def load_graph(artifact: Artifact) -> TokenGraph:
    """The graph of the training tokens."""
    arrays = {name: tensor.numpy() for name, tensor in artifact.tensors("graph").items()}
    return TokenGraph.from_arrays(arrays, artifact.json("graph"))


def _settings(config: Config) -> dict[str, Any]:
    """Without metric tensors nothing depends on how they are measured or averaged."""
    unread = {"metric", "n_probes"} | ({"context"} if config.geo.metric == "none" else set())
    return config.geo.model_dump(exclude=unread)


STAGE = Stage(
    "graph",
    lambda config: "linking training tokens to their neighbours",
    build,
    lambda config: those(vae=asks_decoder(config), latents=True, metric_tensors=config.geo.metric != "none"),
    _settings,
    applies=lambda config: not config.is_joint,
    schema=2,
)
