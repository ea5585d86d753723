"""How much each direction of the latents does: to the decoder, to the rate, and where on the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from geovq.errors import InputError
from geovq.viz.style import COLORS, DPI, FAINT, INK, SMALL_SIZE, TITLE_SIZE, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NUMBERED = 64
"""Positions of a grid that have room for their number."""
_LEAST_SHARE = 1e-9
"""Of the largest value: what is below, or below zero by rounding, is drawn here, since a log axis has no zero."""


def spectrum_figure(
    eigenvalues: Tensor,
    kl_per_dimension: Tensor | None = None,
    kl_per_position: Tensor | None = None,
    active_above: float = 0.0,
    title: str = "What the directions of the latents do",
) -> Figure:
    """Eigenvalues of the mean metric beside the KL divergence per dimension, largest first, and its map over the grid.

    Directions and dimensions are ranked on their own: the first of one need not be the first of the other.

    Args:
        eigenvalues: (d,) of the mean metric, in pixel² per squared latent unit, in any order.
        kl_per_dimension: (d,) bits per token, in any order; None where there is no posterior.
        kl_per_position: (h, w) bits per token; left out where it is None or a single position.
        active_above: bits; dimensions with no more are drawn faint and counted as dead.
        title: above the panels.

    Raises:
        InputError: other shapes, values that are not finite, or no eigenvalue above zero.
    """
    from matplotlib.figure import Figure

    _check("eigenvalues", eigenvalues, 1)
    if float(eigenvalues.max()) <= 0:
        raise InputError("all eigenvalues are zero or below: there is no spectrum to draw")
    panels = 1
    if kl_per_dimension is not None:
        _check("kl_per_dimension", kl_per_dimension, 1)
        panels += 1
    if kl_per_position is not None:
        _check("kl_per_position", kl_per_position, 2)
        panels += kl_per_position.numel() > 1
    figure = Figure(figsize=(4.4 * panels, 3.6), dpi=DPI, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=TITLE_SIZE, color=INK, x=0.01, ha="left", parse_math=False)
    _draw_eigenvalues(figure.add_subplot(1, panels, 1), eigenvalues)
    if kl_per_dimension is not None:
        _draw_divergence(figure.add_subplot(1, panels, 2), kl_per_dimension, active_above)
    if kl_per_position is not None and kl_per_position.numel() > 1:
        _draw_map(figure.add_subplot(1, panels, panels), kl_per_position)
    return figure


def _draw_eigenvalues(axes: Axes, eigenvalues: Tensor) -> None:
    ranked = eigenvalues.detach().cpu().double().sort(descending=True).values
    # participation ratio: d for equal eigenvalues, 1 for a single one
    effective = float(ranked.clamp(min=0).sum().square() / ranked.square().sum())
    plain(
        axes,
        f"mean metric: effective dimension {effective:.1f} of {len(ranked)}",
        "eigenvalue, by rank",
        "pixel² per latent²",
    )
    rank = _ranks(axes, len(ranked))
    drawn = ranked.clamp(min=_LEAST_SHARE * float(ranked[0])).numpy()
    axes.plot(rank, drawn, color=COLORS[0], linewidth=1.5, marker="o", markersize=4)
    axes.set_yscale("log")


def _draw_divergence(axes: Axes, bits: Tensor, active_above: float) -> None:
    ranked = bits.detach().cpu().double().sort(descending=True).values.numpy()
    active = int((ranked > active_above).sum())
    plain(
        axes,
        f"KL: {ranked.sum():.2f} bits per token, {active} of {len(ranked)} active",
        "dimension, by rank",
        "bits per token",
    )
    rank = _ranks(axes, len(ranked))
    drawn = np.maximum(ranked, max(_LEAST_SHARE * ranked[0], np.finfo(np.float64).tiny))
    axes.plot(rank[:active], drawn[:active], color=COLORS[0], linewidth=1.5, marker="o", markersize=4)
    axes.plot(rank[active:], drawn[active:], color=FAINT, linewidth=1.5, marker="o", markersize=4)
    axes.set_yscale("log")
    if active_above > 0:
        axes.axhline(active_above, color=FAINT, linewidth=1, linestyle="--")
        axes.annotate(
            f"dead: {active_above:g} bits or less",
            (rank[0], active_above),
            xytext=(0, -3),
            textcoords="offset points",
            va="top",
            fontsize=SMALL_SIZE,
            color=FAINT,
        )


def _draw_map(axes: Axes, bits: Tensor) -> None:
    values = bits.detach().cpu().double().numpy()
    plain(axes, f"KL by position: {values.min():.1f} to {values.max():.1f} bits", "column", "row")
    axes.grid(False)
    # From zero, so that an even map looks even.
    picture = axes.imshow(values, cmap="Blues", vmin=0, vmax=max(float(values.max()), 1e-9))
    axes.set_xticks(np.arange(values.shape[1]))
    axes.set_yticks(np.arange(values.shape[0]))
    if values.size > _MOST_NUMBERED:
        bar = axes.figure.colorbar(picture, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=SMALL_SIZE, colors=INK)
        return
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value > 0.6 * values.max() else INK
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=SMALL_SIZE, color=ink)


def _ranks(axes: Axes, n: int) -> np.ndarray:
    rank = np.arange(1, n + 1)
    axes.set_xticks(rank if n <= 20 else np.unique(np.linspace(1, n, 9).astype(int)))
    return rank


def _check(name: str, values: Tensor, dimensions: int) -> None:
    if values.ndim != dimensions or values.numel() == 0 or not bool(values.isfinite().all()):
        wanted = "(d,)" if dimensions == 1 else "(h, w)"
        raise InputError(f"{name} of shape {tuple(values.shape)}: give finite {wanted}, not empty")
