"""CIFAR-10 from torchvision's python batches.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The batches are pickles:
each file's md5 must equal the published one before torchvision opens it.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.data.fetch import CIFAR_FOLDER, fetch_cifar10
from geovq.data.fingerprint import hash_parts
from geovq.data.types import DataInfo, RawImages
from geovq.errors import DataError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCH_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")


class CifarBatchesSource:
    """``<root>/cifar-10-batches-py``, fetched first where missing and ``download`` allows."""

    def __init__(self, root: str | Path, download: bool) -> None:
        self.root = Path(root)
        self.download = download

    @property
    def location(self) -> str:
        """The folder of the batches."""
        return str(self.root / CIFAR_FOLDER)

    @cached_property
    def _files(self) -> list[Path]:
        folder = Path(self.location)
        if not folder.is_dir():
            if not self.download:
                raise DataError(
                    f"{self.root}: missing {CIFAR_FOLDER}/, cifar10_png.zip or cifar10_png/; put one of them "
                    f"there, name another folder by data.root= or GEOVQ_DATA, or set data.download=true"
                )
            fetch_cifar10(self.root)
        missing = [name for name in BATCH_FILES if not (folder / name).is_file()]
        if missing:
            raise DataError(f"{folder}: missing {', '.join(missing)}; remove the folder and fetch it again")
        return [folder / name for name in BATCH_FILES]

    @cached_property
    def _info(self) -> DataInfo:
        return DataInfo(
            name="cifar10",
            n_train=50_000,
            n_test=10_000,
            channels=3,
            height=32,
            width=32,
            n_classes=len(CLASS_NAMES),
            class_names=CLASS_NAMES,
            fingerprint=hash_parts((file.name, file) for file in self._files),
            class_counts=((5_000, 1_000),) * len(CLASS_NAMES),
        )

    def info(self) -> DataInfo:
        """The published facts; the fingerprint is that of the files found."""
        return self._info

    def load(self) -> RawImages:
        """All images and labels in the order of the batches."""
        import torch
        from torchvision.datasets import CIFAR10

        published = dict([*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]])
        for file in self._files:
            found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
            if found != published[file.name]:
                raise DataError(
                    f"{file}: damaged: md5 {found}, published {published[file.name]}; "
                    f"remove the folder and fetch it again"
                )
        parts = [CIFAR10(self.root, train=train) for train in (True, False)]
        images = [torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))) for part in parts]
        labels = [torch.tensor(part.targets, dtype=torch.int64) for part in parts]
        return RawImages(images[0], labels[0], images[1], labels[1])
