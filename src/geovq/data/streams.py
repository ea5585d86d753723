"""Sources of stored arrays, read from beginning to end in blocks, so that they need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from geovq.data.files import FilesSource
from geovq.data.limits import check_memory
from geovq.data.types import DataInfo, ImageSource, RawImages, ValueRange

if TYPE_CHECKING:
    from numpy.typing import NDArray

Labels = tuple["NDArray[np.int64] | None", "NDArray[np.int64] | None"]


class StoredBlock(NamedTuple):
    """Some images (n, C, H, W) uint8 in a row, which are of the test part (n,), and the range of what is stored.

    Training images come in the order of their part, test images in that of theirs.
    """

    images: np.ndarray
    in_test: NDArray[np.bool_]
    values: ValueRange


class StreamedSource(Protocol):
    """A source that need not hold all its images at once."""

    @property
    def location(self) -> str:
        """As of any source."""
        ...

    def info(self) -> DataInfo:
        """As of any source."""
        ...

    def labels(self) -> Labels:
        """Of both parts."""
        ...

    def blocks(self, n_images: int) -> Iterator[StoredBlock]:
        """All images, at most so many at a time."""
        ...


class LoadedSource:
    """The blocks of a source that has ``load`` alone: all its images are in memory for a while."""

    def __init__(self, source: ImageSource) -> None:
        self.source, self.location = source, source.location
        self._raw: RawImages | None = None

    def info(self) -> DataInfo:
        """Of the source."""
        return self.source.info()

    def loaded(self) -> RawImages:
        """Images and labels, checked."""
        from geovq.data.split import check_images

        if self._raw is None:
            info = self.source.info()
            check_memory(info, self.source.location)
            self._raw = self.source.load()
            check_images(self.source, self._raw, info)
        return self._raw

    def labels(self) -> Labels:
        """Of both parts."""
        parts = (self.loaded().train_labels, self.loaded().test_labels)
        train, test = (None if part is None else part.numpy() for part in parts)
        return train, test

    def blocks(self, n_images: int) -> Iterator[StoredBlock]:
        """The training part, then the test part."""
        raw = self.loaded()
        for in_test, part in enumerate((raw.train_images, raw.test_images)):
            for images in part.split(n_images):
                yield StoredBlock(images.numpy(), np.full(len(images), bool(in_test)), raw.stored_range)


def is_streamed(source: object) -> bool:
    """Whether a source can give its images without ever holding all of them."""
    inner = getattr(source, "source", source)  # of one whose images are reshaped
    return hasattr(inner, "blocks") or isinstance(inner, FilesSource)


def streamed(source: ImageSource) -> StreamedSource:
    """The source itself where it has blocks, else what makes them of all its images."""
    return source if hasattr(source, "blocks") else LoadedSource(source)  # type: ignore[return-value]
