"""The training and the test part of a source, and what the sources here have in common.

Every part is drawn once from a seed, keeps dataset order inside itself, and no image is in two parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geovq.data.fingerprint import printable
from geovq.data.types import DataInfo, RawImages, count_classes
from geovq.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Each kind of draw has its own stream: the same seed never ties one part to another.
TEST_STREAM, VALIDATION_STREAM, LIMIT_STREAM = 1, 2, 3


@dataclass(frozen=True)
class Parts:
    """Names or positions of the training and the test images (none: to be drawn), int64 labels and class names.

    ``remark`` says how the parts were understood, where that is worth telling.
    """

    train: Sequence[Any]
    test: Sequence[Any]
    train_labels: NDArray[np.int64] | None
    test_labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    remark: str | None = None

    @staticmethod
    def of_classes(
        images: Sequence[Sequence[Any]], classes: Sequence[Sequence[Any]], location: str, remark: str | None = None
    ) -> Parts:
        """Parts, a test part perhaps missing, whose labels number their images' classes; of none are no labels.

        Raises ``DataError`` where a class has test images only.
        """
        (train, test), (train_classes, test_classes) = (*images, ())[:2], (*classes, ())[:2]
        unknown = sort_names(set(test_classes) - set(train_classes))
        if unknown:
            raise DataError(
                f"{location}: class {printable(str(unknown[0]))} has test images but no training image; "
                "add some or remove it"
            )
        index = {name: number for number, name in enumerate(sort_names(set(train_classes)))}
        numbers = [[index[name] for name in part] for part in (train_classes, test_classes)]
        train_labels, test_labels = (np.array(part, np.int64) if index else None for part in numbers)
        return Parts(train, test, train_labels, test_labels, tuple(printable(str(name)) for name in index), remark)

    def drawn(self, test_fraction: float, seed: int) -> Parts:
        """These parts, or where there is no test part, one that ``draw_test_part`` has drawn."""
        if len(self.test):
            return self
        labels = self.train_labels
        kept, taken = draw_test_part(len(self.train), labels, test_fraction, seed)
        return replace(
            self,
            train=[self.train[i] for i in kept],
            test=[self.train[i] for i in taken],
            train_labels=None if labels is None else labels[kept],
            test_labels=None if labels is None else labels[taken],
        )


def sort_names(names: Iterable[Any]) -> list[Any]:
    """Names of classes in order: by value where all are whole numbers, else by letters."""
    names = sorted(names)
    return sorted(names, key=int) if all(str(name).isdecimal() for name in names) else names


def draw_test_part(
    n_images: int, labels: NDArray[np.int64] | None, test_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Increasing indices of the training and the test part of a source that has no test part.

    With labels every class gives the same fraction, rounded, so the test part is as balanced as the
    source, but keeps one training image. Raises ``DataError`` where a part stays empty.
    """
    generator = np.random.default_rng([seed, TEST_STREAM])
    groups = [np.arange(n_images)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    in_test = np.zeros(n_images, dtype=bool)
    for members in groups:
        count = min(round(test_fraction * len(members)), len(members) - 1)
        in_test[generator.permutation(members)[:count]] = True
    if in_test.all() or not in_test.any():
        raise DataError(
            f"data.test_fraction={test_fraction} of {n_images} images in {len(groups)} classes leaves "
            f"{int(in_test.sum())} test images; change it or give more images"
        )
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


class PartedSource(ABC):
    """A source whose parts and classes are known before its images are decoded.

    ``test_fraction`` of each class is drawn by ``seed`` where ``path`` has no test part.
    """

    def __init__(self, name: str, path: Path, test_fraction: float = 0.0, seed: int = 0) -> None:
        self.name = name
        self.path = path
        self.location = printable(str(path))
        self.test_fraction = test_fraction
        self.seed = seed

    @cached_property
    def parts(self) -> Parts:
        """Both parts, with their labels."""
        return self._told_parts().drawn(self.test_fraction, self.seed)

    @abstractmethod
    def _told_parts(self) -> Parts:
        """The parts that lie there, perhaps without a test part."""

    @abstractmethod
    def _image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""

    @abstractmethod
    def _fingerprint(self) -> str:
        """Hash of the content."""

    @abstractmethod
    def _images(self) -> tuple[np.ndarray, np.ndarray, *tuple[Any, ...]]:
        """uint8 ``(N, C, H, W)`` of both parts; perhaps ``values`` and ``remarks`` of ``RawImages``."""

    def _remarks(self) -> tuple[str, ...]:
        """What was left out, and how the layout was understood."""
        return ()

    @cached_property
    def _info(self) -> DataInfo:
        shape, parts = self._image_shape(), self.parts
        sizes, names = (len(parts.train), len(parts.test)), parts.class_names
        counts = count_classes(parts.train_labels, parts.test_labels, len(names))
        return DataInfo(self.name, *sizes, *shape, len(names), names, self._fingerprint(), counts, self._remarks())

    def info(self) -> DataInfo:
        """Facts known without decoding the images; fetches the files first where they are missing."""
        return self._info

    def labels(self) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """Labels of both parts, or None of each."""
        return self.parts.train_labels, self.parts.test_labels

    def load(self) -> RawImages:
        """All images and labels, each part in dataset order."""
        import torch

        self.info()  # refuses what is wrong before anything is decoded
        train, test, *told = self._images()
        train_labels, test_labels = (None if part is None else torch.from_numpy(part) for part in self.labels())
        return RawImages(torch.from_numpy(train), train_labels, torch.from_numpy(test), test_labels, *told)
