"""The 1,797 real 8x8 digits that scikit-learn carries: the data set that needs no network.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import gzip
import importlib.util
from functools import cached_property
from pathlib import Path

import numpy as np

from geovq.configuration.fields import Fraction, Seed
from geovq.data.fingerprint import hash_parts
from geovq.data.split import draw_test_part
from geovq.data.types import DataInfo, RawImages, count_classes
from geovq.errors import DataError

SIDE, LARGEST_VALUE, N_CLASSES = 8, 16, 10


def digits_file() -> Path:
    """The table inside the installed scikit-learn, found without importing it (which takes a second)."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data=digits needs scikit-learn, which is not installed: pip install 'scikit-learn>=1.7,<2'")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


class DigitsSource:
    """Digits with values 0..16 scaled to 0..255, and a stratified test part drawn by ``seed``."""

    def __init__(self, test_fraction: Fraction, seed: Seed) -> None:
        self.test_fraction = test_fraction
        self.seed = seed

    @property
    def location(self) -> str:
        """The table's path."""
        return str(digits_file())

    @cached_property
    def _table(self) -> bytes:
        file = digits_file()
        try:
            return gzip.decompress(file.read_bytes())
        except (OSError, EOFError) as error:
            raise DataError(f"{file}: cannot be read ({error}); install scikit-learn again") from error

    @cached_property
    def _rows(self) -> np.ndarray:
        """``(1797, 65)`` uint8: 64 pixel values and the label."""
        rows = np.loadtxt(self._table.decode().splitlines(), delimiter=",", dtype=np.uint8)
        if rows.ndim != 2 or rows.shape[1] != SIDE * SIDE + 1:
            raise DataError(f"{digits_file()}: found shape {rows.shape}, expected (n, 65); install scikit-learn again")
        return rows

    def info(self) -> DataInfo:
        """Facts; the table is small enough to read whole."""
        labels = self._rows[:, -1].astype(np.int64)
        train, test = draw_test_part(len(labels), labels, self.test_fraction, self.seed)
        return DataInfo(
            name="digits",
            n_train=len(train),
            n_test=len(test),
            channels=1,
            height=SIDE,
            width=SIDE,
            n_classes=N_CLASSES,
            class_names=tuple(str(digit) for digit in range(N_CLASSES)),
            fingerprint=hash_parts([("digits", self._table)]),
            class_counts=count_classes(labels[train], labels[test], N_CLASSES),
        )

    def load(self) -> RawImages:
        """Images ``round(value * 255 / 16)`` and labels of both parts."""
        import torch

        values = self._rows[:, :-1].reshape(-1, 1, SIDE, SIDE).astype(np.float64)
        images = torch.from_numpy(np.round(values * 255 / LARGEST_VALUE).astype(np.uint8))
        labels = self._rows[:, -1].astype(np.int64)
        targets = torch.from_numpy(labels)
        train, test = draw_test_part(len(labels), labels, self.test_fraction, self.seed)
        return RawImages(images[train], targets[train], images[test], targets[test])
