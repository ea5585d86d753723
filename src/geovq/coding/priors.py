"""What the coder asks of a prior, and how the frequencies of given codes are found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from geovq.coding.fixed_point import TOTAL_BITS
from geovq.coding.tables import shared_by
from geovq.progress import Advance

MARGIN = 8.0
"""Bits that a class may be behind the best one at first and still be followed; none are left at the last code. On
1,000 Fashion-MNIST test images that takes 0.1 bits more per image than following all ten, in a quarter of the steps."""


class Reading(Protocol):
    """Sequences under way."""

    def frequencies(self) -> np.ndarray:
        """(B, K) float32 of the next code, less 1 each."""
        ...

    def append(self, codes: np.ndarray) -> None:
        """The codes (B,) that came."""
        ...

    def keep(self, rows: np.ndarray) -> Reading:
        """Some of the sequences alone."""
        ...


class FrequencyPrior(Protocol):
    """A prior that gives integer frequencies."""

    sizes: tuple[int, ...]
    bos: int
    n_classes: int

    @property
    def digest(self) -> bytes:
        """Eight bytes of all that the frequencies are computed from."""
        ...

    @property
    def bytes_per_image(self) -> int:
        """What a sequence under way takes."""
        ...

    def begin(self, starts: np.ndarray, batch_size: int, threads: int) -> Reading:
        """Sequences after their start ids (B,)."""
        ...


class Scored(NamedTuple):
    """Classes (B,) of images, -1 for none, and the frequencies (B, K) of all their codes in turn."""

    labels: np.ndarray
    frequencies: list[np.ndarray]


def starts_of(prior: FrequencyPrior, labels: np.ndarray) -> np.ndarray:
    """Start ids (B,) of classes, -1 for none: as ``CodeLayout`` numbers them."""
    return np.where(labels < 0, prior.bos, prior.bos + 3 + labels)


def bits_of(frequencies: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(B,) code lengths of one code each."""
    return TOTAL_BITS - np.log2(frequencies[np.arange(len(codes)), codes].astype(np.float64) + 1)


def class_frequencies(n_classes: int, n: int) -> np.ndarray:
    """(n, C) of classes that are all alike."""
    return np.broadcast_to(shared_by(np.ones(n_classes, dtype=np.int64)).astype(np.float32), (n, n_classes))


def scored(
    prior: FrequencyPrior, codes: np.ndarray, with_classes: bool, batch_size: int, threads: int, advance: Advance
) -> Scored:
    """The frequencies of codes (B, L), without a class or given the class under which they take fewest bits."""
    score = _with_cheapest_class if with_classes else _without_class
    groups = [codes[first : first + batch_size] for first in range(0, len(codes), batch_size)]

    def run(group: np.ndarray) -> Scored:
        found = score(prior, group)
        advance(len(group))
        return found

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(run, groups))
    tables = [np.concatenate(part) for part in zip(*(part.frequencies for part in parts), strict=True)]
    return Scored(np.concatenate([part.labels for part in parts]), tables)


def _without_class(prior: FrequencyPrior, codes: np.ndarray) -> Scored:
    labels = np.full(len(codes), -1)
    reading, found = prior.begin(starts_of(prior, labels), len(codes), 1), []
    for place in range(codes.shape[1]):
        found.append(reading.frequencies())
        reading.append(codes[:, place])
    return Scored(labels, found)


def _with_cheapest_class(prior: FrequencyPrior, codes: np.ndarray) -> Scored:
    """All classes start; those that fall behind by more than ``MARGIN``, less from code to code, are given up.

    Which class is taken does not matter to whoever reads the file, so nothing here has to be reproduced.
    """
    n, length = codes.shape
    images, classes = np.repeat(np.arange(n), prior.n_classes), np.tile(np.arange(prior.n_classes), n)
    reading = prior.begin(starts_of(prior, classes), len(images), 1)
    bits, tables, kept = np.zeros(len(images)), [], []
    for place in range(length):
        tables.append(reading.frequencies())
        bits += bits_of(tables[-1], codes[images, place])
        best = np.full(n, np.inf)
        np.minimum.at(best, images, bits)
        if place + 1 < length:
            kept.append(np.flatnonzero(bits <= best[images] + MARGIN * (1 - (place + 1) / length)))
        else:
            order = np.lexsort((bits, images))
            kept.append(order[np.searchsorted(images[order], np.arange(n))])
        images, classes, bits = images[kept[-1]], classes[kept[-1]], bits[kept[-1]]
        reading = reading.keep(kept[-1])
        reading.append(codes[images, place])
    rows = np.arange(n)
    for place in reversed(range(length)):  # from each image's last sequence back to its first
        rows = kept[place][rows]
        tables[place] = tables[place][rows]
    return Scored(classes, tables)
