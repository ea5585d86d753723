"""Codes of images to the blocks of a file, and back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from geovq.coding.format import Block, Header, joined, split
from geovq.coding.priors import FrequencyPrior, bits_of, class_frequencies, scored, starts_of
from geovq.coding.streams import Unpacking, packed, packed_each
from geovq.errors import DataError
from geovq.progress import progress

BATCH_SIZE = 256
"""Images that are computed together."""
_MOST_IMAGES = {False: 4096, True: 64}
_MOST_BYTES = 2**29


class Coded(NamedTuple):
    """Blocks of a file; of each image the class it was given, -1 for none, and its code length in bits."""

    blocks: list[Block]
    labels: np.ndarray
    bits: np.ndarray


def images_per_block(prior: FrequencyPrior, per_image: bool) -> int:
    """As many as memory allows whoever reads them: with one stream, the sequences of a block go forward together.

    A stream of each image is read by itself, and its block only to compare checksums.
    """
    tables = 4 * sum(prior.sizes)
    return max(1, min(_MOST_IMAGES[per_image], _MOST_BYTES // (tables + prior.bytes_per_image)))


def encode(
    prior: FrequencyPrior,
    codes: np.ndarray,
    *,
    per_image: bool = False,
    with_classes: bool = False,
    threads: int = 1,
    batch_size: int = BATCH_SIZE,
) -> Coded:
    """Blocks of ``images_per_block`` images of codes (N, L) int64.

    ``with_classes``: each image is given the class that takes fewest bits, which is written before its codes.
    """
    size, blocks, labels, bits = images_per_block(prior, per_image), [], [], []
    # Small blocks are computed several at a time.
    at_once = size * max(1, batch_size * threads // size)
    with threadpool_limits(1, "blas"), progress("coding images", len(codes)) as advance:  # our threads are above it
        for first in range(0, len(codes), at_once):
            part = codes[first : first + at_once]
            found = scored(prior, part, with_classes, batch_size, threads, advance)
            tables, symbols = found.frequencies, part
            if with_classes:
                tables = [class_frequencies(prior.n_classes, len(part)), *tables]
                symbols = np.column_stack([found.labels, part])
            labels.append(found.labels)
            bits.append(sum(bits_of(table, symbols[:, place]) for place, table in enumerate(tables)))
            for begin in range(0, len(part), size):
                here = slice(begin, begin + size)
                own = [table[here] for table in tables]
                payload = joined(packed_each(symbols[here], own)) if per_image else packed(symbols[here], own)
                blocks.append(Block(payload, checksum_of(part[here], found.labels[here])))
    return Coded(blocks, np.concatenate(labels), np.concatenate(bits))


def decode(
    prior: FrequencyPrior,
    header: Header,
    blocks: Sequence[Block],
    name: str = "file",
    *,
    numbers: Sequence[int] | None = None,
    threads: int = 1,
    batch_size: int = BATCH_SIZE,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, L) int64 and the classes (N,) that stand in the file, -1 without; of the blocks ``numbers`` alone.

    Raises:
        DataError: what comes out is not what was written.
    """
    chosen = list(range(len(blocks)) if numbers is None else numbers)
    at_once = max(1, batch_size * threads // header.block_images) if header.per_image else 1
    codes, labels = [], []
    with threadpool_limits(1, "blas"), progress("decoding codes", sum(map(header.images_of, chosen))) as advance:
        for first in range(0, len(chosen), at_once):
            group = chosen[first : first + at_once]
            counts = [header.images_of(number) for number in group]
            try:
                streams = [blocks[group[0]].payload]
                if header.per_image:
                    each = zip(group, counts, strict=True)
                    streams = [stream for number, n in each for stream in split(blocks[number].payload, n)]
                found, classes = _read(prior, streams, sum(counts), header.with_classes, threads, batch_size)
            except DataError as error:
                raise DataError(f"{name}: block {group[0] + 1} holds {error}; copy the file again") from error
            begin = 0
            for number, n in zip(group, counts, strict=True):
                here = slice(begin, begin + n)
                if checksum_of(found[here], classes[here]) != blocks[number].checksum:
                    raise DataError(
                        f"{name}: block {number + 1} decodes to other codes than were written: the file is damaged, or "
                        "this machine computes the prior otherwise"
                    )
                begin += n
            codes.append(found)
            labels.append(classes)
            advance(len(found))
    return np.concatenate(codes), np.concatenate(labels)


def _read(
    prior: FrequencyPrior, streams: list[bytes], n: int, with_classes: bool, threads: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    unpacking = Unpacking(streams)
    labels = np.full(n, -1)
    if with_classes:
        labels = unpacking.take(class_frequencies(prior.n_classes, n))
    reading = prior.begin(starts_of(prior, labels), batch_size, threads)
    codes = np.empty((n, len(prior.sizes)), dtype=np.int64)
    for place in range(len(prior.sizes)):
        codes[:, place] = unpacking.take(reading.frequencies())
        reading.append(codes[:, place])
    return codes, labels


def checksum_of(codes: np.ndarray, labels: np.ndarray) -> int:
    """CRC-32 of classes and codes, of each image one after another, as big-endian 32-bit integers."""
    return zlib.crc32(np.column_stack([labels, codes]).astype(">i4").tobytes())
