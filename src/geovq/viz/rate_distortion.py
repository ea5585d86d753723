"""PSNR against bits per image: a line per method, unquantized reconstructions, and a reference curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geovq.errors import InputError
from geovq.viz.style import COLORS, FAINT, INK, SMALL_SIZE, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X"
_WIDE_RANGE = 8.0
"""Rates that differ by more than this factor stand on a logarithmic axis."""

_PANEL_INCHES = 5.2
_DASHES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (10, 3)), (0, (1, 4)))

_BESIDE = 5.0 * SMALL_SIZE
"""Points that a column of the legend takes beside its text: handle, paddings, and the gap to the next one."""

_HINTING = 1.05
"""Letters on a raster are up to this much wider than their outlines."""

_FEW = 6
"""So many labels stand below each other, however short they are."""


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

    ``series`` are the points of each method, joined in the order of their bits; ``unquantized`` is of an autoencoder
    one point, drawn as a horizontal line, or a point for each rate that it was trained for, joined to a curve;
    ``references`` are the (bits, dB) of curves that this kind of PSNR compares with.
    """

    y_label: str
    series: Mapping[str, Sequence[RatePoint]]
    unquantized: Mapping[str, Sequence[RatePoint]]
    references: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def rate_distortion_figure(panels: Sequence[RatePanel], x_label: str, title: str = "") -> Figure:
    """Panels side by side with one legend below, which makes the figure as high as it needs and breaks long labels.

    All panels have the same methods, so that colours mean the same. Raises InputError for no panel, or one without a
    point.
    """
    if not panels or not all(any(panel.series.values()) for panel in panels):
        raise InputError("rate_distortion_figure was given no points: give a panel with at least one")
    labels = dict.fromkeys(name for panel in panels for name in (*panel.unquantized, *panel.references, *panel.series))
    width = _PANEL_INCHES * len(panels)
    entries, n_columns = _legend_labels(list(labels), width)
    n_lines = sum(text.count("\n") + 1 for text in entries) / n_columns
    figure = new_figure(width, 4.2 + 0.2 * math.ceil(n_lines), title)
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
    for index, (label, points) in enumerate(panel.unquantized.items()):
        style = {"color": INK, "linewidth": 1.0, "linestyle": _DASHES[index % len(_DASHES)], "label": label}
        if len(points) == 1:
            axes.axhline(points[0].psnr, **style)
        else:
            _curve(axes, points, marker=".", markersize=6, capsize=2, **style)
    for label, (bits, levels) in panel.references.items():
        axes.plot(bits, levels, color=FAINT, linewidth=1.5, linestyle=":", label=label)
    for index, (label, points) in enumerate(panel.series.items()):
        # colours repeat after seven series: the dashes differ then
        style = {"color": COLORS[index % len(COLORS)], "linestyle": ("-", "--", ":")[index // len(COLORS) % 3]}
        style |= {"marker": _MARKERS[index % len(_MARKERS)], "label": label}
        _curve(axes, points, markersize=5, linewidth=1.5, capsize=3, **style)
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


def _legend_labels(labels: Sequence[str], inches: float) -> tuple[list[str], int]:
    """The labels with line breaks, and the number of columns, one or two, in which they fit into a width.

    Matplotlib cuts off what of a legend is wider than the figure. Two columns are for many labels that need no breaks.
    """
    one, two = (inches * 72 / n_columns - _BESIDE for n_columns in (1, 2))
    if len(labels) > _FEW and all(_points_wide(label) <= two for label in labels):
        return list(labels), 2
    return [_broken(label, one) for label in labels], 1


def _broken(text: str, width: float) -> str:
    """Lines no wider than ``width`` points, broken at blanks, within words where one alone is wider."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if _points_wide(longer) <= width:
            line = longer
            continue
        lines += [line] * bool(line)
        line = word
        while _points_wide(line) > width:
            length = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or _points_wide(line[:n]) <= width)
            lines.append(line[:length])
            line = line[length:]
    return "\n".join([*lines, line])


def _points_wide(text: str) -> float:
    """Width of a text in a legend's letters, in points (1/72 inch)."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=SMALL_SIZE), ismath=False)
    return float(width) * _HINTING
