"""metrics -> graph: the re-weighted neighbour graph of the training tokens.

With ``geo.context=neighbours`` a node has the mean metric of all that lie around it, with ``own`` that of its own
tokens. Validation and test tokens are not part of the graph: they attach to it when they are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from geovq.geometry.edges import DecodedEdges
from geovq.geometry.graph import TokenGraph, build_graph
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.metric_tensors import load_metric_tensors
from geovq.pipeline.stages.vae import load_vae

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Connect, weigh."""
    geo = context.config.geo
    mean = inputs["latents"].tensors("train")["mean"]
    decoded = None
    if asks_decoder(context.config):
        decoder = load_vae(inputs["vae"], context.config, context.info, context.device).decoder
        decoded = DecodedEdges(decoder, mean, device=context.device)
    graph = build_graph(
        tokens_of(mean).numpy(),
        None if geo.metric == "none" else load_metric_tensors(inputs["metric_tensors"], "train"),
        k=geo.k,
        symmetrize=geo.symmetrize,
        recall=geo.recall,
        seed=geo.seed,
        context=geo.context,
        search=geo.search,
        length=geo.length,
        decoded=decoded,
        device=context.device,
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
    return config.geo.model_dump(
        exclude={"metric", "n_probes"} | ({"context"} if config.geo.metric == "none" else set())
    )


STAGE = Stage(
    name="graph",
    inputs=lambda config: (
        *(("vae",) if asks_decoder(config) else ()),
        "latents",
        *(("metric_tensors",) if config.geo.metric != "none" else ()),
    ),
    settings=_settings,
    build=build,
    applies=lambda config: not config.is_joint,
    schema=2,
)
