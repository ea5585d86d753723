"""What a source of images hands out: facts known before any compute, and images in memory or mapped from files.

Images are ``(N, C, H, W)`` uint8 tensors, labels ``(N,)`` int64; both are whole, so a batch is an index selection.
Nothing here imports torch, so that a start-up path may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from geovq.data.fingerprint import hash_parts
from geovq.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


@dataclass(frozen=True)
class DataInfo:
    """Facts about a set of images, told by file headers before anything is decoded.

    ``n_train`` counts the training part *before* the validation part is taken from it. ``n_classes`` is 0 without
    labels. ``fingerprint`` is a sha256 of the content, wherever and whenever it was written; a caller's key needs the
    settings of its use (``image_size``, ``test_fraction``, seed, …) beside it. ``class_counts`` are the training and
    the test images of each class; ``remarks`` say what was left out and how the layout was understood.
    """

    name: str
    n_train: int
    n_test: int
    channels: int
    height: int
    width: int
    n_classes: int
    class_names: tuple[str, ...]
    fingerprint: str
    class_counts: tuple[tuple[int, int], ...] = ()
    remarks: tuple[str, ...] = ()

    @staticmethod
    def of(name: str, images: RawImages, class_names: tuple[str, ...] = ()) -> DataInfo:
        """The facts of images that are in memory anyway."""
        parts = zip(images._fields[:4], images[:4], strict=True)
        arrays = {field: part.numpy() for field, part in parts if part is not None}
        channels, height, width = images.train_images.shape[1:]
        return DataInfo(
            name,
            len(images.train_images),
            len(images.test_images),
            channels,
            height,
            width,
            len(class_names),
            class_names,
            hash_parts((field, str(array.shape).encode() + array.tobytes()) for field, array in arrays.items()),
            count_classes(arrays.get("train_labels"), arrays.get("test_labels"), len(class_names)),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.channels, self.height, self.width


class PixelSettings(NamedTuple):
    """What is made of the stored pixels.

    ``image_size`` crops the centre square and resizes it, ``channels`` makes all images grey (1) or RGB (3),
    ``full_scale`` is the stored value that counts as white; None leaves each as it is.
    """

    image_size: int | None = None
    channels: int | None = None
    full_scale: int | None = None


class ValueRange(NamedTuple):
    """Smallest and largest value of some images as they are stored, and the value that counts as white."""

    smallest: int
    largest: int
    white: int

    @staticmethod
    def over(ranges: Iterable[ValueRange]) -> ValueRange:
        """The range of all; of files with 8 and with 16 bits, ``largest`` is that of the brightest."""
        ranges = list(ranges)
        brightest = max(ranges, key=lambda values: values.largest / values.white)
        return brightest._replace(smallest=min(values.smallest for values in ranges))


class DamagedFile(NamedTuple):
    """An image that cannot be read: its part, its position in that, and what is wrong, with the file's name."""

    in_test: bool
    position: int
    fault: str


class RawImages(NamedTuple):
    """The two parts of a source: uint8 ``(N, C, H, W)`` images and int64 ``(N,)`` labels or None.

    ``values`` is the range of what is stored, where the images have another; ``remarks`` are what only decoding tells;
    rows of ``damaged`` files mean nothing and are left out of every split.
    """

    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None
    values: ValueRange | None = None
    remarks: tuple[str, ...] = ()
    damaged: tuple[DamagedFile, ...] = ()

    @property
    def stored_range(self) -> ValueRange:
        """The range of the values that the source has stored."""
        parts = (self.train_images, self.test_images)
        return self.values or ValueRange(min(int(p.min()) for p in parts), max(int(p.max()) for p in parts), 255)


def count_classes(
    train_labels: np.ndarray | None, test_labels: np.ndarray | None, n_classes: int
) -> tuple[tuple[int, int], ...]:
    """Training and test images of each class, none without labels."""
    if train_labels is None or test_labels is None:
        return ()
    train, test = (np.bincount(labels, minlength=n_classes).tolist() for labels in (train_labels, test_labels))
    return tuple(zip(train, test, strict=True))


class ImageSource(Protocol):
    """Where images come from: ``info`` reads headers, ``load`` reads everything."""

    @property
    def location(self) -> str:
        """The file or folder the images are read from, for people."""
        ...

    def info(self) -> DataInfo:
        """Facts known without decoding an image; fetches the files first where they are missing."""
        ...

    def load(self) -> RawImages:
        """All images and labels in dataset order."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """One part of the data: uint8 ``images`` ``(N, C, H, W)`` and int64 ``labels`` ``(N,)`` or None."""

    images: Tensor
    labels: Tensor | None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or str(self.images.dtype) != "torch.uint8":
            found = f"{tuple(self.images.shape)} {self.images.dtype}"
            raise DataError(f"images are {found}; a split holds (N, C, H, W) torch.uint8")
        if self.labels is not None and tuple(self.labels.shape) != (len(self.images),):
            raise DataError(f"labels are {tuple(self.labels.shape)} for {len(self.images)} images; expected one each")

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class ImageData:
    """Training, validation and test images, each in dataset order.

    The indices (int64) are the positions of the images in the source's own training and test parts, so that a result
    can name its image. ``info`` has the counts that are held, under a ``limit`` too. ``remarks`` are lines for people:
    the range of values, what the files held beside one image, classes without training images.
    """

    info: DataInfo
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    train_indices: Tensor
    validation_indices: Tensor
    test_indices: Tensor
    remarks: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """The three parts by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
