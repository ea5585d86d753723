"""From a data set's name and settings to the source that reads it."""

from __future__ import annotations

import os
from pathlib import Path

from geovq.data.cifar import CifarBatchesSource
from geovq.data.digits import DigitsSource
from geovq.data.fetch import CIFAR_FOLDER
from geovq.data.files import FolderFiles, ZipFiles
from geovq.data.folder import FilesSource
from geovq.data.mnist import IDX_SETS, IdxSource
from geovq.data.npz import NpzSource
from geovq.data.reshape import ReshapedSource
from geovq.data.types import ImageSource
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
    test_fraction: float = 0.2,
    seed: int = 0,
) -> ImageSource:
    """The source called ``name``; nothing is read or fetched before its ``info`` or ``load``.

    ``root`` holds the public sets, ``path`` a person's own images (``folder`` only: a folder tree, a zip
    of one, or an ``.npz``). ``image_size`` crops the centre square and resizes it, ``channels`` makes
    all images grey (1) or RGB (3). ``test_fraction`` and ``seed`` draw the test part of a source that has
    none. Raises ``ConfigError`` for settings that fit no source, ``DataError`` where ``path`` is missing.
    """
    if name not in SOURCE_NAMES:
        raise ConfigError(f"data.name={name}: unknown; choose one of {', '.join(SOURCE_NAMES)}")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"data.image_size={image_size}: give null or a number of pixels from 1")
    if channels not in (None, 1, 3):
        raise ConfigError(f"data.channels={channels}: give null, 1 (grey) or 3 (RGB)")
    if not 0 < test_fraction < 1:
        raise ConfigError(f"data.test_fraction={test_fraction} lies outside (0, 1)")
    if path is not None and name != "folder":
        raise ConfigError(f"data.path={path}: only data=folder reads it, data={name} reads data.root")
    if name == "folder":
        if path is None:
            raise ConfigError("data=folder needs data.path=, a folder of images, a zip of one, or an .npz")
        return _own_images("folder", Path(path), image_size, channels, test_fraction, seed)
    folder = Path(root).expanduser()
    source: ImageSource
    if name == "digits":
        source = DigitsSource(test_fraction, seed)
    elif name in IDX_SETS:
        source = IdxSource(name, folder, download)
    else:
        images = next((file for file in (folder / "cifar10_png.zip", folder / "cifar10_png") if file.exists()), None)
        if images is not None and not (folder / CIFAR_FOLDER).is_dir():
            return _own_images("cifar10", images, image_size, channels, test_fraction, seed)
        source = CifarBatchesSource(folder, download)
    return _reshaped(source, image_size, channels)


def _reshaped(source: ImageSource, image_size: int | None, channels: int | None) -> ImageSource:
    return source if image_size is None and channels is None else ReshapedSource(source, image_size, channels)


def _own_images(
    name: str, path: Path, image_size: int | None, channels: int | None, test_fraction: float, seed: int
) -> ImageSource:
    """The source for a folder tree, a zip or an ``.npz``."""
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"data.path={path}: no such file or folder")
    if path.suffix.lower() == ".npz":
        return _reshaped(NpzSource(name, path, test_fraction=test_fraction, seed=seed), image_size, channels)
    if path.is_dir():
        files: FolderFiles | ZipFiles = FolderFiles(path)
    elif path.suffix.lower() == ".zip":
        files = ZipFiles(path)
    else:
        raise DataError(f"data.path={path}: expected a folder, a .zip or an .npz")
    return FilesSource(name, files, image_size=image_size, channels=channels, test_fraction=test_fraction, seed=seed)
