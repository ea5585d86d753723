"""A person's own images in one ``.npz`` file of arrays.

Either ``images`` with optional ``labels``, of which a test part is drawn, or ``train_images`` and
``test_images`` with optional ``train_labels`` and ``test_labels``. Images are uint8 ``(N, H, W)``,
``(N, H, W, C)`` or ``(N, C, H, W)`` with one or three channels.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.data.fingerprint import hash_parts
from geovq.data.split import draw_test_part
from geovq.data.types import DataInfo, RawImages
from geovq.errors import DataError

EXPECTED = "images [labels], or train_images test_images [train_labels test_labels]"


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
        return str(self.path)

    def _array(self, key: str) -> np.ndarray:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return arrays[key]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path}: {key} cannot be read ({error}); save it again with numpy.savez") from error

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
                    shapes[member.removesuffix(".npy")] = (shape, dtype)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path}: not a readable .npz ({error}); save it with numpy.savez") from error
        return shapes

    @cached_property
    def _has_test(self) -> bool:
        keys = self._shapes.keys()
        if {"train_images", "test_images"} <= keys and "images" not in keys:
            if ("train_labels" in keys) != ("test_labels" in keys):
                raise DataError(f"{self.path}: labels for one part only; give train_labels and test_labels, or neither")
            return True
        if "images" in keys and not {"train_images", "test_images"} & keys:
            return False
        raise DataError(f"{self.path}: found arrays {', '.join(sorted(keys)) or 'none'}; expected {EXPECTED}")

    def _image_shape(self, key: str) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images ``key``; raises ``DataError`` for another type or shape."""
        shape, dtype = self._shapes[key]
        if dtype != np.uint8:
            raise DataError(f"{self.path}: {key} is {dtype}, expected uint8 values 0..255; scale and convert it")
        if 0 in shape:
            raise DataError(f"{self.path}: {key} is empty: shape {shape}")
        if len(shape) == 3:
            return 1, shape[1], shape[2]
        if len(shape) == 4 and shape[3] in (1, 3):
            return shape[3], shape[1], shape[2]
        if len(shape) == 4 and shape[1] in (1, 3):
            return shape[1], shape[2], shape[3]
        raise DataError(f"{self.path}: {key} has shape {shape}, expected (N, H, W) or (N, H, W, C) with C 1 or 3")

    def _images(self, key: str) -> np.ndarray:
        """``(N, C, H, W)`` of the images ``key``."""
        array = self._array(key)
        if array.ndim == 3:
            return array[:, None]
        if array.shape[3] in (1, 3):
            array = array.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(array)

    def _raw_labels(self, key: str, n_images: int) -> np.ndarray | None:
        if key not in self._shapes:
            return None
        labels = self._array(key)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != (n_images,) or labels.dtype.kind not in "iuU":
            raise DataError(
                f"{self.path}: {key} is {labels.dtype} of shape {labels.shape}, expected {n_images} integers or names"
            )
        return labels

    @cached_property
    def _labels(self) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
        """Labels 0..n-1 of the training images and of the test images, and the class names.

        Without a test part in the file the first holds the labels of all images.
        """
        prefix = "train_" if self._has_test else ""
        train = self._raw_labels(f"{prefix}labels", self._shapes[f"{prefix}images"][0][0])
        if train is None:
            return None, None, ()
        values, numbers = np.unique(train, return_inverse=True)
        names = tuple(str(value) for value in values)
        if not self._has_test:
            return numbers.astype(np.int64), None, names
        test = self._raw_labels("test_labels", self._shapes["test_images"][0][0])
        assert test is not None  # both or neither, checked with the keys
        unknown = np.setdiff1d(test, values)
        if len(unknown):
            raise DataError(f"{self.path}: test label {unknown[0]} has no training image; remove it or add some")
        return numbers.astype(np.int64), np.searchsorted(values, test).astype(np.int64), names

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training and the test part of ``images``."""
        return draw_test_part(self._shapes["images"][0][0], self._labels[0], self.test_fraction, self.seed)

    @cached_property
    def _info(self) -> DataInfo:
        if self._has_test:
            shape, test_shape = self._image_shape("train_images"), self._image_shape("test_images")
            if shape != test_shape:
                raise DataError(f"{self.path}: train_images are (C, H, W) {shape}, test_images {test_shape}")
            n_train, n_test = self._shapes["train_images"][0][0], self._shapes["test_images"][0][0]
        else:
            shape = self._image_shape("images")
            n_train, n_test = (len(part) for part in self._drawn)
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
            fingerprint=hash_parts([("npz", self.path)]),
        )

    def info(self) -> DataInfo:
        """Facts from the arrays' headers and the labels."""
        return self._info

    def load(self) -> RawImages:
        """All images and labels in file order."""
        import torch

        self.info()  # refuse what the headers already show to be wrong
        train_labels, test_labels, _ = self._labels
        if self._has_test:
            train, test = self._images("train_images"), self._images("test_images")
        else:
            images, (in_train, in_test) = self._images("images"), self._drawn
            train, test = images[in_train], images[in_test]
            if train_labels is not None:
                train_labels, test_labels = train_labels[in_train], train_labels[in_test]

        def tensor(labels: np.ndarray | None) -> torch.Tensor | None:
            return None if labels is None else torch.from_numpy(labels)

        return RawImages(torch.from_numpy(train), tensor(train_labels), torch.from_numpy(test), tensor(test_labels))
