"""Images that are larger than memory: decoded once, by several processes, into one ``.npy`` file for each split.

Work is done in blocks of images that lie together in a file. A block that is done has a line in ``blocks.jsonl`` with
its checksum. Whoever goes on after a kill compares every such block with that, so a torn one is made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geovq.data.decode import FirstFile, Told, decode_into, joined, remarks_on
from geovq.data.files import FilesSource
from geovq.data.split import DrawnSplits
from geovq.data.streams import streamed
from geovq.data.types import ImageSource, ValueRange
from geovq.errors import DataError
from geovq.progress import progress

BLOCK_BYTES, MOST_PER_BLOCK = 2**23, 512
_AHEAD = 3  # blocks for each process that are decoded or wait to be recorded


class Prepared(NamedTuple):
    """What lies in the files: the range of the stored values, remarks, and by split the rows that mean nothing."""

    values: ValueRange
    remarks: tuple[str, ...]
    damaged: dict[str, dict[int, str]]


class Block(NamedTuple):
    """Rows ``start`` to ``stop`` of the file of a split."""

    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class ImageFile:
    """An ``.npy`` file of uint8 images (N, C, H, W) that is written in blocks."""

    path: Path
    shape: tuple[int, int, int, int]

    @property
    def row_bytes(self) -> int:
        """Of one image."""
        return int(np.prod(self.shape[1:]))

    def make(self) -> None:
        """Reserve the room for all images, unless the file is there with the same shape.

        Raises ``OSError`` where the disk has too little.
        """
        try:
            there = np.load(self.path, mmap_mode="r", allow_pickle=False)
            is_whole = (there.shape, there.dtype) == (self.shape, np.uint8)
        except (OSError, ValueError, EOFError):  # not there, or torn
            is_whole = False
        if not is_whole:
            np.lib.format.open_memmap(self.path, "w+", np.uint8, self.shape)
        _reserve(self.path)

    @property
    def _offset(self) -> int:
        return self.path.stat().st_size - self.shape[0] * self.row_bytes

    def write(self, start: int, images: np.ndarray) -> str:
        """Write images from row ``start`` on; their checksum."""
        content = np.ascontiguousarray(images)
        with self.path.open("r+b") as file:  # not through a map, which a full disk would end with a signal
            file.seek(self._offset + start * self.row_bytes)
            file.write(content.data)
        return hashlib.sha256(content.data).hexdigest()

    def checksum(self, start: int, stop: int) -> str:
        """Of rows that are there."""
        with self.path.open("rb") as file:
            file.seek(self._offset + start * self.row_bytes)
            return hashlib.sha256(file.read((stop - start) * self.row_bytes)).hexdigest()


def _reserve(path: Path) -> None:
    """Have the disk keep the room of a file, where the file system can."""
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


class Record:
    """The blocks that are done, in a file of lines that outlives a kill; ``made_with`` names what they depend on."""

    def __init__(self, path: Path, made_with: str, files: dict[str, ImageFile]) -> None:
        self.path, self.done = path, dict[Block, Told]()
        kept = [header := json.dumps(made_with)]
        lines = path.read_text().splitlines() if path.is_file() else []
        if lines[:1] == [header]:
            with progress("checking blocks", len(lines) - 1) as advance:
                for line in lines[1:]:
                    found = _parsed(line)
                    if found and found[0].split in files and files[found[0].split].checksum(*found[0][1:]) == found[1]:
                        self.done[found[0]] = found[2]
                        kept.append(line)
                    advance()
        beside = path.with_suffix(".tmp")
        beside.write_text("".join(f"{line}\n" for line in kept))
        beside.replace(path)

    def add(self, block: Block, checksum: str, told: Told) -> None:
        """A block that lies in its file."""
        self.done[block] = told
        with self.path.open("a") as file:
            file.write(json.dumps([block, checksum, told._replace(damaged=list(told.damaged.items()))]) + "\n")  # type: ignore[arg-type]


def _parsed(line: str) -> tuple[Block, str, Told] | None:
    """A line of the record; None of the last one, where a kill has torn it."""
    try:
        block, checksum, (values, frames, exif, damaged) = json.loads(line)
        told = Told(values and ValueRange(*values), frames, exif, {int(row): str(fault) for row, fault in damaged})
        return Block(*block), checksum, told
    except (ValueError, TypeError):
        return None


def prepare(source: ImageSource, drawn: DrawnSplits, folder: Path, processes: int, made_with: str) -> Prepared:
    """Write ``train.npy``, ``validation.npy`` and ``test.npy`` (N, C, H, W) uint8 into ``folder``.

    Args:
        source: image files are decoded by processes, arrays are read from beginning to end by this one.
        drawn: positions of each split's images.
        folder: what a killed call has left there is used.
        processes: that decode files.
        made_with: blocks of another call are used where this is the same.

    Raises:
        DataError: images differ in size or channels; those that cannot be read are told of in what is returned.
        OSError: the disk is full.
    """
    shape = source.info().image_shape
    sizes = {split: len(positions) for split, positions in drawn._asdict().items()}
    files = {split: ImageFile(folder / f"{split}.npy", (n, *shape)) for split, n in sizes.items()}
    rows = max(1, min(MOST_PER_BLOCK, BLOCK_BYTES // int(np.prod(shape))))
    for file in files.values():
        file.make()
    record = Record(folder / "blocks.jsonl", f"{made_with} {rows} {sizes}", files)
    blocks = [Block(split, start, min(start + rows, n)) for split, n in sizes.items() for start in range(0, n, rows)]
    left = [block for block in blocks if block not in record.done]
    n_done = sum(block.stop - block.start for block in record.done)
    make = _from_files if isinstance(source, FilesSource) else _from_stream
    with progress("preparing images", sum(sizes.values()), n_done) as advance:
        for block, checksum, told in make(source, drawn, files, left, processes):
            record.add(block, checksum, told)
            advance(block.stop - block.start)
    return _summary(source, drawn, record.done, blocks)


def _summary(source: ImageSource, drawn: DrawnSplits, done: dict[Block, Told], blocks: Sequence[Block]) -> Prepared:
    by_split = {
        split: joined((block.start, done[block]) for block in blocks if block.split == split) for split in drawn._fields
    }
    ranges = [told.values for told in by_split.values() if told.values is not None]
    if not ranges:
        raise DataError(f"{source.location}: none of the images can be read")
    sizes = [len(positions) for positions in drawn]
    everything = joined(zip((0, sizes[0], sizes[0] + sizes[1]), by_split.values(), strict=True))

    def name_of(row: int) -> str:
        assert isinstance(source, FilesSource)
        return [name for split in drawn._fields for name in names_of(source, drawn, split)][row]

    remarks = remarks_on(everything, name_of, sum(sizes))
    return Prepared(ValueRange.over(ranges), remarks, {split: told.damaged for split, told in by_split.items()})


def names_of(source: FilesSource, drawn: DrawnSplits, split: str) -> list[str]:
    """The files of a split, in its order."""
    part = source.parts.test if split == "test" else source.parts.train
    return [part[position] for position in getattr(drawn, split)]


Made = Iterator[tuple[Block, str, Told]]


def _from_files(
    source: ImageSource, drawn: DrawnSplits, files: dict[str, ImageFile], left: Sequence[Block], processes: int
) -> Made:
    assert isinstance(source, FilesSource)
    names = {split: names_of(source, drawn, split) for split in drawn._fields}
    tasks = ((block, files[block.split], names[block.split][block.start : block.stop]) for block in left)
    if min(processes, len(left)) <= 1:
        for block, file, chosen in tasks:
            yield (block, *decoded_block(source, source.first, file, block.start, chosen))
        return
    # Processes that begin afresh: a fork of one with threads, as torch has them, may hang.
    context = multiprocessing.get_context("spawn")
    workers = min(processes, len(left))
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(source, source.first))
    waiting: deque[tuple[Block, Future[tuple[str, Told]]]] = deque()
    try:
        for block, file, chosen in tasks:
            waiting.append((block, pool.submit(_in_process, file, block.start, chosen)))
            if len(waiting) == _AHEAD * workers:
                first, result = waiting.popleft()
                yield (first, *result.result())
        for block, result in waiting:
            yield (block, *result.result())
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes images was ended from outside, perhaps for want of memory; the same command goes "
            "on from here, with fewer processes by trainer.threads"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def decoded_block(
    source: FilesSource, first: FirstFile, file: ImageFile, start: int, names: Sequence[str]
) -> tuple[str, Told]:
    """Decode the files of a block and write them; their checksum, and what they told."""
    images = np.empty((len(names), *file.shape[1:]), np.uint8)
    told = decode_into(images, names, source.read, source.location, source.pixels, first, skip=True)
    return file.write(start, images), told


_reader: tuple[FilesSource, FirstFile] | None = None


def _begin(source: FilesSource, first: FirstFile) -> None:
    """Make a process ready to decode: Ctrl-C is its parent's matter, and it ends with that, however it ends."""
    global _reader
    _reader = source, first
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_process(file: ImageFile, start: int, names: Sequence[str]) -> tuple[str, Told]:
    assert _reader is not None
    return decoded_block(*_reader, file, start, names)


