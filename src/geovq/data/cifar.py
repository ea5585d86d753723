"""CIFAR-10 from torchvision's python batches.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The batches are pickles:
each file's md5 must equal the published one before torchvision opens it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.data.fetch import CIFAR_FOLDER, published_files
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
        self.location = str(self.root / CIFAR_FOLDER)

    @cached_property
    def _files(self) -> list[Path]:
        alternatives = ", cifar10_png.zip or cifar10_png/ (train/<class>/<name>.png, test/...)"
        return published_files("CIFAR10", self.root, Path(self.location), BATCH_FILES, self.download, alternatives)

    def info(self) -> DataInfo:
        """The published facts; the fingerprint is that of the files found."""
        counts = ((5_000, 1_000),) * len(CLASS_NAMES)
        return DataInfo("cifar10", 50_000, 10_000, 3, 32, 32, len(CLASS_NAMES), CLASS_NAMES, self._fingerprint, counts)

    @cached_property
    def _fingerprint(self) -> str:
        return hash_parts((file.name, file) for file in self._files)

    def load(self) -> RawImages:
        """All images and labels in the order of the batches."""
        import torch
        from torchvision.datasets import CIFAR10
        from torchvision.datasets.utils import check_integrity

        published = dict([*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]])
        for file in self._files:
            if not check_integrity(file, published[file.name]):
                reason = f"md5 is not the published {published[file.name]}"
                raise DataError(f"{file}: damaged: {reason}; remove the folder and fetch it again")
        parts = [CIFAR10(self.root, train=train) for train in (True, False)]
        images = [torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))) for part in parts]
        labels = [torch.tensor(part.targets, dtype=torch.int64) for part in parts]
        return RawImages(images[0], labels[0], images[1], labels[1])
