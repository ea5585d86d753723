"""Images that are to be read as they are, without parts and classes: a folder, a zip, an ``.npz``, or one file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from geovq.data.decode import decode_images, image_suffixes, remarks_on
from geovq.data.files import FolderSource, ZipSource
from geovq.data.fingerprint import printable
from geovq.data.limits import check_size
from geovq.data.npz import NpzSource
from geovq.data.reshape import reshape
from geovq.data.types import PixelSettings
from geovq.errors import DataError

_UNUSED = 0.5, 0  # of the test part that a source could draw


class Collection(NamedTuple):
    """Images (N, C, H, W) uint8, their names where they have any, and remarks for people."""

    images: np.ndarray
    names: list[str] | None
    remarks: tuple[str, ...]


def read_images(path: str, pixels: PixelSettings) -> Collection:
    """All images at ``path``, decoded as those of ``data=folder``.

    Raises:
        DataError: there are none, or one cannot be read or differs from the others in size or channels.
    """
    place, shown = Path(path), printable(path)
    if not place.exists():
        raise DataError(f"{shown}: no such file or folder")
    if place.is_dir() or place.suffix.lower() == ".zip":
        source = (FolderSource if place.is_dir() else ZipSource)("folder", place, *_UNUSED, pixels)
        names, images, remarks = source.everything()
        return Collection(images, names, remarks)
    if place.suffix.lower() == ".npz":
        named, images = NpzSource("folder", place, *_UNUSED).everything()
        return Collection(reshape(images, pixels), named, ())
    if place.suffix.lower() not in image_suffixes():
        raise DataError(f"{shown}: expected a folder, a .zip, an .npz or one image ({', '.join(image_suffixes())})")

    def read(name: str) -> bytes:
        try:
            check_size(place.stat().st_size, shown)
            return place.read_bytes()
        except OSError as error:
            raise DataError(f"{shown}: cannot be read ({error.strerror})") from error

    images, told = decode_images([place.name], read, printable(str(place.parent)), pixels)
    return Collection(images, [place.name], remarks_on(told, lambda row: place.name, 1))
