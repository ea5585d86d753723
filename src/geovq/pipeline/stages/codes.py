"""codebook -> codes: every token of every image, by the one rule that the codebook names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.models.tokens import grids_of, tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.codebook import load_quantizer, needs_graph, needs_metrics
from geovq.pipeline.stages.latents import SPLITS
from geovq.pipeline.stages.metrics import load_metrics

if TYPE_CHECKING:
    import numpy as np

    from geovq.pipeline.artifacts import Artifact, ArtifactWriter
    from geovq.pipeline.config import Config


def needs_own_metrics(config: Config) -> bool:
    """Whether validation and test tokens are encoded with metrics of their own.

    With ``geo.context=neighbours`` a link to the graph is measured by the nodes' metrics alone.
    """
    if needs_graph(config):
        return config.geo.metric != "none" and config.geo.context == "own"
    return needs_metrics(config)


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Encode the three splits as grids of codes (N, h, w); write the codewords beside them."""
    quantizer = load_quantizer(inputs, context.config)
    for split in SPLITS:
        mean = inputs["latents"].tensors(split)["mean"]
        if split == "train":
            codes = quantizer.encode_training(tokens_of(mean).numpy())
        else:
            metrics = load_metrics(inputs["metrics_held_out"], split) if needs_own_metrics(context.config) else None
            codes = quantizer.predict(tokens_of(mean).numpy(), metrics)
        _check_total(codes, len(quantizer.cluster_centers_), split)
        grids = torch.from_numpy(codes).to(torch.int32).reshape(len(mean), *mean.shape[2:])
        out.tensors(split, {"codes": grids})
    out.tensors("codewords", {"codewords": torch.from_numpy(quantizer.cluster_centers_)})
    out.json("rule", quantizer.rule)


def _check_total(codes: np.ndarray, n_codes: int, split: str) -> None:
    """Every token has a code in [0, K): anything else is a fault of the program, not of the input."""
    if codes.min() < 0 or codes.max() >= n_codes:
        raise AssertionError(f"{split} codes reach from {codes.min()} to {codes.max()} with K={n_codes}")


def load_codes(artifact: Artifact, split: str) -> Tensor:
    """Codes (N, h, w) of a split."""
    return artifact.tensors(split)["codes"].long()


def load_codewords(artifact: Artifact) -> Tensor:
    """Codewords (K, d)."""
    return artifact.tensors("codewords")["codewords"]


def embed(codes: Tensor, codewords: Tensor) -> Tensor:
    """Latent grids (N, d, h, w) of codes (N, h, w)."""
    return grids_of(codewords[codes.reshape(-1)], (codes.shape[1], codes.shape[2]))


STAGE = Stage(
    name="codes",
    inputs=lambda config: (
        "latents",
        *(("metrics_held_out",) if needs_own_metrics(config) else ()),
        *(("graph",) if needs_graph(config) else ()),
        "codebook",
    ),
    settings=lambda config: {},
    build=build,
)
