"""The pictures of a report: reconstructions, use of the codes, the decoded codebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.evaluation import codebook as codebook_metrics
from geovq.pipeline.stage import Context, Inputs
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import final_codes
from geovq.pipeline.stages.samples import to_bytes

if TYPE_CHECKING:
    from geovq.pipeline.artifacts import ArtifactWriter

_MOST_SHOWN = 4096
"""Codewords that a picture of the codebook can show."""


def draw_report(
    context: Context,
    inputs: Inputs,
    out: ArtifactWriter,
    images: Tensor,
    continuous: Tensor | None,
    quantized: Tensor,
    decoder: nn.Module,
) -> None:
    """Reconstructions on fixed indices, which are kept as bytes too; usage; the decoded codebook."""
    from geovq import viz

    # Evenly spaced, since some sets are stored class by class.
    shown = torch.linspace(0, len(images) - 1, context.config.evaluation.n_figure_images).long().unique()
    pictures = {"original": images[shown], "quantized": quantized[shown]}
    if continuous is not None:
        pictures["continuous"] = continuous[shown]
    labels = {"continuous": "without quantizer" if context.config.is_joint else "VAE"}
    order = [name for name in ("original", "continuous", "quantized") if name in pictures]
    rows = {labels.get(name, name): pictures[name] for name in order}
    out.figure("reconstructions", viz.reconstruction_figure(rows))
    out.tensors("pictures", {"index": shown} | {name: to_bytes(value) for name, value in pictures.items()})
    codec = load_codec(final_codes(inputs))
    _, histogram = codebook_metrics.usage_of_streams(codec.streams(load_codes(final_codes(inputs), "test")))
    out.figure("usage", viz.usage_figure(histogram))
    codewords = codec.whole_codewords()
    if codewords is not None and len(codewords) <= _MOST_SHOWN:
        # Each codeword as an image: the grid filled with it, decoded.
        filled = codewords[:, :, None, None].expand(-1, -1, *codec.levels[0].grid)
        out.figure("codebook", viz.codebook_figure(decode(decoder, filled, context.device), histogram))
