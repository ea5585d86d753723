"""Encoded images → one uint8 array: decoded by threads, checked to have one size and one mode.

Rules: 16-bit grey is scaled to 8 bits, transparency is laid on white, the camera's orientation is applied, of
several frames the first is read; ``image_size`` crops the centre square and resizes it (Lanczos, antialiased).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
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
Read = Callable[[str], bytes]
WORKERS = min(8, os.cpu_count() or 1)
PER_TASK = 128


class OtherDepthError(DataError):
    """An image is of fewer bits than the settings ask for: no damage to be passed over."""


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
        self.told, self.remedy = told, remedy

    def __reduce__(self) -> tuple[type[UnlikeImagesError], tuple[str, str]]:
        return type(self), (self.told, self.remedy)  # it comes from other processes, too


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
        raise type(error)(f"{printable(name)}: {error}") from error
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
        raise OtherDepthError(f"is an 8-bit image: data.full_scale={full_scale} must be null or 1 to 255")
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


class FirstFile(NamedTuple):
    """The file whose size and channels all others need to have, where the settings say neither."""

    name: str
    width: int
    height: int
    channels: int

    @staticmethod
    def among(names: Iterable[str], read: Read, location: str, full_scale: int | None, skip: bool) -> FirstFile:
        """The first of the names, or with ``skip`` the first that can be read."""
        fault = None
        for name in names:
            try:
                file = read_image(read(name), f"{location}/{name}", full_scale)
            except DataError as error:
                if not skip or isinstance(error, OtherDepthError):
                    raise
                fault = fault or error
                continue
            return FirstFile(name, *file.image.size, file.channels)
        raise DataError(f"{location}: none of the images can be read; the first: {fault}")

    def shape(self, pixels: PixelSettings) -> tuple[int, int, int]:
        """``(C, H, W)`` of all images."""
        size = pixels.image_size
        return pixels.channels or self.channels, size or self.height, size or self.width


class Told(NamedTuple):
    """What decoding some files told of them; a file is its place among these."""

    values: ValueRange | None  # None where none can be read
    several_frames: list[int]
    unreadable_exif: list[int]
    damaged: dict[int, str]


def decode_into(
    images: np.ndarray,
    names: Sequence[str],
    read: Read,
    location: str,
    pixels: PixelSettings,
    first: FirstFile,
    skip: bool,
) -> Told:
    """Decode files into ``images`` (n, C, H, W) uint8; a file that cannot be read leaves zeros with ``skip``.

    Raises ``DataError`` for a file of another size or mode than the first, and without ``skip`` for one that cannot be
    read.
    """
    image_size, channels, full_scale = pixels
    told = Told(None, [], [], {})
    ranges: list[ValueRange] = []
    for row, name in enumerate(names):
        try:
            file = read_image(read(name), f"{location}/{name}", full_scale)
        except DataError as error:
            if not skip or isinstance(error, OtherDepthError):
                raise
            images[row], told.damaged[row] = 0, str(error)
            continue
        image = file.image
        if channels is None and file.channels != first.channels:
            raise UnlikeImagesError(
                f"{location}: {printable(first.name)} has {first.channels} channels but {printable(name)} has "
                f"{file.channels}",
                "set data.channels=1 or data.channels=3",
            )
        if image_size is None and image.size != (first.width, first.height):
            sizes = f"{first.width}x{first.height}", f"{image.width}x{image.height}"
            raise UnlikeImagesError(
                f"{location}: {printable(first.name)} is {sizes[0]} but {printable(name)} is {sizes[1]}",
                f"set data.image_size, such as data.image_size={min(first.width, first.height, *image.size)}",
            )
        images[row] = fit_image(image, image_size, len(images[row]))
        ranges.append(file.values)
        if file.several_frames:
            told.several_frames.append(row)
        if not file.readable_exif:
            told.unreadable_exif.append(row)
    return told._replace(values=ValueRange.over(ranges)) if ranges else told


def decode_images(
    names: Sequence[str], read: Read, location: str, pixels: PixelSettings, skip: bool = False
) -> tuple[np.ndarray, Told]:
    """``(N, C, H, W)`` uint8 of the images called ``names``, whose bytes ``read`` returns, and what they told.

    ``location`` is where they lie, for messages. Without ``channels`` all must be grey or all coloured, without
    ``image_size`` all of one size; else ``DataError`` names two that differ and the setting that helps. It reports the
    first faulty name, however many threads work.
    """
    first = FirstFile.among(names, read, location, pixels.full_scale, skip)
    images = np.empty((len(names), *first.shape(pixels)), dtype=np.uint8)

    def decode(start: int) -> tuple[int, Told]:
        here = slice(start, start + PER_TASK)
        return start, decode_into(images[here], names[here], read, location, pixels, first, skip)

    found = []
    with ThreadPoolExecutor(WORKERS) as pool, progress("decoding images", len(names)) as advance:
        for each in pool.map(decode, range(0, len(names), PER_TASK)):  # in order; a fault cancels what waits
            found.append(each)
            advance(min(PER_TASK, len(names) - each[0]))
    return images, joined(found)


def joined(found: Iterable[tuple[int, Told]]) -> Told:
    """What several files in a row told, each with the place of its first."""
    found = list(found)
    ranges = [told.values for _, told in found if told.values is not None]
    frames = [start + row for start, told in found for row in told.several_frames]
    unreadable = [start + row for start, told in found for row in told.unreadable_exif]
    damaged = {start + row: fault for start, told in found for row, fault in told.damaged.items()}
    return Told(ValueRange.over(ranges) if ranges else None, frames, unreadable, damaged)


def remarks_on(told: Told, name_of: Callable[[int], str], n_files: int) -> tuple[str, ...]:
    """What people are told of ``n_files`` files, which ``name_of`` names by their places."""
    marked = {
        "hold several frames, of which the first is read": told.several_frames,
        "have Exif data that cannot be read, and are not turned": told.unreadable_exif,
    }
    return tuple(
        f"{len(rows)} of {n_files} files {what}, such as {printable(name_of(rows[0]))}"
        for what, rows in marked.items()
        if rows
    )
