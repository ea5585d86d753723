"""graph -> codebook: fit the quantizer on all training tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.graph import load_graph
from geovq.quantizers import Quantizer, make_quantizer, quantizer_class

if TYPE_CHECKING:
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter
    from geovq.pipeline.config import Config


def needs_graph(config: Config) -> bool:
    """Whether the quantizer reads the graph: its key then depends on it, and else not."""
    return quantizer_class(config.quantizer.name).needs_graph


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Fit; write the state, the rule of assignment and the history of the cost."""
    config = context.config.quantizer
    settings = config.model_dump(exclude={"name", "K", "seed"})
    quantizer = make_quantizer(config.name, n_codes=config.K, random_state=config.seed, **settings)
    graph = load_graph(inputs["graph"]) if quantizer.needs_graph else None
    tokens = tokens_of(inputs["latents"].tensors("train")["mean"]).numpy()
    quantizer.fit(tokens, graph=graph)
    for step, cost in enumerate(quantizer.cost_history_.tolist()):
        context.log("codebook", {"cost": cost}, step)
    out.tensors("state", {name: torch.from_numpy(array) for name, array in quantizer.get_state().items()})
    out.json("history", [{"step": i, "cost": cost} for i, cost in enumerate(quantizer.cost_history_.tolist())])
    out.json(
        "summary",
        {"rule": quantizer.rule, "inertia": float(quantizer.inertia_), "iterations": int(quantizer.n_iter_)},
    )


def load_quantizer(inputs: Inputs, config: Config) -> Quantizer:
    """The fitted quantizer, with its graph where it needs one."""
    artifact: Artifact = inputs["codebook"]
    state = {name: tensor.numpy() for name, tensor in artifact.tensors("state").items()}
    graph = load_graph(inputs["graph"]) if needs_graph(config) else None
    return quantizer_class(config.quantizer.name).from_state(state, graph=graph)


STAGE = Stage(
    name="codebook",
    inputs=lambda config: ("latents", "graph") if needs_graph(config) else ("latents",),
    settings=lambda config: config.quantizer.model_dump(),
    build=build,
)
