"""From a data set's name and settings to the source that reads it."""

from __future__ import annotations

import os
from pathlib import Path

from geovq.data.cifar import CifarBatchesSource
from geovq.data.digits import DigitsSource
from geovq.data.fetch import CIFAR_FOLDER
from geovq.data.files import FolderFiles, ZipFiles
from geovq.data.fingerprint import printable
from geovq.data.folder import FilesSource
from geovq.data.mnist import IDX_SETS, IdxSource
from geovq.data.npz import NpzSource
from geovq.data.reshape import ReshapedSource
from geovq.data.types import ImageSource, PixelSettings
from geovq.errors import ConfigError, DataError

SOURCE_NAMES = ("digits", "mnist", "fashion", "cifar10", "folder")


def open_source(
    name: str,
    root: str | os.PathLike[str],
    *,
    download: bool = True,
    path: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    full_scale: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> ImageSource:
    """The source called ``name``; nothing is read or fetched before its ``info`` or ``load``.

    ``root`` holds the public sets, ``path`` a person's own images (``folder`` only: a folder tree, a zip
    of one, or an ``.npz``). ``image_size``, ``channels`` and ``full_scale`` are those of ``PixelSettings``.
    ``test_fraction`` and ``seed`` draw the test part of a source that has none. Raises ``ConfigError`` for
    settings that fit no source, ``DataError`` where ``path`` is missing.
    """
    if name not in SOURCE_NAMES:
        raise ConfigError(f"data.name={name}: unknown; choose one of {', '.join(SOURCE_NAMES)}")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"data.image_size={image_size}: give null or a number of pixels from 1")
    if channels not in (None, 1, 3):
        raise ConfigError(f"data.channels={channels}: give null, 1 (grey) or 3 (RGB)")
    if full_scale is not None and not 1 <= full_scale <= 65535:
        raise ConfigError(f"data.full_scale={full_scale}: give null or the value that counts as white, 1 to 65535")
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test_fraction={test_fraction} lies outside (0, 1)")
    if path is not None and name != "folder":
        raise ConfigError(f"data.path={path}: only data=folder reads it, data={name} reads data.root")
    pixels = PixelSettings(image_size, channels, full_scale)
    if name == "folder":
        if path is None:
            raise ConfigError("data=folder needs data.path=, a folder of images, a zip of one, or an .npz")
        return _own_images("folder", Path(path), pixels, test_fraction, seed)
    folder = Path(root).expanduser()
    source: ImageSource
    if name == "digits":
        source = DigitsSource(test_fraction, seed)
    elif name in IDX_SETS:
        source = IdxSource(name, folder, download)
    else:
        images = next((file for file in (folder / "cifar10_png.zip", folder / "cifar10_png") if file.exists()), None)
        if images is not None and not (folder / CIFAR_FOLDER).is_dir():
            return _own_images("cifar10", images, pixels, test_fraction, seed)
        source = CifarBatchesSource(folder, download)
    return _reshaped(source, pixels)


def _reshaped(source: ImageSource, pixels: PixelSettings) -> ImageSource:
    if pixels.full_scale is not None and pixels.full_scale > 255:
        raise ConfigError(f"data.full_scale={pixels.full_scale}: these images are 8-bit; give null or 1 to 255")
    return source if pixels == PixelSettings() else ReshapedSource(source, pixels)


def _own_images(name: str, path: Path, pixels: PixelSettings, test_fraction: float, seed: int) -> ImageSource:
    """The source for a folder tree, a zip or an ``.npz``."""
    path = path.expanduser()
    shown, suffix = f"data.path={printable(str(path))}", path.suffix.lower()
    if str(path).encode(errors="replace") != os.fsencode(path):
        raise DataError(f"{shown}: is no UTF-8, and runs are recorded as text; give a link of another name to it")
    if not path.exists():
        raise DataError(f"{shown}: no such file or folder")
    if path.is_dir():
        files: FolderFiles | ZipFiles = FolderFiles(path)
    elif suffix not in (".zip", ".npz"):
        raise DataError(f"{shown}: expected a folder, a .zip or an .npz")
    elif not path.is_file():
        raise DataError(f"{shown}: is a pipe or a device; give a file")
    elif suffix == ".npz":
        return _reshaped(NpzSource(name, path, test_fraction=test_fraction, seed=seed), pixels)
    else:
        files = ZipFiles(path)
    return FilesSource(name, files, pixels=pixels, test_fraction=test_fraction, seed=seed)
