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
from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.data.fingerprint import READING, hash_parts, printable
from geovq.data.layout import sort_names
from geovq.data.split import draw_test_part
from geovq.data.types import DataInfo, RawImages, count_classes
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
    """The part ("" for all images) and the content that an array's name tells, in either order, or None."""
    words = key.lower().split("_")
    part = next((PARTS[word] for word in words if word in PARTS), "")
    rest = [word for word in words if word not in PARTS]
    if len(rest) != 1 or rest[0] not in CONTENTS or len(words) > 2:
        return None
    return part, CONTENTS[rest[0]]


class NpzSource:
    """The arrays of ``path``; ``test_fraction`` and ``seed`` draw a test part where the file has none."""

    def __init__(self, name: str, path: Path, *, test_fraction: float, seed: int) -> None:
        self.name = name
        self.path = path
        self.test_fraction = test_fraction
        self.seed = seed

    @property
    def location(self) -> str:
        """The file."""
        return printable(str(self.path))

    def _array(self, key: str) -> np.ndarray:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return arrays[key]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{self.location}: {key} cannot be read ({error}); save it again with numpy.savez"
            ) from error

    @cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of each array, read from its header."""
        shapes = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for member in archive.namelist():
                    with archive.open(member) as stream:
                        version = np.lib.format.read_magic(stream)
                        read = (
                            np.lib.format.read_array_header_1_0
                            if version == (1, 0)
                            else np.lib.format.read_array_header_2_0
                        )
                        shape, _, dtype = read(stream)
                        told, found = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size
                        if told != found - stream.tell() and not dtype.hasobject:
                            raise ValueError(f"{member} tells of {told:,} bytes and holds {found - stream.tell():,}")
                    shapes[member.removesuffix(".npy")] = (shape, dtype)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.location}: not a readable .npz ({error}); save it with numpy.savez") from error
        return shapes

    @cached_property
    def _keys(self) -> dict[tuple[str, str], str]:
        """The array of each part and content; of several the one with the name that comes first in the lists."""
        order = list(CONTENTS)
        found = sorted(
            (key for key in self._shapes if role_of(key)),
            key=lambda key: min(order.index(word) for word in key.lower().split("_") if word in CONTENTS),
        )
        return {role: key for key in reversed(found) if (role := role_of(key)) is not None}

    @cached_property
    def _parts(self) -> tuple[str, str | None]:
        """Names of the parts that hold training and test images; None where a test part has to be drawn."""
        keys = self._keys
        with_images = {part for part, content in keys if content == "images"}
        held_out = next((part for part in ("test", "validation") if part in with_images), None)
        if "train" in with_images and held_out is not None and "" not in with_images:
            if (("train", "labels") in keys) != ((held_out, "labels") in keys):
                raise DataError(
                    f"{self.location}: labels for one part only; give train_labels and test_labels, or neither"
                )
            return "train", held_out
        if with_images == {""}:
            return "", None
        listed = ", ".join(printable(key) for key in sorted(self._shapes)) or "none"
        raise DataError(f"{self.location}: found arrays {listed}; expected {EXPECTED}")

    @cached_property
    def _remarks(self) -> tuple[str, ...]:
        train, test = self._parts
        used = {key for (part, _), key in self._keys.items() if part in (train, test)}
        ignored = [printable(key) for key in self._shapes if key not in used]
        told = f"images and labels are {', '.join(sorted(used))}"
        return (f"{told}; left out {', '.join(ignored)}",) if ignored else ()

    def _image_shape(self, key: str) -> tuple[int, int, int]:
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

    def _images(self, key: str) -> np.ndarray:
        """``(N, C, H, W)`` of the images ``key``."""
        array = self._array(key)
        if array.ndim == 3:
            return array[:, None]
        if array.shape[3] in (1, 3):
            array = array.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(array)

    def _raw_labels(self, part: str) -> np.ndarray | None:
        """Labels of a part as they are stored."""
        key, (n_images, *_) = self._keys.get((part, "labels")), self._shapes[self._keys[part, "images"]][0]
        if key is None:
            return None
        labels = self._array(key)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n_images,) or labels.dtype.kind not in "iuU":
            raise DataError(
                f"{self.location}: {key} is {labels.dtype} of shape {labels.shape}, expected {n_images} integers or "
                "names; convert it, or leave it out"
            )
        return labels

    @cached_property
    def _labels(self) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
        """Labels 0..n-1 of the training images and of the test images, and the class names.

        Without a test part in the file the first holds the labels of all images.
        """
        train_part, test_part = self._parts
        train = self._raw_labels(train_part)
        if train is None:
            return None, None, ()
        values = np.unique(train)
        if values.dtype.kind == "U":
            values = np.array(sort_names(values.tolist()))
        index = {value: number for number, value in enumerate(values.tolist())}
        names = tuple(printable(str(value)) for value in values)
        test = None if test_part is None else self._raw_labels(test_part)
        unknown = sorted(set(() if test is None else test.tolist()) - index.keys())
        if unknown:
            raise DataError(f"{self.location}: test label {unknown[0]} has no training image; remove it or add some")

        def numbers(labels: np.ndarray | None) -> np.ndarray | None:
            return None if labels is None else np.array([index[value] for value in labels.tolist()], dtype=np.int64)

        return numbers(train), numbers(test), names

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and the test part of all images."""
        shape, _ = self._shapes[self._keys["", "images"]]
        return draw_test_part(shape[0], self._labels[0], self.test_fraction, self.seed)

    @cached_property
    def _part_labels(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Labels of the training and of the test images."""
        train, test, _ = self._labels
        if self._parts[1] is None and train is not None:
            in_train, in_test = self._drawn
            return train[in_train], train[in_test]
        return train, test

    @cached_property
    def _info(self) -> DataInfo:
        train_part, test_part = self._parts
        train_key = self._keys[train_part, "images"]
        shape = self._image_shape(train_key)
        if test_part is None:
            n_train, n_test = (len(part) for part in self._drawn)
        else:
            test_key = self._keys[test_part, "images"]
            test_shape = self._image_shape(test_key)
            if shape != test_shape:
                raise DataError(f"{self.location}: {train_key} are (C, H, W) {shape}, {test_key} {test_shape}")
            n_train, n_test = self._shapes[train_key][0][0], self._shapes[test_key][0][0]
        names = self._labels[2]
        return DataInfo(
            name=self.name,
            n_train=n_train,
            n_test=n_test,
            channels=shape[0],
            height=shape[1],
            width=shape[2],
            n_classes=len(names),
            class_names=names,
            fingerprint=hash_parts([("reading", READING), ("npz", self.path)]),
            class_counts=count_classes(*self._part_labels, len(names)),
            remarks=self._remarks,
        )

    def info(self) -> DataInfo:
        """Facts from the arrays' headers and the labels."""
        return self._info

    def load(self) -> RawImages:
        """All images and labels in file order."""
        import torch

        self.info()  # refuse what the headers already show to be wrong
        train_part, test_part = self._parts
        train = self._images(self._keys[train_part, "images"])
        if test_part is None:
            in_train, in_test = self._drawn
            train, test = train[in_train], train[in_test]
        else:
            test = self._images(self._keys[test_part, "images"])
        train_labels, test_labels = self._part_labels

        def tensor(labels: np.ndarray | None) -> torch.Tensor | None:
            return None if labels is None else torch.from_numpy(labels)

        return RawImages(torch.from_numpy(train), tensor(train_labels), torch.from_numpy(test), tensor(test_labels))
