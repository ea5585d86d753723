"""Encoded images → one uint8 array: decoded by threads, checked to have one size and one mode.

Rules: 16-bit grey is scaled to 8 bits, transparency is laid on white, the camera's rotation is applied;
``image_size`` crops the centre square and resizes it (Lanczos, antialiased).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from geovq.errors import DataError
from geovq.progress import progress

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
GREY_MODES = {"1", "L", "LA", "La"}
WORKERS = min(8, os.cpu_count() or 1)
PER_TASK = 128


def read_image(content: bytes, name: str) -> tuple[Image, int]:
    """One image as 8-bit grey or RGB, and its own number of channels (1 or 3).

    Raises ``DataError`` naming ``name`` where the bytes are no image or a truncated one.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        image: Image = PIL.Image.open(io.BytesIO(content))
        image.load()
        if image.format in ("JPEG", "MPO", "TIFF", "WEBP"):
            image = PIL.ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a readable image ({error}); repair or remove the file") from error
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image, 1 if image.mode == "L" else 3
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        return PIL.Image.fromarray(np.round(values.clip(0, 65535) / 257).astype(np.uint8)), 1
    if image.mode == "F":
        raise DataError(f"{name}: holds floating-point values; save it as an 8- or 16-bit image")
    grey = image.mode in GREY_MODES
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("L" if grey else "RGB"), 1 if grey else 3


def fit_image(image: Image, image_size: int | None, channels: int) -> np.ndarray:
    """``(channels, height, width)`` uint8 of ``image``, cropped and resized to ``image_size`` where given."""
    import PIL.Image

    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # First crop, then resize: with a box instead, the filter would reach for pixels outside the square.
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((image_size, image_size), PIL.Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def decode_images(
    names: Sequence[str],
    read: Callable[[str], bytes],
    location: str,
    image_size: int | None,
    channels: int | None,
) -> np.ndarray:
    """``(N, C, H, W)`` uint8 of the images called ``names``, whose bytes ``read`` returns.

    ``location`` is where they lie, for messages. Without ``channels`` all must be grey or all coloured,
    without ``image_size`` all of one size; else ``DataError`` names two that differ and the setting that
    helps. It reports the first faulty name, however many threads work.
    """
    first, own_channels = read_image(read(names[0]), f"{location}/{names[0]}")
    kept_channels = channels or own_channels
    sample = fit_image(first, image_size, kept_channels)
    try:
        images = np.empty((len(names), *sample.shape), dtype=np.uint8)
    except MemoryError as error:
        size = f"{len(names)} images of {sample.shape}"
        raise DataError(f"{location}: {size} do not fit into memory; set a smaller data.image_size") from error

    def decode(start: int) -> int:
        chosen = names[start : start + PER_TASK]
        for index, name in enumerate(chosen, start):
            image, found = read_image(read(name), f"{location}/{name}")
            if channels is None and found != own_channels:
                raise DataError(
                    f"{location}: {names[0]} has {own_channels} channels but {name} has {found}; "
                    f"set data.channels=1 or data.channels=3"
                )
            if image_size is None and image.size != first.size:
                smallest = min(*first.size, *image.size)
                raise DataError(
                    f"{location}: {names[0]} is {first.width}x{first.height} but {name} is "
                    f"{image.width}x{image.height}; set data.image_size, such as data.image_size={smallest}"
                )
            images[index] = fit_image(image, image_size, kept_channels)
        return len(chosen)

    with ThreadPoolExecutor(WORKERS) as pool, progress("decoding images", len(names)) as advance:
        tasks = [pool.submit(decode, start) for start in range(0, len(names), PER_TASK)]
        try:
            for task in tasks:
                advance(task.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return images
