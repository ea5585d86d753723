"""Pictures of a codebook: what its codewords decode to, and how often they are used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from geovq.errors import InputError
from geovq.viz.grids import image_grid
from geovq.viz.style import COLORS, FAINT, plot_axes, write_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def codebook_figure(decoded: Tensor, counts: Tensor, title: str = "Decoded codewords", limit: int = 512) -> Figure:
    """Decoded codewords as at most ``limit`` tiles, the most used first; unused ones at the end, framed red.

    ``decoded`` (K, C, H, W) in [0, 1] is the image or patch that each code alone decodes to, ``counts`` (K,) how often
    each code is used. Raises InputError for another number of counts than of images.
    """
    n_codes = len(decoded)
    if counts.shape != (n_codes,) or n_codes == 0:
        raise InputError(f"{tuple(counts.shape)} counts for {n_codes} decoded codewords: give one each")
    order = counts.cpu().argsort(descending=True, stable=True)[:limit]
    ranked = counts.cpu()[order]
    n_shown = len(order)
    height, width = decoded.shape[2:]
    scale = max(1, round(28 / max(height, width)))
    # about twice as wide as high
    cols = min(n_shown, max(8, math.ceil(math.sqrt(2 * n_shown * height / width) / 8) * 8))
    rows = math.ceil(n_shown / cols)
    unused = int((counts == 0).sum())
    caption = f"{n_codes} codewords, the most used first, {cols} per row."
    caption += f" The first {n_shown} are shown." * (n_shown < n_codes)
    caption += f" {unused} unused" + (", framed red." if (ranked == 0).any() else ".")
    return image_grid(
        decoded[order.to(decoded.device)],
        rows,
        cols,
        row_labels=[str(1 + row * cols) for row in range(rows)],
        title=title,
        caption=caption,
        scale=scale,
        gap=3,
        framed=(ranked == 0).nonzero().flatten().tolist(),
    )


def usage_figure(histogram: Tensor) -> Figure:
    """Share of tokens per code, the most used first, beside the share that even use would give.

    ``histogram`` (K,) counts the tokens of each code. Raises InputError where no code was used.
    """
    from geovq.evaluation.codebook import usage_of_histogram

    if histogram.ndim != 1 or int(histogram.sum()) == 0:
        raise InputError(f"histogram of shape {tuple(histogram.shape)}: give (K,) counts, not all zero")
    n_codes = len(histogram)
    metrics = usage_of_histogram(histogram)
    share = np.sort(histogram.cpu().double().numpy() / int(histogram.sum()))[::-1]
    summary = (
        f"K = {n_codes}, {metrics['active_codes']:.0f} active, perplexity {metrics['perplexity']:.1f}, "
        f"{metrics['entropy_bits_per_token']:.2f} bits per token"
    )
    figure, axes = plot_axes(f"Use of codes\n{summary}", "code, by rank of use", "share of tokens")
    used = share[share > 0]
    base = used[-1] / 2
    axes.stairs(used, 0.5 + np.arange(len(used) + 1), baseline=base, fill=True, color=COLORS[0])
    axes.axhline(1 / n_codes, color=FAINT, linewidth=1, linestyle="--")
    write_beside(axes, "even use, 1/K", (n_codes, 1 / n_codes), (0, 3), ha="right")
    axes.set_yscale("log")
    axes.set_ylim(bottom=base)
    axes.set_xlim(0.5, n_codes + 0.5)
    return figure