def _from_stream(
    source: ImageSource, drawn: DrawnSplits, files: dict[str, ImageFile], left: Sequence[Block], processes: int
) -> Made:
    """Every image goes to the next free row of its split."""
    info, stream = source.info(), streamed(source)
    split_of = [np.full(n, -1, np.int8) for n in (info.n_train, info.n_test)]  # of each image of both parts
    for number, positions in enumerate(drawn):
        split_of[number == 2][positions] = number
    ahead = {split: deque(block for block in left if block.split == split) for split in drawn._fields}
    open_blocks: dict[str, tuple[np.ndarray, list[ValueRange]]] = {}
    seen, filled = [0, 0], dict.fromkeys(drawn._fields, 0)
    rows = max((block.stop - block.start for block in left), default=0)
    for images, in_test, values in stream.blocks(rows) if left else ():
        goes_to = np.empty(len(images), np.int8)
        for part, chosen in enumerate((~in_test, in_test)):
            goes_to[chosen] = split_of[part][seen[part] : seen[part] + int(chosen.sum())]
            seen[part] += int(chosen.sum())
        for number, split in enumerate(drawn._fields):
            own = images[goes_to == number]
            while len(own):
                while ahead[split] and ahead[split][0].stop <= filled[split]:
                    ahead[split].popleft()
                block = ahead[split][0] if ahead[split] else None
                row = filled[split]
                if block is None or row < block.start:  # done before
                    n = len(own) if block is None else min(len(own), block.start - row)
                else:
                    n = min(len(own), block.stop - row)
                    room, ranges = open_blocks.setdefault(
                        split, (np.empty((block.stop - block.start, *own.shape[1:]), np.uint8), [])
                    )
                    room[row - block.start : row - block.start + n] = own[:n]
                    ranges.append(values)
                    if row + n == block.stop:
                        checksum = files[split].write(block.start, room)
                        yield block, checksum, Told(ValueRange.over(ranges), [], [], {})
                        del open_blocks[split]
                own, filled[split] = own[n:], row + n
