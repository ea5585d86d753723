"""PSNR against bits per image: a line per method, ceilings, and a reference curve where it is comparable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geovq.errors import InputError
from geovq.viz.legend import legend_labels
from geovq.viz.style import COLORS, DPI, FAINT, INK, SMALL_SIZE, TITLE_SIZE, plain

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X"
_WIDE_RANGE = 8.0
"""Rates that differ by more than this factor stand on a logarithmic axis."""

_PANEL_INCHES = 5.2
_DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (10, 3)), (0, (1, 4)))


@dataclass(frozen=True)
class RatePoint:
    """A measured point: bits per image, PSNR in dB, and standard errors (None where there is one seed)."""

    bits: float
    psnr: float
    psnr_error: float | None = None
    bits_error: float | None = None


@dataclass(frozen=True)
class RatePanel:
    """One kind of PSNR, which alone stands on an axis.

    Attributes:
        y_label: with its unit.
        series: points of each method, joined in the order of their bits.
        ceilings: of an autoencoder one point, drawn as a horizontal line; or a point for each rate that it was
            trained for, joined to a curve.
        references: label to (bits, dB) of a curve that this kind of PSNR compares with.
    """

    y_label: str
    series: Mapping[str, Sequence[RatePoint]]
    ceilings: Mapping[str, Sequence[RatePoint]]
    references: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def rate_distortion_figure(panels: Sequence[RatePanel], x_label: str, title: str = "") -> Figure:
    """Panels side by side with one legend below, which makes the figure as high as it needs and breaks long labels.

    Args:
        panels: all with the same methods, so that colours mean the same.
        x_label: with its unit.
        title: above the panels.

    Raises:
        InputError: no panel, or one without a point.
    """
    from matplotlib.figure import Figure

    if not panels or not all(any(panel.series.values()) for panel in panels):
        raise InputError("rate_distortion_figure was given no points: give a panel with at least one")
    labels = dict.fromkeys(label for panel in panels for label in (*panel.ceilings, *panel.references, *panel.series))
    width = _PANEL_INCHES * len(panels)
    entries, n_columns = legend_labels(list(labels), width)
    n_lines = sum(text.count("\n") + 1 for text in entries) / n_columns
    figure = Figure(figsize=(width, 4.2 + 0.2 * math.ceil(n_lines)), dpi=DPI, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=TITLE_SIZE, color=INK, x=0.01, ha="left", parse_math=False)
    handles: dict[str, Artist] = {}
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        _draw(axes, panel, x_label)
        artists, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, artists, strict=True))
    legend = figure.legend(
        handles=[handles[label] for label in labels],
        labels=entries,
        loc="outside lower left",
        fontsize=SMALL_SIZE,
        frameon=False,
        ncols=n_columns,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(axes: Axes, panel: RatePanel, x_label: str) -> None:
    plain(axes, "", x_label, panel.y_label)
    for index, (label, points) in enumerate(panel.ceilings.items()):
        style = {"color": INK, "linewidth": 1.0, "linestyle": _DASHES[index % len(_DASHES)], "label": label}
        if len(points) == 1:
            axes.axhline(points[0].psnr, **style)
        else:
            _curve(axes, points, marker=".", markersize=6, capsize=2, **style)
    for label, (bits, levels) in panel.references.items():
        axes.plot(bits, levels, color=FAINT, linewidth=1.5, linestyle=":", label=label)
    for index, (label, points) in enumerate(panel.series.items()):
        _curve(
            axes,
            points,
            color=COLORS[index % len(COLORS)],
            # colours repeat after seven series: the dashes tell them apart
            linestyle=("-", "--", ":")[index // len(COLORS) % 3],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            linewidth=1.5,
            capsize=3,
            label=label,
        )
    rates = [point.bits for points in panel.series.values() for point in points]
    if min(rates) > 0 and max(rates) > _WIDE_RANGE * min(rates):
        axes.set_xscale("log", base=2)


def _curve(axes: Axes, points: Sequence[RatePoint], **style: Any) -> None:
    ordered = sorted(points, key=lambda point: point.bits)
    axes.errorbar(
        [point.bits for point in ordered],
        [point.psnr for point in ordered],
        yerr=_bars([point.psnr_error for point in ordered]),
        xerr=_bars([point.bits_error for point in ordered]),
        **style,
    )


def _bars(errors: Sequence[float | None]) -> list[float] | None:
    """Lengths of error bars; None where no point has one, so that not even caps are drawn."""
    return [math.nan if error is None else error for error in errors] if any(errors) else None
