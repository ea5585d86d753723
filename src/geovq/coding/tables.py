"""Probabilities that do not depend on other codes: one table per position, or per slot of a token, or none at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from geovq.coding.fixed_point import TOTAL


class TablePrior:
    """Integer frequencies that add up to 2^24, in the interface of ``IntegerPrior``.

    Args:
        sizes: how many codes each of the L positions has.
        codes: (N, L) of training images, that the tables are counted from; None takes all codes as equally likely.
        streams: (L,) which positions share a table; None gives each its own.
    """

    bos, n_classes, bytes_per_image = 0, 0, 0

    def __init__(
        self, sizes: tuple[int, ...], codes: np.ndarray | None = None, streams: Sequence[int] | None = None
    ) -> None:
        self.sizes = sizes
        shared = np.arange(len(sizes)) if streams is None else np.array(streams)
        self.tables = []
        for position, size in enumerate(sizes):
            counts = np.ones(size, dtype=np.int64)
            if codes is not None:  # Krichevsky, Trofimov 1981: half of one more is counted of each
                counts += 2 * np.bincount(codes[:, shared == shared[position]].ravel(), minlength=size)
            self.tables.append(shared_by(counts))

    @property
    def digest(self) -> bytes:
        """Eight bytes of all frequencies."""
        return hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in self.tables)).digest()[:8]

    def begin(self, starts: np.ndarray, batch_size: int = 0, threads: int = 1) -> TableReading:
        """Sequences (B,), which are all alike."""
        return TableReading(self.tables, len(starts))


class TableReading:
    """Sequences under way, as those of ``IntegerPrior``."""

    def __init__(self, tables: list[np.ndarray], n: int) -> None:
        self.tables, self.n, self.place = tables, n, 0

    def frequencies(self) -> np.ndarray:
        """(B, K) float32 of the next code, less 1 each."""
        return np.broadcast_to(self.tables[self.place].astype(np.float32), (self.n, len(self.tables[self.place])))

    def append(self, codes: np.ndarray) -> None:
        """The codes (B,) that came."""
        self.place += 1

    def keep(self, rows: np.ndarray) -> TableReading:
        """Some of the sequences alone."""
        kept = TableReading(self.tables, len(rows))
        kept.place = self.place
        return kept


def shared_by(counts: np.ndarray) -> np.ndarray:
    """(K,) int64 frequencies, less 1 each, that add up to 2^24 - K, of counts (K,) below 2^38."""
    shared = TOTAL - len(counts)
    given = counts * shared // counts.sum()
    given[counts.argmax()] += shared - given.sum()
    return given
