"""graph -> codebook: fit the quantizer on all training tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from geovq.configuration.section import blamed
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.metric_tensors import load_metric_tensors, posterior_of
from geovq.pipeline.stages.vae import load_vae

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.pipeline.artifacts import ArtifactWriter
    from geovq.quantizers import CodebookEstimator


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Fit; write the state, the rule of assignment and the history of the cost."""
    config = context.config
    quantizer = config.quantizer.make(device=str(context.device))
    latents = inputs["latents"].tensors("train")
    metrics = None
    if config.reads_posterior:
        metrics = posterior_of(latents, load_vae(inputs["vae"], config, context.info, context.device))
    elif config.reads_metric_tensors:
        metrics = load_metric_tensors(inputs["metric_tensors"], "train")
    with blamed(quantizer, "fit"):
        quantizer.fit(
            tokens_of(latents["mean"]).numpy(),
            metrics=metrics,
            graph=load_graph(inputs["graph"]) if config.reads_graph else None,
        )
    history = quantizer.cost_history_.tolist()
    for step, cost in enumerate(history):
        context.log("codebook", {"cost": cost}, step)
    out.tensors("state", {name: torch.from_numpy(array) for name, array in quantizer.get_state().items()})
    out.json("history", [{"step": step, "cost": cost} for step, cost in enumerate(history)])
    out.json(
        "summary",
        {"rule": quantizer.rule, "inertia": float(quantizer.inertia_), "iterations": int(quantizer.n_iter_)},
    )


def load_quantizer(inputs: Inputs, config: Config, device: torch.device) -> CodebookEstimator:
    """The fitted quantizer, with its graph where it needs one, which predicts on ``device`` where it can."""
    state = {name: tensor.numpy() for name, tensor in inputs["codebook"].tensors("state").items()}
    owner = type(config.quantizer).owner
    with blamed(owner, "from_state"):
        quantizer: CodebookEstimator = owner.from_state(
            state, graph=load_graph(inputs["graph"]) if config.reads_graph else None
        )
    if "device" in owner._get_param_names():
        quantizer.set_params(device=str(device))
    return quantizer


def _inputs(config: Config) -> tuple[str, ...]:
    return (
        *(("vae",) if config.reads_posterior else ()),
        "latents",
        *(("metric_tensors",) if config.reads_metric_tensors else ()),
        *(("graph",) if config.reads_graph else ()),
    )


STAGE = Stage(
    name="codebook",
    inputs=_inputs,
    settings=lambda config: config.quantizer.model_dump(),
    build=build,
    applies=lambda config: not config.is_joint,
    classes=lambda config: ("quantizer",),
    schema=2,
)
