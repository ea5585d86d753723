"""``data.image_size``, ``data.channels`` and ``data.full_scale`` for sources whose images are already arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geovq.data.decode import fit_image, stretching_table
from geovq.data.types import DataInfo, ImageSource, PixelSettings, RawImages, ValueRange
from geovq.progress import track

if TYPE_CHECKING:
    from torch import Tensor


class ReshapedSource:
    """``source`` with its images stretched, cropped, resized and turned grey or RGB as ``geovq.data.decode`` does."""

    def __init__(self, source: ImageSource, pixels: PixelSettings) -> None:
        self.source = source
        self.image_size, self.channels, self.full_scale = pixels

    @property
    def location(self) -> str:
        """Where the wrapped source reads."""
        return self.source.location

    def info(self) -> DataInfo:
        """The wrapped source's facts with the new shape; the fingerprint stays that of the content."""
        info = self.source.info()
        height, width = (self.image_size or info.height), (self.image_size or info.width)
        return replace(info, channels=self.channels or info.channels, height=height, width=width)

    def load(self) -> RawImages:
        """The wrapped source's images in the new shape."""
        info, raw = self.info(), self.source.load()
        if self.full_scale is not None:
            values = value_range(raw)._replace(white=self.full_scale)
            train, test = (self._stretch(images) for images in (raw.train_images, raw.test_images))
            raw = raw._replace(train_images=train, test_images=test, values=values)
        if tuple(raw.train_images.shape[1:]) == info.image_shape:
            return raw
        return raw._replace(
            train_images=self._reshape(raw.train_images, info),
            test_images=self._reshape(raw.test_images, info),
        )

    def _stretch(self, images: Tensor) -> Tensor:
        import torch

        assert self.full_scale is not None
        return torch.from_numpy(stretching_table(self.full_scale)[images.numpy()])

    def _reshape(self, images: Tensor, info: DataInfo) -> Tensor:
        import PIL.Image
        import torch

        reshaped = np.empty((len(images), *info.image_shape), dtype=np.uint8)
        for index, image in enumerate(track(images.numpy(), "resizing images", len(images))):
            pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
            reshaped[index] = fit_image(PIL.Image.fromarray(pixels), self.image_size, info.channels)
        return torch.from_numpy(reshaped)


def value_range(raw: RawImages) -> ValueRange:
    """The range of the values that a source has stored."""
    if raw.values is not None:
        return raw.values
    parts = (raw.train_images, raw.test_images)
    return ValueRange(min(int(part.min()) for part in parts), max(int(part.max()) for part in parts), 255)
