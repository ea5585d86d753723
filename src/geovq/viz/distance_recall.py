"""Distance against recall of samples, over the ways of drawing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from geovq.viz.style import COLORS, plot_axes, write_beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def distance_recall_figure(rows: Sequence[Mapping[str, float]], title: str) -> Figure:
    """One line per guidance, one point per temperature; rows have ``frechet_distance`` and ``recall`` beside these."""
    figure, axes = plot_axes(title, "recall (higher is better)", "Fréchet distance (lower is better)")
    for number, guidance in enumerate(sorted({row["guidance"] for row in rows})):
        line = sorted((row for row in rows if row["guidance"] == guidance), key=lambda row: row["temperature"])
        points = [(row["recall"], row["frechet_distance"]) for row in line]
        recalls, distances = zip(*points, strict=True)
        color = COLORS[number % len(COLORS)]
        axes.plot(recalls, distances, "o-", markersize=5, linewidth=1.5, color=color, label=f"guidance {guidance:g}")
        for row, point in zip(line, points, strict=True):
            write_beside(axes, f"{row['temperature']:g}", point, (5, 4))
    axes.legend(frameon=False, fontsize=8, title="points: temperatures", title_fontsize=8)
    return figure
