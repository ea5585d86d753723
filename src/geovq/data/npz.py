"""A person's own images in one ``.npz`` file of arrays.

Either ``images`` with optional ``labels``, of which a test part is drawn, or ``train_images`` and
``test_images`` with optional ``train_labels`` and ``test_labels``; other usual names are known
(``x_train``, ``targets``). Images are uint8 ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` with one
or three channels.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from geovq.data.fingerprint import READING, hash_parts, printable
from geovq.data.parts import PartedSource, Parts
from geovq.data.streams import StoredBlock
from geovq.data.types import ValueRange
from geovq.errors import DataError

EXPECTED = "images [labels], or train_images test_images [train_labels test_labels]"
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
CONTENTS = {
    **dict.fromkeys(("images", "image", "imgs", "x", "data"), "images"),
    **dict.fromkeys(("labels", "label", "y", "targets", "target", "classes"), "labels"),
}


def role_of(key: str) -> tuple[str, str] | None:
    """The part ("" for all images) and the word of ``CONTENTS`` in an array's name, in either order, or None."""
    words = key.lower().split("_")
    parts = [PARTS[word] for word in words if word in PARTS]
    rest = [word for word in words if word not in PARTS]
    return ("".join(parts), rest[0]) if len(words) <= 2 and len(rest) == 1 and rest[0] in CONTENTS else None


