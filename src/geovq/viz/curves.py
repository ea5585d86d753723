"""Curves over steps or rates, and spectra of metric tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from geovq.errors import InputError
from geovq.viz.style import COLORS, LABEL_SIZE, SMALL_SIZE, plot_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOKENS_IN_SPECTRUM = 100_000
"""Quantiles are stable long before: larger sets are thinned evenly."""


def curves_figure(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str = "step",
    y_label: str = "",
    title: str = "",
    log_y: bool = False,
) -> Figure:
    """Named curves in one axes.

    Args:
        series: name to (x values, y values), of equal length; points that are not finite leave gaps.
        x_label: with its unit.
        y_label: with its unit.
        title: above the axes.
        log_y: logarithmic y axis.

    Raises:
        InputError: no series, or one whose x and y differ in length or are empty.
    """
    if not series:
        raise InputError("curves_figure was given no series: give at least one")
    figure, axes = plot_axes(title, x_label, y_label)
    for index, (name, (x, y)) in enumerate(series.items()):
        if len(x) != len(y) or len(x) == 0:
            raise InputError(f"series {name!r} has {len(x)} x and {len(y)} y values: give equal numbers above 0")
        # colours repeat after seven series: the dashes tell them apart
        style = ("-", "--", ":")[index // len(COLORS) % 3]
        marker = "o" if len(x) <= 20 else None
        axes.plot(
            x,
            y,
            color=COLORS[index % len(COLORS)],
            linestyle=style,
            linewidth=1.5,
            marker=marker,
            markersize=4,
            label=name,
        )
    if log_y:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(fontsize=SMALL_SIZE, frameon=False)
    else:
        axes.set_ylabel(y_label or next(iter(series)), fontsize=LABEL_SIZE)
    return figure


def spectrum_figure(
    eigenvalues: Tensor, title: str = "Spectrum of the metric tensors", unit: str = "pixel² / latent²"
) -> Figure:
    """Eigenvalues of metric tensors, largest first: their median over tokens and the middle 80 %.

    Args:
        eigenvalues: (T, d) in any order per token, or (d,) of a single tensor; none below zero but for
            rounding.
        title: above the axes.
        unit: of the eigenvalues.

    Raises:
        InputError: another shape, or no token.
    """
    if eigenvalues.ndim not in (1, 2) or eigenvalues.numel() == 0 or not bool(eigenvalues.isfinite().all()):
        raise InputError(f"eigenvalues of shape {tuple(eigenvalues.shape)}: give finite (T, d) or (d,)")
    values = eigenvalues.detach().cpu().reshape(-1, eigenvalues.shape[-1])
    values = values[:: max(1, len(values) // _TOKENS_IN_SPECTRUM)].double()
    ranked = values.sort(dim=1, descending=True).values
    low, median, high = np.quantile(ranked.numpy(), [0.1, 0.5, 0.9], axis=0)
    rank = np.arange(1, ranked.shape[1] + 1)
    figure, axes = plot_axes(title, "eigenvalue, by rank", f"size ({unit})")
    smallest = max(float(high.max()) * 1e-9, np.finfo(np.float64).tiny)  # zeros have no place on a log axis
    median, low, high = (np.maximum(curve, smallest) for curve in (median, low, high))
    axes.plot(rank, median, color=COLORS[0], linewidth=1.5, marker="o", markersize=4, label="median of tokens")
    if len(values) > 1:
        axes.fill_between(rank, low, high, color=COLORS[0], alpha=0.2, linewidth=0, label="10 % to 90 %")
        axes.legend(fontsize=SMALL_SIZE, frameon=False)
    axes.set_yscale("log")
    axes.set_xticks(rank if len(rank) <= 20 else np.unique(np.linspace(1, len(rank), 9).astype(int)))
    # participation ratio: d for equal eigenvalues, 1 for a single one
    total, squares = values.clamp(min=0).sum(1), values.square().sum(1)
    effective = float((total.square() / squares.clamp(min=np.finfo(np.float64).tiny)).median())
    text = f"effective dimension {effective:.1f} of {len(rank)}\n(participation ratio, median)"
    axes.text(0.02, 0.03, text, transform=axes.transAxes, ha="left", va="bottom", fontsize=LABEL_SIZE)
    return figure
