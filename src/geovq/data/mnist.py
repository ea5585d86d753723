"""MNIST and Fashion-MNIST: four IDX files under ``<root>/<folder>/raw``, plain or gzipped.

Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998; H. Xiao et al.,
"Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.data.fetch import published_files
from geovq.data.fingerprint import hash_parts
from geovq.data.limits import LARGEST_FILE
from geovq.data.parts import PartedSource, Parts
from geovq.errors import DataError

IDX_FILES = tuple(f"{part}-{content}-ubyte" for part in ("train", "t10k") for content in ("images-idx3", "labels-idx1"))
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
IDX_SETS = {"mnist": ("MNIST", tuple("0123456789")), "fashion": ("FashionMNIST", FASHION)}
"""torchvision's class, which names the folder, and the names of the classes."""
UNSIGNED_BYTE = 8


def read_bytes(file: Path) -> bytes:
    """Content of ``file``, decompressed where its name ends in ``.gz``; raises ``DataError`` naming it."""
    try:
        if file.suffix != ".gz":
            return file.read_bytes()
        with gzip.open(file) as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({error}); delete it and fetch it again") from error
    if len(content) > LARGEST_FILE:
        raise DataError(f"{file}: unpacks to more than {LARGEST_FILE:,} bytes; delete it and fetch it again")
    return content


def parse_idx(content: bytes, n_dimensions: int, name: str) -> np.ndarray:
    """Read-only uint8 array of an IDX file's ``content``; ``name`` is what errors call it.

    Big-endian: two zero bytes, a type code, the number of dimensions, one 32-bit size per dimension, the values.
    Raises ``DataError`` for another magic number than that of ``n_dimensions`` dimensions of unsigned
    bytes, and for fewer or more bytes than the header announces.
    """
    header = 4 + 4 * n_dimensions
    magic = (UNSIGNED_BYTE << 8) + n_dimensions
    if len(content) < header:
        raise DataError(f"{name}: expected an IDX header of {header} bytes, found {len(content)}; fetch the file again")
    found, *shape = struct.unpack_from(f">{1 + n_dimensions}I", content)
    if found != magic:
        raise DataError(f"{name}: expected the IDX magic number {magic}, found {found}; this is another kind of file")
    expected = header + int(np.prod(shape, dtype=np.uint64))
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise DataError(f"{name}: {state}: expected {expected} bytes, found {len(content)}; fetch the file again")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


class IdxSource(PartedSource):
    """MNIST or Fashion-MNIST under ``root``; fetched there first where missing and ``download`` allows."""

    def __init__(self, name: str, root: str | Path, download: bool) -> None:
        self.root = Path(root)
        self.download = download
        self._dataset, self._class_names = IDX_SETS[name]
        super().__init__(name, self.root / self._dataset / "raw")

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The four files' bytes by name. Kept, since facts and images are asked for one after the other."""
        files = published_files(self._dataset, self.root, self.path, IDX_FILES, self.download)
        return {name: read_bytes(file) for name, file in zip(IDX_FILES, files, strict=True)}

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        """Training images and labels, test images and labels; checked against one another."""
        arrays = [
            parse_idx(content, 3 if "images" in name else 1, f"{self.location}/{name}")
            for name, content in self._contents.items()
        ]
        train, train_labels, test, test_labels = arrays
        for images, labels, part in ((train, train_labels, "train"), (test, test_labels, "t10k")):
            if len(images) != len(labels) or not len(images):
                raise DataError(f"{self.location}: {part} files hold {len(images)} images and {len(labels)} labels")
            if labels.max() >= len(self._class_names):
                outside = f"outside 0..{len(self._class_names) - 1}"
                raise DataError(f"{self.location}: {part} label {labels.max()} is {outside}")
        if train.shape[1:] != test.shape[1:]:
            raise DataError(f"{self.location}: train images are {train.shape[1:]}, t10k images {test.shape[1:]}")
        return arrays

    def _told_parts(self) -> Parts:
        train, test = (labels.astype(np.int64) for labels in self._arrays[1::2])
        return Parts(range(len(train)), range(len(test)), train, test, self._class_names)

    def _image_shape(self) -> tuple[int, int, int]:
        _, height, width = self._arrays[0].shape
        return 1, height, width

    def _fingerprint(self) -> str:
        return hash_parts(self._contents.items())  # of unpacked bytes, where the files are gzipped

    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        # Copies: the arrays are read-only views of the files' bytes, tensors must own what they hold.
        train, test = (images[:, None].copy() for images in self._arrays[::2])
        return train, test
