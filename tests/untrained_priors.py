"""Untrained priors whose logits differ as those of trained ones do."""

from __future__ import annotations

from typing import Any

import torch

from geovq.models.autoregressive_prior import AutoregressivePrior
from geovq.models.code_layout import CodeLayout
from geovq.models.codec import Codec, stacked_codec


def made(sizes: tuple[int, ...] = (11,), classes: int = 3, grid: tuple[int, int] = (2, 3), **settings: Any) -> Any:
    """A prior over a grid whose tokens have slots of these sizes."""
    generator = torch.Generator().manual_seed(5)
    tables = [torch.randn(size, 4, generator=generator) for size in sizes]
    codec: Codec = stacked_codec(tables, grid)
    levels = ((*grid, len(sizes)),)
    layout = CodeLayout(max(sizes), codec.shape, classes, sizes=codec.sizes, levels=levels)
    torch.manual_seed(6)
    prior = AutoregressivePrior(layout, 2, 16, 2, 0.0, codec=codec, **settings)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(4).add_(0.1 * torch.randn_like(parameter))
    return prior.eval()


def codes_of(prior: Any, n: int, seed: int = 0) -> torch.Tensor:
    """Codes (n, L) drawn from the prior, of classes in turn."""
    labels = torch.arange(n) % max(1, prior.layout.n_classes) if prior.layout.n_classes else torch.full((n,), -1)
    drawn = prior.sample(prior.layout.start_ids(labels, n), seed=seed)
    return drawn.flatten(1)
