"""MNIST and Fashion-MNIST: four IDX files under ``<root>/<folder>/raw``.

Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998; H. Xiao et al.,
"Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", arXiv:1708.07747.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.data.fetch import fetch_idx_files
from geovq.data.fingerprint import hash_parts
from geovq.data.idx import parse_idx, read_bytes
from geovq.data.types import DataInfo, RawImages, count_classes
from geovq.errors import DataError


@dataclass(frozen=True)
class IdxSet:
    """A data set of four IDX files: the folder they lie in and the names of its classes."""

    folder: str
    class_names: tuple[str, ...]


IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IDX_SETS = {
    "mnist": IdxSet("MNIST", tuple("0123456789")),
    "fashion": IdxSet(
        "FashionMNIST",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
}


class IdxSource:
    """MNIST or Fashion-MNIST under ``root``; fetched there first where missing and ``download`` allows."""

    def __init__(self, name: str, root: str | Path, download: bool) -> None:
        self.name = name
        self.root = Path(root)
        self.download = download

    @property
    def location(self) -> str:
        """The folder of the four files."""
        return str(self.root / IDX_SETS[self.name].folder / "raw")

    def _present(self) -> list[Path]:
        """Those of the four files that lie in the folder, plain before gzipped."""
        folder = Path(self.location)
        choices = [(folder / name, folder / f"{name}.gz") for name in IDX_FILES]
        return [next(file for file in pair if file.is_file()) for pair in choices if any(f.is_file() for f in pair)]

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The four files' bytes by name. Kept, since facts and images are asked for one after the other."""
        files = self._present()
        if len(files) < len(IDX_FILES):
            if self.download:
                fetch_idx_files(IDX_SETS[self.name].folder, self.root, IDX_FILES)
                files = self._present()
            else:
                missing = sorted(set(IDX_FILES) - {file.name.removesuffix(".gz") for file in files})
                raise DataError(
                    f"{self.location}: missing {', '.join(missing)}; put them there, name another folder by "
                    f"data.root= or GEOVQ_DATA, or set data.download=true"
                )
        return {name: read_bytes(file) for name, file in zip(IDX_FILES, files, strict=True)}

    def _arrays(self) -> list[np.ndarray]:
        """Training images and labels, test images and labels; checked against one another."""
        arrays = []
        for name, content in self._contents.items():
            arrays.append(parse_idx(content, 3 if "images" in name else 1, f"{self.location}/{name}"))
        train, train_labels, test, test_labels = arrays
        for images, labels, part in ((train, train_labels, "train"), (test, test_labels, "t10k")):
            if len(images) != len(labels) or not len(images):
                raise DataError(f"{self.location}: {part} files hold {len(images)} images and {len(labels)} labels")
            n_classes = len(IDX_SETS[self.name].class_names)
            if labels.max() >= n_classes:
                raise DataError(f"{self.location}: {part} label {labels.max()} is outside 0..{n_classes - 1}")
        if train.shape[1:] != test.shape[1:]:
            raise DataError(f"{self.location}: train images are {train.shape[1:]}, t10k images {test.shape[1:]}")
        return arrays

    def info(self) -> DataInfo:
        """Facts from the headers, and the hash of the four files (of their unpacked bytes where gzipped)."""
        train, train_labels, test, test_labels = self._arrays()
        names = IDX_SETS[self.name].class_names
        return DataInfo(
            name=self.name,
            n_train=len(train),
            n_test=len(test),
            channels=1,
            height=train.shape[1],
            width=train.shape[2],
            n_classes=len(names),
            class_names=names,
            fingerprint=hash_parts(self._contents.items()),
            class_counts=count_classes(train_labels, test_labels, len(names)),
        )

    def load(self) -> RawImages:
        """All images and labels in file order."""
        import torch

        train, train_labels, test, test_labels = self._arrays()
        # Copies: the arrays are read-only views of the files' bytes, tensors must own what they hold.
        return RawImages(
            torch.from_numpy(train[:, None].copy()),
            torch.from_numpy(train_labels.astype(np.int64)),
            torch.from_numpy(test[:, None].copy()),
            torch.from_numpy(test_labels.astype(np.int64)),
        )
