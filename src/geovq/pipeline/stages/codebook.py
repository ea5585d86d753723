"""graph -> codebook: fit the quantizer on all training tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.metrics import load_metrics, posterior_of
from geovq.pipeline.stages.vae import load_vae
from geovq.quantizers import Quantizer, make_quantizer, quantizer_class, quantizer_settings

if TYPE_CHECKING:
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter
    from geovq.pipeline.config import Config


def needs_graph(config: Config) -> bool:
    """Whether the quantizer reads the graph: its key then depends on it, and else not."""
    return quantizer_class(config.quantizer.name).needs_graph


def reads_posterior(config: Config) -> bool:
    """Whether the quantizer takes its metrics from the encoder, whatever ``geo.metric`` is."""
    return config.quantizer.name == "posterior"


def needs_metrics(config: Config) -> bool:
    """Whether the quantizer reads the tokens' metric tensors."""
    if hasattr(config.quantizer, "metric"):  # structured codebooks can do without
        return config.quantizer.metric == "pullback"
    return quantizer_class(config.quantizer.name).needs_metrics and not reads_posterior(config)


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Fit; write the state, the rule of assignment and the history of the cost."""
    config = context.config.quantizer
    quantizer = make_quantizer(config.name, **_settings_of(context))
    latents = inputs["latents"].tensors("train")
    metrics = None
    if reads_posterior(context.config):
        objective = load_vae(inputs["vae"], context.config, context.info, context.device)
        metrics = posterior_of(latents, objective)
    elif needs_metrics(context.config):
        metrics = load_metrics(inputs["metrics"], "train")
    quantizer.fit(
        tokens_of(latents["mean"]).numpy(),
        metrics=metrics,
        graph=load_graph(inputs["graph"]) if quantizer.needs_graph else None,
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


def _settings_of(context: Context) -> dict[str, Any]:
    """The quantizer's arguments: its own words for K and seed, and the device where it takes one."""
    config = context.config.quantizer
    settings = config.model_dump(exclude={"name", "K", "seed"}) | {"n_codes": config.K, "random_state": config.seed}
    if "device" in quantizer_settings(config.name):
        settings["device"] = str(context.device)
    return settings


def load_quantizer(inputs: Inputs, config: Config, device: torch.device) -> Quantizer:
    """The fitted quantizer, with its graph where it needs one, which predicts on ``device`` where it can."""
    artifact: Artifact = inputs["codebook"]
    state = {name: tensor.numpy() for name, tensor in artifact.tensors("state").items()}
    graph = load_graph(inputs["graph"]) if needs_graph(config) else None
    quantizer = quantizer_class(config.quantizer.name).from_state(state, graph=graph)
    if "device" in quantizer_settings(config.quantizer.name):
        quantizer.set_params(device=str(device))
    return quantizer


def _inputs(config: Config) -> tuple[str, ...]:
    return (
        *(("vae",) if reads_posterior(config) else ()),
        "latents",
        *(("metrics",) if needs_metrics(config) else ()),
        *(("graph",) if needs_graph(config) else ()),
    )


STAGE = Stage(
    name="codebook",
    inputs=_inputs,
    settings=lambda config: config.quantizer.model_dump(),
    build=build,
    applies=lambda config: not config.is_joint,
    schema=2,
)
