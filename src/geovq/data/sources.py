"""From the ``data`` group of a configuration to the source that reads the images."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from geovq.configuration.fields import OnError
from geovq.configuration.options import Data
from geovq.configuration.parse import parse
from geovq.configuration.renamed import CONFIGS, option
from geovq.configuration.section import blamed
from geovq.data.cifar import CifarBatchesSource
from geovq.data.fetch import CIFAR_FOLDER
from geovq.data.files import FolderSource, ZipSource
from geovq.data.fingerprint import printable
from geovq.data.npz import NpzSource
from geovq.data.reshape import ReshapedSource
from geovq.data.types import ImageSource, PixelSettings
from geovq.errors import ConfigError, DataError


def source_names() -> tuple[str, ...]:
    """The data sets that ``configs/data`` describes."""
    return tuple(sorted(path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml")))


def open_source(name: str, root: str | os.PathLike[str], **settings: Any) -> ImageSource:
    """The source called ``name``; nothing is read or fetched before its ``info`` or ``load``.

    The file in ``configs/data`` holds for all that ``settings`` of the ``data`` group do not give: ``path``,
    ``image_size``, ``split_seed`` (also as ``seed``), …; ``root`` is the folder of the public data sets.

    Raises:
        ConfigError: settings that fit no source.
        DataError: ``path`` is missing.
    """
    from omegaconf import OmegaConf

    if name not in source_names():
        raise ConfigError(f"data.name={name}: unknown; choose one of {', '.join(source_names())}")
    values: Any = OmegaConf.to_container(OmegaConf.create(option("data", name)), resolve=True)
    given = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}
    values |= {"split_seed": given.pop("seed", values["split_seed"]), "root": os.fspath(root)} | given
    return open_images(parse(Data, values, "data"))


def open_images(settings: Data) -> ImageSource:
    """The source that the settings name. What a class does not do itself with ``image_size``, ``channels`` and
    ``full_scale`` is done to its images here.
    """
    owner = type(settings).owner
    pixels = PixelSettings(settings.image_size, settings.channels, settings.full_scale)
    with blamed(owner, "the constructor"):
        source: ImageSource = settings.make(pixels=pixels)
    return source if "pixels" in inspect.signature(owner).parameters else reshaped(source, pixels)


def cifar10(root: str | Path, download: bool, pixels: PixelSettings, test_fraction: float, seed: int) -> ImageSource:
    """CIFAR-10 from its python batches, or else from PNG files, where these lie below ``root``."""
    folder = Path(root)
    images = next((file for file in (folder / "cifar10_png.zip", folder / "cifar10_png") if file.exists()), None)
    if images is not None and not (folder / CIFAR_FOLDER).is_dir():
        return own_images(str(images), pixels, test_fraction, seed, "cifar10")
    return reshaped(CifarBatchesSource(folder, download), pixels)


def reshaped(source: ImageSource, pixels: PixelSettings) -> ImageSource:
    """A source of 8-bit images, in the size, channels and range that the settings ask for."""
    if pixels.full_scale is not None and pixels.full_scale > 255:
        raise ConfigError(f"data.full_scale={pixels.full_scale}: these images are 8-bit; give null or 1 to 255")
    return source if pixels == PixelSettings() else ReshapedSource(source, pixels)


def own_images(
    path: str,
    pixels: PixelSettings,
    test_fraction: float,
    seed: int,
    name: str = "folder",
    on_error: OnError = "stop",
) -> ImageSource:
    """A person's images: a folder tree, a zip of one, or an ``.npz``."""
    place = Path(path)
    shown, suffix = f"data.path={printable(path)}", place.suffix.lower()
    if path.encode(errors="replace") != os.fsencode(place):
        raise DataError(f"{shown}: is no UTF-8, and runs are recorded as text; give a link of another name to it")
    if not place.exists():
        raise DataError(f"{shown}: no such file or folder")
    if place.is_dir():
        return FolderSource(name, place, test_fraction, seed, pixels, on_error == "skip")
    if suffix not in (".zip", ".npz"):
        raise DataError(f"{shown}: expected a folder, a .zip or an .npz")
    if not place.is_file():
        raise DataError(f"{shown}: is a pipe or a device; give a file")
    if suffix == ".npz":
        return reshaped(NpzSource(name, place, test_fraction, seed), pixels)
    return ZipSource(name, place, test_fraction, seed, pixels, on_error == "skip")
