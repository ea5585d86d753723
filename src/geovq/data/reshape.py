"""``data.image_size``, ``data.channels`` and ``data.full_scale`` for sources whose images are already arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from geovq.data.decode import fit_image, stretching_table
from geovq.data.streams import Labels, StoredBlock, StreamedSource, streamed
from geovq.data.types import DataInfo, ImageSource, PixelSettings, RawImages, ValueRange
from geovq.progress import track


class ReshapedSource:
    """``source`` with its images stretched, cropped, resized and turned grey or RGB as ``geovq.data.decode`` does."""

    def __init__(self, source: ImageSource, pixels: PixelSettings) -> None:
        self.source, self.location, self.pixels = source, source.location, pixels

    def info(self) -> DataInfo:
        """The wrapped source's facts with the new shape; the fingerprint stays that of the content."""
        info, (size, channels, _) = self.source.info(), self.pixels
        return replace(info, channels=channels or info.channels, height=size or info.height, width=size or info.width)

    def load(self) -> RawImages:
        """The wrapped source's images in the new shape."""
        import torch

        raw, white = self.source.load(), self.pixels.full_scale
        values = raw.values if white is None else raw.stored_range._replace(white=white)
        parts = (raw.train_images, raw.test_images)
        train, test = (torch.from_numpy(reshape(images.numpy(), self.pixels)) for images in parts)
        return raw._replace(train_images=train, test_images=test, values=values)

    def labels(self) -> Labels:
        """Of the wrapped source."""
        return self._stream.labels()

    def blocks(self, n_images: int) -> Iterator[StoredBlock]:
        """The wrapped source's blocks in the new shape."""
        for images, in_test, values in self._stream.blocks(n_images):
            changed = reshape(images, self.pixels, said=False)
            if self.pixels.full_scale is None:
                values = ValueRange(int(changed.min()), int(changed.max()), 255)
            yield StoredBlock(changed, in_test, values._replace(white=self.pixels.full_scale or values.white))

    @cached_property
    def _stream(self) -> StreamedSource:
        return streamed(self.source)


def reshape(images: np.ndarray, settings: PixelSettings, said: bool = True) -> np.ndarray:
    """(N, C, H, W) uint8 images stretched, cropped, resized and turned grey or RGB, under a bar if ``said``."""
    import PIL.Image

    if settings.full_scale is not None:
        images = stretching_table(settings.full_scale)[images]
    _, channels, height, width = images.shape
    side = settings.image_size
    shape = settings.channels or channels, side or height, side or width
    if images.shape[1:] == shape:
        return images
    stored, images = images, np.empty((len(images), *shape), dtype=np.uint8)
    for index, image in enumerate(track(stored, "resizing images", len(stored)) if said else stored):
        file = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        images[index] = fit_image(PIL.Image.fromarray(file), side, shape[0])
    return images
