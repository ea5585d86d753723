"""How much each direction of the latents does: to the decoder, to the rate, and where on the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from geovq.errors import InputError
from geovq.viz.style import COLORS, FAINT, INK, SMALL_SIZE, new_figure, plain, write_beside

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
    _check("eigenvalues", eigenvalues, "(d,)")
    if float(eigenvalues.max()) <= 0:
        raise InputError("all eigenvalues are zero or below: there is no spectrum to draw")
    if kl_per_dimension is not None:
        _check("kl_per_dimension", kl_per_dimension, "(d,)")
    if kl_per_position is not None:
        _check("kl_per_position", kl_per_position, "(h, w)")
        kl_per_position = kl_per_position if kl_per_position.numel() > 1 else None
    panels = 1 + (kl_per_dimension is not None) + (kl_per_position is not None)
    figure = new_figure(4.4 * panels, 3.6, title)
    _draw_eigenvalues(figure.add_subplot(1, panels, 1), eigenvalues)
    if kl_per_dimension is not None:
        _draw_divergence(figure.add_subplot(1, panels, 2), kl_per_dimension, active_above)
    if kl_per_position is not None:
        _draw_map(figure.add_subplot(1, panels, panels), kl_per_position)
    return figure


def _draw_eigenvalues(axes: Axes, eigenvalues: Tensor) -> None:
    ranked = _ranked(eigenvalues)
    # participation ratio: d for equal eigenvalues, 1 for a single one
    effective = ranked.clip(min=0).sum() ** 2 / (ranked**2).sum()
    title = f"mean metric: effective dimension {effective:.1f} of {len(ranked)}"
    plain(axes, title, "eigenvalue, by rank", "pixel² per latent²")
    _draw_ranked(axes, ranked, len(ranked))


def _draw_divergence(axes: Axes, bits: Tensor, active_above: float) -> None:
    ranked = _ranked(bits)
    active = int((ranked > active_above).sum())
    title = f"KL: {ranked.sum():.2f} bits per token, {active} of {len(ranked)} active"
    plain(axes, title, "dimension, by rank", "bits per token")
    _draw_ranked(axes, ranked, active)
    if active_above > 0:
        axes.axhline(active_above, color=FAINT, linewidth=1, linestyle="--")
        text = f"dead: {active_above:g} bits or less"
        write_beside(axes, text, (1, active_above), (0, -3), va="top")


def _ranked(values: Tensor) -> np.ndarray:
    return np.sort(values.detach().cpu().double().numpy())[::-1]


def _draw_ranked(axes: Axes, ranked: np.ndarray, n_active: int) -> None:
    """Values by rank on a log axis, those behind the active ones faint."""
    rank = np.arange(1, len(ranked) + 1)
    axes.set_xticks(rank if len(ranked) <= 20 else np.unique(np.linspace(1, len(ranked), 9).astype(int)))
    drawn = np.maximum(ranked, max(_LEAST_SHARE * ranked[0], np.finfo(np.float64).tiny))
    for color, part in ((COLORS[0], slice(n_active)), (FAINT, slice(n_active, None))):
        if len(rank[part]):
            axes.plot(rank[part], drawn[part], color=color, linewidth=1.5, marker="o", markersize=4)
    axes.set_yscale("log")


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


def _check(name: str, values: Tensor, wanted: str) -> None:
    n_dimensions = {"(d,)": 1, "(h, w)": 2}[wanted]
    if values.ndim != n_dimensions or values.numel() == 0 or not bool(values.isfinite().all()):
        raise InputError(f"{name} of shape {tuple(values.shape)}: give finite {wanted}, not empty")
