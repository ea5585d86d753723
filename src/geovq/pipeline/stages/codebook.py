"""graph -> codebook: fit the quantizer on all training tokens."""

from __future__ import annotations

import sys
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from geovq.configuration.section import blamed
from geovq.geometry.computing import in_a_file, working_memory
from geovq.geometry.symmetric import packed_size
from geovq.models.tokens import tokens_of
from geovq.pipeline.checkpoint import Checkpoints
from geovq.pipeline.contracts import check_codebook
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage, those
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.metric_tensors import load_metric_tensors, posterior_of

if TYPE_CHECKING:
    from geovq.quantizers import CodebookEstimator


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Fit; write the state, the rule of assignment and the history of the cost."""
    config = context.config
    quantizer = config.quantizer.make(device=str(context.device), grid=(config.vae.grid, config.vae.grid))
    metrics = None
    if config.reads_posterior:
        mean = inputs["latents"].tensors("train")["mean"]
        shape = (mean.numel() // mean.shape[1], packed_size(mean.shape[1]))
        held = 4 * prod(shape) <= working_memory() / 2
        result = None if held else torch.from_numpy(in_a_file(shape, out.scratch))
        metrics = posterior_of(context, inputs, "train", result)
    elif config.reads_metric_tensors:
        metrics = load_metric_tensors(inputs, "train")
    graph = load_graph(inputs["graph"]) if config.reads_graph else None
    kept: dict[str, Any] = {}
    if quantizer.takes_checkpoints:
        kept["checkpoints"] = Checkpoints(out.scratch / "checkpoint.safetensors", config.trainer.checkpoint_seconds)
    with blamed(quantizer, "fit"):
        tokens = tokens_of(inputs["latents"].tensors("train")["mean"]).numpy()
        quantizer.fit(tokens, metrics=metrics, graph=graph, **kept)
        check_codebook(quantizer, config.quantizer.K, config.vae.dim)
        state = quantizer.get_state()
        type(quantizer).from_state(state, graph=graph)  # what is stored can be read again
    history = quantizer.cost_history_.tolist()
    if quantizer.takes_checkpoints and len(history) > 1 and not history[-1] < history[0]:
        told = "training gained nothing; codewords are those that it began with"
        print(f"remark: quantizer={config.quantizer.name}: {told}", file=sys.stderr)
    for step, cost in enumerate(history):
        context.log("codebook", {"cost": cost}, step)
    out.tensors("state", {name: torch.from_numpy(array) for name, array in state.items()})
    out.json("history", [{"step": step, "cost": cost} for step, cost in enumerate(history)])
    numbers = {"inertia": float(quantizer.inertia_), "iterations": int(quantizer.n_iter_)}
    out.json("summary", {"rule": quantizer.rule, **numbers})


def load_quantizer(context: Context, inputs: Inputs) -> CodebookEstimator:
    """The fitted quantizer, with its graph where it needs one, which predicts on the run's device where it can."""
    state = {name: tensor.numpy() for name, tensor in inputs["codebook"].tensors("state").items()}
    owner = type(context.config.quantizer).owner
    graph = load_graph(inputs["graph"]) if context.config.reads_graph else None
    with blamed(owner, "from_state"):
        quantizer: CodebookEstimator = owner.from_state(state, graph=graph)
    if "device" in owner._get_param_names():
        quantizer.set_params(device=str(context.device))
    return quantizer


STAGE = Stage(
    "codebook",
    lambda config: f"fitting the codebook, K = {config.quantizer.K:,}",
    build,
    lambda config: those(
        vae=config.reads_posterior, latents=True, metric_tensors=config.reads_metric_tensors, graph=config.reads_graph
    ),
    lambda config: config.quantizer.model_dump(),
    applies=lambda config: not config.is_joint,
    classes=lambda config: ("quantizer",),
    schema=2,
)
