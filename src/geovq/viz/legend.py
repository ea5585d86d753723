"""Labels of a legend below a figure, broken into lines and put in columns so that none is cut off.

Matplotlib lays out figure and legend without looking whether the legend is wider than the figure, and cuts what is.
"""

from __future__ import annotations

from collections.abc import Sequence

from geovq.viz.style import SMALL_SIZE

_BESIDE = 5.0 * SMALL_SIZE
"""Points that a column takes beside its text: handle, paddings, and the gap to the next one."""

_POINTS_PER_INCH = 72.0
_HINTING = 1.05
"""Letters on a raster are up to this much wider than their outlines."""

_FEW = 6
"""So many labels stand below each other, however short they are."""


def legend_labels(labels: Sequence[str], inches: float) -> tuple[list[str], int]:
    """The labels with line breaks, and the number of columns, one or two, in which they fit into a width.

    Two columns are for many labels that need no breaks in them.
    """
    one, two = (inches * _POINTS_PER_INCH / n_columns - _BESIDE for n_columns in (1, 2))
    if len(labels) > _FEW and all(text_points(label) <= two for label in labels):
        return list(labels), 2
    return [_broken(label, one) for label in labels], 1


def text_points(text: str) -> float:
    """Width of a text in a legend's letters, in points (1/72 inch)."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=SMALL_SIZE), ismath=False)
    return float(width) * _HINTING


def _broken(text: str, width: float) -> str:
    """Lines no wider than ``width`` points, broken at blanks, within words where one alone is wider."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if text_points(longer) <= width:
            line = longer
            continue
        lines += [line] * bool(line)
        line = word
        while text_points(line) > width:
            length = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or text_points(line[:n]) <= width)
            lines.append(line[:length])
            line = line[length:]
    return "\n".join([*lines, line])
