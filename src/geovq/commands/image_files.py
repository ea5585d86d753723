"""Decoded images as files."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from geovq.errors import ConfigError, DataError
from geovq.pipeline.disk import write_whole

if TYPE_CHECKING:
    from torch import Tensor


def file_names(names: list[str] | None, n: int) -> list[str]:
    """Where the PNG of each image goes: the original's name, or its number.

    Raises:
        DataError: a name that leads out of the folder, or that several images have.
    """
    if names is None:
        return [f"{index:0{len(str(n - 1))}d}.png" for index in range(n)]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name or "\0" in name:
            raise DataError(f"an image is named {name!r}, which leads out of the folder; compress with names=false")
    plain, whole = [str(PurePosixPath(name).with_suffix(".png")) for name in names], [f"{name}.png" for name in names]
    times = Counter(plain) + Counter(whole)
    found = [short if times[short] == 1 else long for short, long in zip(plain, whole, strict=True)]
    twice = [name for name, times in Counter(found).items() if times > 1]
    if twice:
        raise DataError(f"several images are named {twice[0]!r}; rename them, or compress with names=false")
    return found


def check_new(output: Path, files: Iterable[Path]) -> None:
    """Refuse to replace what is there: it may be the originals.

    Raises:
        ConfigError: one of the files is there.
    """
    there = [path for path in files if os.path.lexists(path)]
    if there:
        more = f" and {len(there) - 1:,} more files" if len(there) > 1 else ""
        raise ConfigError(f"output={output}: {there[0]}{more} would be replaced; name another, or remove what is there")


def write_folder(folder: Path, images: Tensor, targets: list[str]) -> None:
    """PNG files under their places in the folder (``file_names``), all of them or none."""
    import PIL.Image

    from geovq.progress import track

    paths = [folder / target for target in targets]
    check_new(folder, paths)
    made: list[Path] = []
    try:
        for image, path in track(zip(images.numpy(), paths, strict=True), "writing images", len(images)):
            made += [each for each in reversed((path.parent, *path.parent.parents)) if not each.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = io.BytesIO()
            PIL.Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(stream, "PNG")
            made.append(path)
            write_whole(path, stream.getvalue())
    except BaseException:
        for each in reversed(made):
            with suppress(OSError):  # a folder in which someone else has put something
                each.rmdir() if each.is_dir() else each.unlink(missing_ok=True)
        raise


def write_npz(path: Path, images: Tensor, names: list[str] | None) -> None:
    """``images`` (N, H, W) or (N, H, W, 3), and ``names``."""
    import numpy as np

    check_new(path, [path])

    arrays: dict[str, Any] = {
        "images": images[:, 0].numpy() if images.shape[1] == 1 else images.permute(0, 2, 3, 1).numpy()
    }
    if names is not None:
        arrays["names"] = np.array(names)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, stream.getvalue())
