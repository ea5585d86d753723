"""Images as data addresses, so that a page needs no file beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from itertools import accumulate

import numpy as np
from PIL import Image
from torch import Tensor

_LOSSLESS_PIXELS = 64 * 64
"""Larger images are written with small losses."""
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
"""As ``.heat`` of the style."""


def address(image: Tensor, side: int = 192) -> str:
    """Of an image (C, H, W) in bytes, C = 1 or 3; one that is larger than ``side`` pixels is shrunk."""
    return _encoded(image.permute(1, 2, 0).numpy(), side, side)


def strip(images: Tensor, height: int = 96) -> str:
    """Of images (n, C, H, W) in bytes side by side, a pixel apart, at most ``height`` pixels high."""
    n, channels, rows, width = images.shape
    row = np.full((rows, n * (width + 1) - 1, channels), 128, np.uint8)
    for place, image in enumerate(images):
        left = place * (width + 1)
        row[:, left : left + width] = image.permute(1, 2, 0).numpy()
    return _encoded(row, row.shape[1], height)


def heat(values: Tensor, top: float) -> str:
    """Of values (H, W) from 0 to ``top`` as colours."""
    places = np.clip(values.numpy() / top, 0, 1) * (len(_HEAT) - 1)
    return _encoded(
        np.stack([np.interp(places, range(len(_HEAT)), channel) for channel in _HEAT.T], -1).astype("u1"), 192, 192
    )


def fitting(groups: Iterable[tuple[str, ...]], most: int) -> list[tuple[str, ...]]:
    """The first groups of addresses that together have at most ``most`` letters, one at least."""
    groups = list(groups)
    sizes = accumulate(sum(map(len, group)) for group in groups)
    return groups[: max(1, sum(size <= most for size in sizes))]


def _encoded(pixels: np.ndarray, width: int, height: int) -> str:
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((width, height))
    kind = "png" if pixels.shape[0] ** 2 <= _LOSSLESS_PIXELS else "webp"
    file = io.BytesIO()
    image.save(file, kind, quality=88)  # of webp alone
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
