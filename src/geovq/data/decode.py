"""Encoded images → one uint8 array: decoded by threads, checked to have one size and one mode.

Rules: 16-bit grey is scaled to 8 bits, transparency is laid on white, the camera's orientation is applied, of
several frames the first is read; ``image_size`` crops the centre square and resizes it (Lanczos, antialiased).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from geovq.data.fingerprint import printable
from geovq.data.types import PixelSettings, ValueRange
from geovq.errors import DataError
from geovq.progress import progress

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow also opens: programs and vector drawings, films, containers of measurements, icons, captions.
NO_PHOTOGRAPHS = {"EPS", "WMF", "MPEG", "BUFR", "FITS", "GRIB", "HDF5", "CUR", "ICNS", "ICO", "IPTC"}
SIXTEEN_BITS = {"PNG", "PPM", "JPEG2000"}  # formats whose 32-bit mode "I" holds unsigned 16-bit values
GREY_MODES = {"1", "L", "LA", "La"}
EXIF_ORIENTATION = 0x0112
# Of the orientations 2 to 8.
TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
WORKERS = min(8, os.cpu_count() or 1)
PER_TASK = 128


@cache
def image_formats() -> tuple[str, ...]:
    """The formats of images that the installed Pillow opens."""
    import PIL.Image

    PIL.Image.init()
    return tuple(sorted(PIL.Image.OPEN.keys() - NO_PHOTOGRAPHS))


@cache
def image_suffixes() -> tuple[str, ...]:
    """The endings of their files, such as ``.png``."""
    import PIL.Image

    formats = {*image_formats(), "MPO"}  # several JPEG images in one file, opened as JPEG
    return tuple(suffix for suffix, name in PIL.Image.registered_extensions().items() if name in formats)


class UnlikeImagesError(DataError):
    """Images that differ in size or channels; ``told`` is what differs, without what a training run may do about it."""

    def __init__(self, told: str, remedy: str) -> None:
        super().__init__(f"{told}; {remedy}")
        self.told = told


class FileImage(NamedTuple):
    """One image as 8-bit grey or RGB, and what its file tells."""

    image: Image
    channels: int  # the file's own: 1 or 3
    values: ValueRange  # in the file's own units
    several_frames: bool
    readable_exif: bool


def read_image(content: bytes, name: str, full_scale: int | None = None) -> FileImage:
    """Decode one image; ``full_scale`` is the value that counts as white instead of the largest of its type.

    Raises ``DataError`` naming ``name`` where the bytes are no image, a truncated one, or hold values that are
    not 8- or 16-bit.
    """
    try:
        return _decode(content, full_scale)
    except DataError as error:
        raise DataError(f"{printable(name)}: {error}") from error
    except Exception as error:  # decoders raise whatever they stumble over
        reason = str(error).replace(" <_io.BytesIO object at", "").split(" 0x")[0] or type(error).__name__
        raise DataError(f"{printable(name)}: not a readable image ({reason}); repair or remove the file") from error


def _decode(content: bytes, full_scale: int | None) -> FileImage:
    import PIL.Image

    image: Image = PIL.Image.open(io.BytesIO(content), formats=image_formats())
    file_format, several_frames = image.format, bool(getattr(image, "is_animated", False))
    image.load()
    image, readable_exif = _upright(image)

    def result(image: Image, smallest: int, largest: int, white: int) -> FileImage:
        values = ValueRange(smallest, largest, full_scale or white)
        return FileImage(image, 1 if image.mode == "L" else 3, values, several_frames, readable_exif)

    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in SIXTEEN_BITS):
        values = np.asarray(image).astype(np.float64)
        white = full_scale or 65535
        grey = np.round(values.clip(0, white) / (white / 255)).astype(np.uint8)
        return result(PIL.Image.fromarray(grey), int(values.min()), int(values.max()), white)
    if image.mode in ("F", "I"):
        held = "floating-point values" if image.mode == "F" else "32-bit or signed integers"
        raise DataError(f"holds {held}; save it as an 8- or 16-bit image")
    if full_scale is not None and full_scale > 255:
        raise DataError(f"is an 8-bit image: data.full_scale={full_scale} must be null or 1 to 255")
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != mode:
        image = image.convert(mode)
    extrema = np.reshape(image.getextrema(), (-1, 2))[:3]  # without the transparency
    if full_scale is not None:
        table = stretching_table(full_scale).tolist()
        image = image.point(table * len(extrema) + list(range(256)) * (image.mode == "RGBA"))
    if image.mode == "RGBA":
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert(mode)
    return result(image, int(extrema.min()), int(extrema.max()), 255)


def _upright(image: Image) -> tuple[Image, bool]:
    """``image`` as its Exif orientation says, and whether its Exif could be read; nothing else of it is."""
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(EXIF_ORIENTATION) or 1
    except Exception:  # an unreadable block of metadata says nothing about the pixels
        return image, False
    return (image.transpose(Transpose[TURNS[orientation - 2]]) if orientation in range(2, 9) else image), True


def stretching_table(full_scale: int) -> np.ndarray:
    """(256,) uint8: what each 8-bit value becomes where ``full_scale`` is white."""
    return np.round(np.arange(256).clip(0, full_scale) * (255 / full_scale)).astype(np.uint8)


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
    names: Sequence[str], read: Callable[[str], bytes], location: str, pixels: PixelSettings
) -> tuple[np.ndarray, ValueRange, tuple[str, ...]]:
    """``(N, C, H, W)`` uint8 of the images called ``names``, whose bytes ``read`` returns.

    With them come the range of the files' values and remarks on the files. ``location`` is where they lie,
    for messages. Without ``channels`` all must be grey or all coloured, without ``image_size`` all of one
    size; else ``DataError`` names two that differ and the setting that helps. It reports the first faulty
    name, however many threads work.
    """
    image_size, channels, full_scale = pixels
    first = read_image(read(names[0]), f"{location}/{names[0]}", full_scale)
    kept_channels = channels or first.channels
    sample = fit_image(first.image, image_size, kept_channels)
    images = np.empty((len(names), *sample.shape), dtype=np.uint8)
    ranges: list[ValueRange] = [first.values] * len(names)
    several_frames, unreadable_exif = np.zeros((2, len(names)), dtype=bool)

    def decode(start: int) -> int:
        chosen = names[start : start + PER_TASK]
        for index, name in enumerate(chosen, start):
            file = read_image(read(name), f"{location}/{name}", full_scale)
            image = file.image
            if channels is None and file.channels != first.channels:
                raise UnlikeImagesError(
                    f"{location}: {printable(names[0])} has {first.channels} channels but {printable(name)} has "
                    f"{file.channels}",
                    "set data.channels=1 or data.channels=3",
                )
            if image_size is None and image.size != first.image.size:
                sizes = f"{first.image.width}x{first.image.height}", f"{image.width}x{image.height}"
                raise UnlikeImagesError(
                    f"{location}: {printable(names[0])} is {sizes[0]} but {printable(name)} is {sizes[1]}",
                    f"set data.image_size, such as data.image_size={min(*first.image.size, *image.size)}",
                )
            images[index] = fit_image(image, image_size, kept_channels)
            ranges[index] = file.values
            several_frames[index], unreadable_exif[index] = file.several_frames, not file.readable_exif
        return len(chosen)

    with ThreadPoolExecutor(WORKERS) as pool, progress("decoding images", len(names)) as advance:
        for n_done in pool.map(decode, range(0, len(names), PER_TASK)):  # in order; a fault cancels what waits
            advance(n_done)
    told = {
        "hold several frames, of which the first is read": several_frames,
        "have Exif data that cannot be read, and are not turned": unreadable_exif,
    }
    remarks = tuple(
        f"{marked.sum()} of {len(names)} files {what}, such as {printable(names[int(marked.argmax())])}"
        for what, marked in told.items()
        if marked.any()
    )
    return images, ValueRange.over(ranges), remarks
