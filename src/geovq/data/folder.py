"""A person's own images: a folder tree or a zip of one."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from geovq.data.decode import decode_images, fit_image, read_image
from geovq.data.files import ImageFiles
from geovq.data.layout import Layout, read_layout
from geovq.data.split import draw_test_part
from geovq.data.types import DataInfo, RawImages


class FilesSource:
    """Images of ``files``, with the classes and the test part that their folders tell.

    Where the folders tell no test part, ``test_fraction`` of each class is drawn by ``seed``. The number
    of channels and the size are those of the first image unless given.
    """

    def __init__(
        self,
        name: str,
        files: ImageFiles,
        *,
        image_size: int | None,
        channels: int | None,
        test_fraction: float,
        seed: int,
    ) -> None:
        self.name = name
        self.files = files
        self.image_size = image_size
        self.channels = channels
        self.test_fraction = test_fraction
        self.seed = seed

    @property
    def location(self) -> str:
        """The folder or zip."""
        return self.files.location

    @cached_property
    def _layout(self) -> Layout:
        """The layout told by the folders, its missing test part drawn."""
        told = read_layout(self.files.names, self.location)
        if told.test:
            return told
        train, test = draw_test_part(len(told.train), told.train_labels, self.test_fraction, self.seed)
        names, labels = told.train, told.train_labels
        return Layout(
            [names[i] for i in train],
            [names[i] for i in test],
            None if labels is None else labels[train],
            None if labels is None else labels[test],
            told.class_names,
        )

    @cached_property
    def _info(self) -> DataInfo:
        layout = self._layout
        first = layout.train[0]
        image, own_channels = read_image(self.files.read(first), f"{self.location}/{first}")
        channels, height, width = fit_image(image, self.image_size, self.channels or own_channels).shape
        return DataInfo(
            name=self.name,
            n_train=len(layout.train),
            n_test=len(layout.test),
            channels=channels,
            height=height,
            width=width,
            n_classes=len(layout.class_names),
            class_names=layout.class_names,
            fingerprint=self.files.fingerprint(),
        )

    def info(self) -> DataInfo:
        """Facts from the names and the first image; every file is read once for the fingerprint."""
        return self._info

    def load(self) -> RawImages:
        """All images, decoded by threads, and their labels."""
        import torch

        layout = self._layout
        images = decode_images(
            layout.train + layout.test, self.files.read, self.location, self.image_size, self.channels
        )
        n_train = len(layout.train)

        def labels(of_part: np.ndarray | None) -> torch.Tensor | None:
            return None if of_part is None else torch.from_numpy(of_part)

        return RawImages(
            torch.from_numpy(images[:n_train]),
            labels(layout.train_labels),
            torch.from_numpy(images[n_train:]),
            labels(layout.test_labels),
        )
