"""What the data room hands out: facts known before any compute, and images in memory.

Images are ``(N, C, H, W)`` uint8 tensors, labels ``(N,)`` int64; both stay whole in memory, so a batch
is an index selection on any device. Nothing here imports torch, so that a start-up path may.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from geovq.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DataInfo:
    """Facts about a set of images, told by file headers before anything is decoded.

    ``n_train`` counts the training part *before* the validation part is taken from it. ``n_classes`` is
    0 without labels. ``fingerprint`` is a sha256 of the content: the same wherever the files lie and
    whenever they were written. How that content is used (``image_size``, ``channels``,
    ``test_fraction``, seed, ``limit``) is not in it: a caller's key needs those settings beside it.
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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.channels, self.height, self.width


class RawImages(NamedTuple):
    """The two parts of a source: uint8 ``(N, C, H, W)`` images and int64 ``(N,)`` labels or None."""

    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None


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

    ``train_indices``, ``validation_indices`` and ``test_indices`` (int64) are the positions of the
    images in the source's own training and test parts, so that a result can name its image.
    ``info`` describes what is held: under a ``limit`` its counts are the limited ones.
    """

    info: DataInfo
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    train_indices: Tensor
    validation_indices: Tensor
    test_indices: Tensor

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """The three parts by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}
