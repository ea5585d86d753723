"""``data.image_size`` and ``data.channels`` for sources whose images are already arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geovq.data.decode import fit_image
from geovq.data.types import DataInfo, ImageSource, RawImages
from geovq.progress import track

if TYPE_CHECKING:
    from torch import Tensor


class ReshapedSource:
    """``source`` with its images cropped, resized and turned grey or RGB as ``geovq.data.decode`` does."""

    def __init__(self, source: ImageSource, image_size: int | None, channels: int | None) -> None:
        self.source = source
        self.image_size = image_size
        self.channels = channels

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
        if tuple(raw.train_images.shape[1:]) == info.image_shape:
            return raw
        return raw._replace(
            train_images=self._reshape(raw.train_images, info),
            test_images=self._reshape(raw.test_images, info),
        )

    def _reshape(self, images: Tensor, info: DataInfo) -> Tensor:
        import PIL.Image
        import torch

        reshaped = np.empty((len(images), *info.image_shape), dtype=np.uint8)
        for index, image in enumerate(track(images.numpy(), "resizing images", len(images))):
            pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
            reshaped[index] = fit_image(PIL.Image.fromarray(pixels), self.image_size, info.channels)
        return torch.from_numpy(reshaped)