class NpzSource(PartedSource):
    """The arrays of ``path``; ``test_fraction`` and ``seed`` draw a test part where the file has none."""

    @contextmanager
    def _reading(self, failed: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.location}: {failed} ({error}); save it with numpy.savez") from error

    def blocks(self, n_images: int) -> Iterator[StoredBlock]:
        """The images as they lie in the file, at most ``n_images`` at a time."""
        self._image_shape()
        parts = self.parts
        drawn = len(self._image_keys) == 1
        for in_test, key in enumerate(self._image_keys):
            belongs = np.full(self._shapes[key][0][0], bool(in_test))
            if drawn:
                belongs[list(parts.test)] = True
            start = 0
            for stored in self._rows(key, n_images):
                images = _channels_first(stored)
                values = ValueRange(int(images.min()), int(images.max()), 255)
                yield StoredBlock(images, belongs[start : start + len(images)], values)
                start += len(images)

    def _rows(self, key: str, n_rows: int) -> Iterator[np.ndarray]:
        """An array in parts; one that lies column by column is read whole."""
        shape, dtype = self._shapes[key]
        with (
            self._reading(f"{key} cannot be read"),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{key}.npy") as stream,
        ):
            if _header(stream)[1]:
                yield from np.split(self._array(key), range(n_rows, shape[0], n_rows))
                return
            for start in range(0, shape[0], n_rows):
                part = (min(n_rows, shape[0] - start), *shape[1:])
                yield np.frombuffer(stream.read(math.prod(part)), dtype).reshape(part)
            stream.read(1)  # to the end, where the checksum is

    def _array(self, key: str) -> np.ndarray:
        with self._reading(f"{key} cannot be read"), np.load(self.path, allow_pickle=False) as arrays:
            return arrays[key]

    @cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of each array, read from its header."""
        shapes = {}
        with self._reading("not a readable .npz"), zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    shape, _, dtype = _header(stream)
                    told, found = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
                if told != found and not dtype.hasobject:
                    raise ValueError(f"{member.filename} tells of {told:,} bytes and holds {found:,}")
                shapes[member.filename.removesuffix(".npy")] = (shape, dtype)
        return shapes

    @cached_property
    def _keys(self) -> dict[tuple[str, str], str]:
        """The array of each part and content; of several the one with the name that comes first in the lists."""
        order, keys = list(CONTENTS), dict[tuple[str, str], str]()
        roles = [(*role, key) for key in self._shapes if (role := role_of(key))]
        for part, word, key in sorted(roles, key=lambda role: order.index(role[1])):
            keys.setdefault((part, CONTENTS[word]), key)
        return keys

    @cached_property
    def _part_names(self) -> tuple[str, ...]:
        """Names of the parts that hold training and test images; of one alone a test part has to be drawn."""
        with_images = {part for part, content in self._keys if content == "images"}
        held_out = next((part for part in ("test", "validation") if part in with_images), None)
        if "train" in with_images and held_out is not None and "" not in with_images:
            if (("train", "labels") in self._keys) != ((held_out, "labels") in self._keys):
                raise DataError(
                    f"{self.location}: labels for one part only; give train_labels and test_labels, or neither"
                )
            return "train", held_out
        if with_images == {""}:
            return ("",)
        listed = ", ".join(printable(key) for key in sorted(self._shapes)) or "none"
        raise DataError(f"{self.location}: found arrays {listed}; expected {EXPECTED}")

    def everything(self) -> tuple[list[str] | None, np.ndarray]:
        """The array ``names`` if there is one of a text per image, and all images (N, C, H, W) uint8.

        Those of the training part come first; no part is drawn.
        """
        self._image_shape()
        images = np.concatenate([_channels_first(self._array(key)) for key in self._image_keys])
        shape, dtype = self._shapes.get("names", ((), np.dtype(np.uint8)))
        return self._array("names").tolist() if dtype.kind == "U" and shape == images.shape[:1] else None, images

    @property
    def _image_keys(self) -> list[str]:
        return [self._keys[part, "images"] for part in self._part_names]

    def _classes(self, part: str) -> list[Any]:
        """The class of each image of a part as it is stored; empty without labels."""
        key, (n_images, *_) = self._keys.get((part, "labels")), self._shapes[self._keys[part, "images"]][0]
        if key is None:
            return []
        labels = self._array(key)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n_images,) or labels.dtype.kind not in "iuU":
            raise DataError(
                f"{self.location}: {key} is {labels.dtype} of shape {labels.shape}, expected {n_images} integers or "
                "names; convert it, or leave it out"
            )
        return labels.tolist()

    def _told_parts(self) -> Parts:
        images = [range(self._shapes[key][0][0]) for key in self._image_keys]
        return Parts.of_classes(images, [self._classes(part) for part in self._part_names], self.location)

    def _image_shape(self) -> tuple[int, int, int]:
        first, *others = [(key, self._shape_of(key)) for key in self._image_keys]
        for key, shape in others:
            if shape != first[1]:
                raise DataError(f"{self.location}: {first[0]} are (C, H, W) {first[1]}, {key} {shape}")
        return first[1]

    def _shape_of(self, key: str) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images ``key``; raises ``DataError`` for another type or shape."""
        shape, dtype = self._shapes[key]
        if dtype != np.uint8:
            raise DataError(f"{self.location}: {key} is {dtype}, expected uint8 values 0..255; scale and convert it")
        if 0 in shape:
            raise DataError(f"{self.location}: {key} is empty: shape {shape}")
        if len(shape) == 3:
            return 1, shape[1], shape[2]
        if len(shape) == 4 and shape[3] in (1, 3):
            return shape[3], shape[1], shape[2]
        if len(shape) == 4 and shape[1] in (1, 3):
            return shape[1], shape[2], shape[3]
        raise DataError(f"{self.location}: {key} has shape {shape}, expected (N, H, W) or (N, H, W, C) with C 1 or 3")

    def _remarks(self) -> tuple[str, ...]:
        used = {key for (part, _), key in self._keys.items() if part in self._part_names}
        ignored = ", ".join(printable(key) for key in self._shapes if key not in used)
        return (f"images and labels are {', '.join(sorted(used))}; left out {ignored}",) if ignored else ()

    def _fingerprint(self) -> str:
        return hash_parts([("reading", READING), ("npz", self.path)])

    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        train, *test = [_channels_first(self._array(key)) for key in self._image_keys]
        return (train, test[0]) if test else (train[self.parts.train], train[self.parts.test])


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it lies column by column, and type of an array whose content comes next."""
    form = np.lib.format
    is_first = form.read_magic(stream) == (1, 0)
    return (form.read_array_header_1_0 if is_first else form.read_array_header_2_0)(stream)


def _channels_first(images: np.ndarray) -> np.ndarray:
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images)
