"""A person's own images: a folder tree or a zip of one."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from geovq.data.decode import decode_images, read_image
from geovq.data.files import ImageFiles
from geovq.data.fingerprint import READING, hash_parts
from geovq.data.layout import Layout, read_layout
from geovq.data.split import draw_test_part
from geovq.data.types import DataInfo, PixelSettings, RawImages, count_classes


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
        pixels: PixelSettings,
        test_fraction: float,
        seed: int,
    ) -> None:
        self.name = name
        self.files = files
        self.pixels = pixels
        self.test_fraction = test_fraction
        self.seed = seed

    @property
    def location(self) -> str:
        """The folder or zip."""
        return self.files.location

    @cached_property
    def _layout(self) -> Layout:
        """The layout told by the folders, its missing test part drawn."""
        told = read_layout(self.files.listing.names, self.location)
        if told.test:
            return told
        train, test = draw_test_part(len(told.train), told.train_labels, self.test_fraction, self.seed)
        names, labels = told.train, told.train_labels
        return replace(
            told,
            train=[names[i] for i in train],
            test=[names[i] for i in test],
            train_labels=None if labels is None else labels[train],
            test_labels=None if labels is None else labels[test],
        )

    @cached_property
    def _info(self) -> DataInfo:
        layout = self._layout
        first = layout.train[0]
        file = read_image(self.files.read(first), f"{self.location}/{first}", self.pixels.full_scale)
        fingerprint = self.files.fingerprint()
        if self.name == "folder":  # public sets are read as ever
            fingerprint = hash_parts([("reading", READING), ("files", fingerprint.encode())])
        return DataInfo(
            name=self.name,
            n_train=len(layout.train),
            n_test=len(layout.test),
            channels=self.pixels.channels or file.channels,
            height=self.pixels.image_size or file.image.height,
            width=self.pixels.image_size or file.image.width,
            n_classes=len(layout.class_names),
            class_names=layout.class_names,
            fingerprint=fingerprint,
            class_counts=count_classes(layout.train_labels, layout.test_labels, len(layout.class_names)),
            remarks=(*filter(None, [layout.remark]), *self.files.listing.remarks),
        )

    def info(self) -> DataInfo:
        """Facts from the names and the first image; every file is read once for the fingerprint."""
        return self._info

    def load(self) -> RawImages:
        """All images, decoded by threads, and their labels."""
        import torch

        layout = self._layout
        images, values, remarks = decode_images(layout.train + layout.test, self.files.read, self.location, self.pixels)
        n_train = len(layout.train)

        def labels(of_part: np.ndarray | None) -> torch.Tensor | None:
            return None if of_part is None else torch.from_numpy(of_part)

        return RawImages(
            torch.from_numpy(images[:n_train]),
            labels(layout.train_labels),
            torch.from_numpy(images[n_train:]),
            labels(layout.test_labels),
            values,
            remarks,
        )
