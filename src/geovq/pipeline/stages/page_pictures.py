"""What the page of a run shows beyond scores, as bytes: codewords in context, and samples by temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.pipeline.stages.samples import to_bytes

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

_MOST_BYTES = 2 * 2**20
"""Of each array of images."""
_MOST_CODEWORDS, _MOST_CLASSES, _MOST_COLUMNS = 512, 20, 12


def codewords_in_context(run: EvaluatedRun) -> dict[str, Tensor] | None:
    """The codewords that test tokens use most, the most used first; None where tokens take too many values to list.

    Each is decoded ``alone``, the grid filled with it, and ``within`` the codes of a test image that uses it, of all
    uses the middle one: (n, C, H, W) bytes. ``code`` and ``count`` are (n,); ``place`` (n, 3) is the image, row and
    column in the ``grid`` (2,), -1 for a codeword that no token uses.
    """
    codewords = run.codec.whole_codewords()
    if codewords is None:
        return None
    codes = run.codec.join_codes(run.codes)  # (N, h, w)
    counts = torch.bincount(codes.flatten(), minlength=len(codewords))
    order = counts.argsort(descending=True, stable=True)[: _fitting(run.images, _MOST_CODEWORDS)]
    by_code = codes.flatten().argsort(stable=True)
    middle = (counts.cumsum(0) - counts + counts // 2)[order].clamp(max=len(by_code) - 1)
    place = torch.stack(torch.unravel_index(by_code[middle], codes.shape), dim=1)
    grids = codewords[order, :, None, None].expand(-1, -1, *codes.shape[1:])
    return {
        "code": order,
        "count": counts[order],
        "grid": torch.tensor(codes.shape[1:]),
        "place": place.where(counts[order, None] > 0, -1),
        "alone": to_bytes(run.decoded(grids)),
        "within": to_bytes(run.quantized[place[:, 0]]),
    }


def shown_samples(run: EvaluatedRun) -> dict[str, Tensor]:
    """Samples (n, C, H, W) in bytes at each temperature as ``temperature_<t>``, with ``labels`` (n,) (-1: no class);
    ``random_codes``, what decoding gives without a prior; ``real`` images.
    """
    sampled = run.inputs["samples"]
    drawn = {f"temperature_{t:g}": sampled.tensors(f"temperature_{t:g}") for t in run.config.samples.temperatures}
    labels = next(iter(drawn.values()))["labels"]
    columns = min(run.config.samples.per_class, _MOST_COLUMNS)
    classes = labels.unique()[: max(1, _fitting(run.images, _MOST_CLASSES * columns) // columns)]
    kept = torch.cat([(labels == label).nonzero().flatten()[:columns] for label in classes])
    images = {
        name: to_bytes(run.decoded(run.codec.embed(each["codes"][kept]), labels[kept])) for name, each in drawn.items()
    }
    real = torch.linspace(0, len(run.images) - 1, columns).long().unique()
    return images | {
        "labels": labels[kept],
        "random_codes": sampled.tensors("without_prior")["images"][:columns].clone(),
        "real": to_bytes(run.images[real]),
    }


def at_other_classes(run: EvaluatedRun, shown: Tensor) -> dict[str, Tensor]:
    """Test images ``shown`` (n,), and what their codes decode to: at their own class, at none, and at each there is.

    Rows (n, C, H, W) in [0, 1], the classes by name.
    """
    shown = shown[:_MOST_COLUMNS]
    latents, n = run.codec.embed(run.codes[shown]), len(shown)
    names = run.info.class_names[:_MOST_CLASSES]
    found = {"original": run.images[shown], "own class": run.quantized[shown], "no class": run.decoded(latents)}
    return found | {f"as {name}": run.decoded(latents, torch.full((n,), k)) for k, name in enumerate(names)}


def _fitting(images: Tensor, most: int) -> int:
    """How many images of this size are kept."""
    return max(1, min(most, _MOST_BYTES // images[0].numel()))
