"""A data set: drawn discs and squares, so that the example needs no files."""

from __future__ import annotations

import numpy as np
import torch

from geovq.configuration.fields import Count, Seed
from geovq.data import DataInfo, RawImages

NAMES = ("disc", "square")


class Shapes:
    """Grey images of discs and squares of any size and place.

    Args:
        n_images: of the training part; the test part has a fifth as many.
        side: pixels.
        seed: of the drawing.
    """

    location = "my_lab.shapes"

    def __init__(self, n_images: Count, side: Count, seed: Seed) -> None:
        self.n_images = n_images
        self.side = side
        self.seed = seed

    def info(self) -> DataInfo:
        """Facts that are asked for before any compute."""
        return DataInfo.of("shapes", self.load(), NAMES)

    def load(self) -> RawImages:
        """uint8 images ``(N, 1, side, side)`` and int64 labels ``(N,)`` of both parts."""
        generator = np.random.default_rng(self.seed)
        train = self._draw(generator, self.n_images)
        return RawImages(*train, *self._draw(generator, max(1, self.n_images // 5)))

    def _draw(self, generator: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = generator.integers(0, 2, n)
        x, y = np.meshgrid(np.linspace(-1, 1, self.side), np.linspace(-1, 1, self.side))
        cx, cy = generator.uniform(-0.4, 0.4, (2, n, 1, 1))
        radius = generator.uniform(0.3, 0.6, (n, 1, 1))
        across = np.where(labels[:, None, None] == 0, np.hypot(x - cx, y - cy), np.maximum(abs(x - cx), abs(y - cy)))
        ink = np.clip((radius - across) * self.side / 2 + 0.5, 0, 1)  # an edge of one pixel
        return torch.from_numpy((255 * ink[:, None]).astype(np.uint8)), torch.from_numpy(labels)
