"""One look for all figures: sizes, colours, and plain axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
TITLE_SIZE = 11
LABEL_SIZE = 9
SMALL_SIZE = 8
INK = "#222222"
FAINT = "#888888"
MARK = (220, 40, 40)

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that stay apart under colour blindness (Okabe and Ito 2008)."""


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """A white figure of ``width`` x ``height`` inches with a title at the left of its top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE, color=INK, x=0.01, ha="left", parse_math=False)
    return figure


def plot_axes(title: str, x_label: str, y_label: str, width: float = 6.4, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure of ``width`` x ``height`` inches with one plain axes: two spines, a light grid, the title at
    the left.
    """
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    plain(axes, title, x_label, y_label)
    return figure, axes


def plain(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Give axes the look of all: see ``plot_axes``. Dollar signs in the words begin no formula."""
    axes.set_title(title, fontsize=TITLE_SIZE, color=INK, loc="left", parse_math=False)
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE, color=INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE, color=INK, parse_math=False)
    axes.tick_params(labelsize=SMALL_SIZE, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def write_beside(axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """A faint small text, ``offset`` screen points from a point of the data."""
    style |= {"fontsize": SMALL_SIZE, "color": FAINT}
    axes.annotate(text, point, xytext=offset, textcoords="offset points", **style)
