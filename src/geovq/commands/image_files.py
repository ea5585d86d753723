"""Decoded images as files."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from geovq.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def file_names(names: list[str] | None, n: int) -> list[str]:
    """Where the PNG of each image goes: the original's name, or its number.

    Raises:
        DataError: a name that leads out of the folder.
    """
    if names is None:
        return [f"{index:0{len(str(n - 1))}d}.png" for index in range(n)]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name or "\0" in name:
            raise DataError(f"the file names an image {name!r}, which leads out of the folder; compress again")
    plain = [str(PurePosixPath(name).with_suffix(".png")) for name in names]
    times = Counter(plain)
    return [short if times[short] == 1 else f"{name}.png" for short, name in zip(plain, names, strict=True)]


def write_folder(folder: Path, images: Tensor, names: list[str] | None) -> None:
    """PNG files under the originals' names."""
    import PIL.Image

    from geovq.progress import track

    targets = file_names(names, len(images))
    for image, target in track(zip(images.numpy(), targets, strict=True), "writing images", len(images)):
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        PIL.Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(stream, "PNG")
        write_whole(path, stream.getvalue())


def write_npz(path: Path, images: Tensor, names: list[str] | None) -> None:
    """``images`` (N, H, W) or (N, H, W, 3), and ``names``."""
    import numpy as np

    arrays: dict[str, Any] = {
        "images": images[:, 0].numpy() if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()
    }
    if names is not None:
        arrays["names"] = np.array(names)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, stream.getvalue())
