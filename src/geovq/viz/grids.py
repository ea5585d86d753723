"""Grids of images: reconstructions beside originals, samples by class or temperature.

A grid is laid out in whole screen pixels and drawn as one picture: every image pixel becomes a square of
``scale`` x ``scale`` of them, so what is seen at 100 dpi is the image and no interpolation of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.viz.style import DPI, INK, LABEL_SIZE, MARK, SMALL_SIZE, TITLE_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST_SIDE = 16_000
"""Pixels of a sheet of samples, about; matplotlib draws none of 65,536."""

_MARGIN = 10
_HEADING_HEIGHT = 24
_LINE_HEIGHT = 15
# widths of a letter at 100 dpi, in pixels, on the wide side: measuring text would need a renderer
_LABEL_LETTER = 7.3
_SMALL_LETTER = 6.2
_HEADING_LETTER = 8.2


def image_grid(
    images: Tensor,
    rows: int,
    cols: int,
    titles: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    title: str = "",
    caption: str = "",
    scale: int | None = None,
    gap: int = 4,
    framed: Collection[int] = (),
) -> Figure:
    """Images in rows and columns, filled row by row; places without an image stay white.

    Args:
        images: (N, C, H, W), C = 1 or 3, N at most rows·cols; values outside [0, 1] are cut.
        rows: number of rows.
        cols: number of columns.
        titles: small text above each image, N of them, ``""`` for none; a row without any takes no space for
            it.
        row_labels: text at the left of each row, ``rows`` of them.
        title: above the grid.
        caption: below the grid; wrapped to its width.
        scale: screen pixels per image pixel; chosen for tiles of about 60 pixels by default.
        gap: screen pixels between tiles, at least 2.
        framed: places of images that get a red frame.

    Raises:
        InputError: counts that do not fit together, or images of another shape.
    """
    from matplotlib.figure import Figure

    if images.ndim != 4 or images.shape[1] not in (1, 3) or not 0 < len(images) <= rows * cols:
        shape = tuple(images.shape)
        raise InputError(f"images of shape {shape} in {rows} rows of {cols}: give (N, 1 or 3, H, W) that fit")
    for name, given, wanted in (("titles", titles, len(images)), ("row labels", row_labels, rows)):
        if given is not None and len(given) != wanted:
            raise InputError(f"{len(given)} {name} for {len(images)} images in {rows} rows: give {wanted}")
    height, width = images.shape[2:]
    scale = scale or max(1, round(60 / max(height, width)))
    tile_height, tile_width = scale * height, scale * width
    texts = list(titles or []) + [""] * (rows * cols - len(titles or []))

    left = _MARGIN + (int(_LABEL_LETTER * max(map(len, row_labels))) + 8 if row_labels else 0)
    grid_width = cols * (tile_width + gap) - gap
    total_width = max(left + grid_width + _MARGIN, int(_HEADING_LETTER * len(title)) + 2 * _MARGIN)
    lines = textwrap.wrap(caption, max(20, int((total_width - 2 * _MARGIN) / _SMALL_LETTER)))
    tops = []
    y = _MARGIN + (_HEADING_HEIGHT if title else 0)
    for row in range(rows):
        y += _LINE_HEIGHT if any(texts[row * cols : (row + 1) * cols]) else 0
        tops.append(y)
        y += tile_height + gap
    caption_top = y - gap + 8
    total_height = caption_top + _LINE_HEIGHT * len(lines) + 4

    canvas = np.full((total_height, total_width, 3), 255, dtype=np.uint8)
    pixels = _to_rgb(images).repeat(scale, axis=1).repeat(scale, axis=2)  # (N, scale·H, scale·W, 3)
    corners = [(tops[place // cols], left + place % cols * (tile_width + gap)) for place in range(len(pixels))]
    for place, (tile, (top, x)) in enumerate(zip(pixels, corners, strict=True)):
        if place in framed:
            canvas[top - 1 : top + tile_height + 1, x - 1 : x + tile_width + 1] = MARK
        canvas[top : top + tile_height, x : x + tile_width] = tile

    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, total_width, total_height, 0))

    def write(x: float, y: float, text: str, ha: str, va: str, size: int) -> None:
        if text:  # names of classes may hold dollar signs
            axes.text(x, y, text, ha=ha, va=va, fontsize=size, color=INK, parse_math=False)

    for text, (top, x) in zip(texts, corners, strict=False):
        write(x + tile_width / 2, top - 1, text, "center", "bottom", SMALL_SIZE)
    for top, label in zip(tops, row_labels or [], strict=False):
        write(left - 8, top + tile_height / 2, label, "right", "center", LABEL_SIZE)
    write(_MARGIN, _MARGIN - 2, title, "left", "top", TITLE_SIZE)
    write(_MARGIN, caption_top, "\n".join(lines), "left", "top", SMALL_SIZE)
    return figure


def reconstruction_figure(
    rows: Mapping[str, Tensor], title: str = "", caption: str = "Numbers: PSNR to the original, in dB."
) -> Figure:
    """A labelled row per source, with the PSNR to the original in dB above each reconstruction.

    ``rows`` maps a label to (N, C, H, W) in [0, 1], one column per image; the first are the originals.
    """
    from geovq.evaluation.reconstruction import image_errors

    original, *others = rows.values()
    scores = [psnr for output in others for psnr in image_errors(original, output)["psnr"].tolist()]
    return image_grid(
        torch.cat([images.detach().float().cpu() for images in rows.values()]),
        rows=len(rows),
        cols=len(original),
        titles=[""] * len(original) + [f"{psnr:.1f}" for psnr in scores],
        row_labels=list(rows),
        title=title,
        caption=caption,
    )


def samples_figure(samples_by_row: Mapping[str, Tensor], title: str = "") -> Figure:
    """One labelled row of images per class, temperature or source ("real", "no prior").

    ``samples_by_row`` maps a label to (N, C, H, W) in [0, 1]; rows may differ in N. Raises InputError for no rows or
    images of different sizes.
    """
    if not samples_by_row or len({tuple(images.shape[1:]) for images in samples_by_row.values()}) != 1:
        shapes = {label: tuple(images.shape) for label, images in samples_by_row.items()}
        raise InputError(f"rows of samples {shapes}: give at least one, all of one image size")
    caption, columns = "", max(len(images) for images in samples_by_row.values())
    rows = list(samples_by_row.items())
    height, width = rows[0][1].shape[2:]
    most_rows, most_columns = (max(3, int(_LARGEST_SIDE / max(60, side))) for side in (height, width))
    if len(rows) > most_rows:
        caption += f" Shown are {most_rows} of {len(rows)} rows."
        rows = [*rows[: most_rows - 2], *rows[-2:]]  # the last two are what classes are compared with
    if columns > most_columns:
        caption += f" Shown are {most_columns} of {columns} columns."
        columns = most_columns
    filled = []
    for _, images in rows:
        shown = images[:columns].detach().float().cpu()
        filled.append(torch.cat([shown, torch.ones(columns - len(shown), *shown.shape[1:])]))
    return image_grid(
        torch.cat(filled),
        rows=len(filled),
        cols=columns,
        row_labels=[label for label, _ in rows],
        title=title,
        caption=caption.strip(),
    )


def _to_rgb(images: Tensor) -> np.ndarray:
    """(N, H, W, 3) bytes."""
    colored = (255 * images.detach().float().cpu().clamp(0, 1)).round().byte().expand(-1, 3, -1, -1)
    return colored.permute(0, 2, 3, 1).numpy()
