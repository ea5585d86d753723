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
from geovq.data.parts import PartedSource, Parts
from geovq.errors import DataError

SIDE, LARGEST_VALUE = 8, 16


def digits_file() -> Path:
    """The table inside the installed scikit-learn, found without importing it (which takes a second)."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data=digits needs scikit-learn, which is not installed: pip install 'scikit-learn>=1.7,<2'")
    return Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


class DigitsSource(PartedSource):
    """Digits with values 0..16 scaled to 0..255, and a stratified test part drawn by ``seed``."""

    def __init__(self, test_fraction: Fraction, seed: Seed) -> None:
        super().__init__("digits", digits_file(), test_fraction, seed)

    @cached_property
    def _table(self) -> bytes:
        try:
            return gzip.decompress(self.path.read_bytes())
        except (OSError, EOFError) as error:
            raise DataError(f"{self.location}: cannot be read ({error}); install scikit-learn again") from error

    @cached_property
    def _rows(self) -> np.ndarray:
        """``(1797, 65)`` uint8: 64 pixel values and the label."""
        rows = np.loadtxt(self._table.decode().splitlines(), delimiter=",", dtype=np.uint8)
        if rows.ndim != 2 or rows.shape[1] != SIDE * SIDE + 1:
            raise DataError(f"{self.location}: found shape {rows.shape}, expected (n, 65); install scikit-learn again")
        return rows

    def _told_parts(self) -> Parts:
        labels = self._rows[:, -1].astype(np.int64)
        return Parts(range(len(labels)), (), labels, None, tuple("0123456789"))

    def _image_shape(self) -> tuple[int, int, int]:
        return 1, SIDE, SIDE

    def _fingerprint(self) -> str:
        return hash_parts([("digits", self._table)])

    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        values = self._rows[:, :-1].reshape(-1, 1, SIDE, SIDE).astype(np.float64)
        images = np.round(values * 255 / LARGEST_VALUE).astype(np.uint8)
        return images[self.parts.train], images[self.parts.test]
