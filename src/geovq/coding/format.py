"""The bytes of a ``.gvq`` file around its streams: header, names, blocks, each with a checksum. See docs/codec.md."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from geovq.errors import DataError

MAGIC = b"\x89GVQ"
VERSION = 1
KINDS = ("uniform", "unigram", "position", "autoregressive")
"""Where probabilities come from, by their number in the header."""
PER_IMAGE, WITH_CLASSES, WITH_NAMES = 1, 2, 4
_HEADER = struct.Struct(">4s4B2H3I16s8s8s8s8s")
_CHECKSUM = struct.Struct(">I")
_NAMES = struct.Struct(">2I")
_BLOCK = struct.Struct(">3I")


@dataclass(frozen=True)
class Header:
    """What a file says of itself. Keys are hexadecimal; that of the prior is empty where none is used."""

    per_image: bool
    with_classes: bool
    with_names: bool
    kind: str
    channels: int
    height: int
    width: int
    n_images: int
    block_images: int
    n_codes: int
    run_id: str
    decoder: str
    codes: str
    prior: str
    digest: bytes
    n_bytes: ClassVar[int] = _HEADER.size + _CHECKSUM.size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)``."""
        return self.channels, self.height, self.width

    @property
    def n_blocks(self) -> int:
        """Blocks of the file; the last may have fewer images."""
        return -(-self.n_images // self.block_images)

    def images_of(self, block: int) -> int:
        """Images of a block."""
        return min(self.block_images, self.n_images - block * self.block_images)

    def to_bytes(self) -> bytes:
        """As they stand at the beginning of a file, with their checksum."""
        flags = PER_IMAGE * self.per_image | WITH_CLASSES * self.with_classes | WITH_NAMES * self.with_names
        keys = (bytes.fromhex(key) for key in (self.decoder, self.codes, self.prior))
        packed = _HEADER.pack(
            *(MAGIC, VERSION, flags, KINDS.index(self.kind), self.channels, self.height, self.width),
            *(self.n_images, self.block_images, self.n_codes, bytes.fromhex(self.run_id), *keys, self.digest),
        )
        return packed + _CHECKSUM.pack(zlib.crc32(packed))


class Block(NamedTuple):
    """The streams of some images, and the checksum of the codes that they stand for."""

    payload: bytes
    checksum: int

    def to_bytes(self) -> bytes:
        """As it stands in a file."""
        return _BLOCK.pack(len(self.payload), zlib.crc32(self.payload), self.checksum) + self.payload


def read_header(data: bytes, name: str) -> Header:
    """The header of a file.

    Raises:
        DataError: no such file, a damaged or truncated one, or one of a later version.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise DataError(f"{name}: is no file of compress.py; give one that it wrote")
    if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
        later = f"format version {data[len(MAGIC)]}, this program reads up to {VERSION}"
        raise DataError(f"{name}: {later}; take a newer GeoVQ (or the byte is damaged)")
    if len(data) < Header.n_bytes:
        raise DataError(f"{name}: ends within its header, after {len(data)} bytes; copy it again")
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if zlib.crc32(data[: _HEADER.size]) != checksum:
        raise DataError(f"{name}: the header is damaged (its checksum differs); copy the file again")
    _, version, flags, kind, channels, height, width, images, block, n_codes, run, *keys, digest = _HEADER.unpack_from(
        data
    )
    known = PER_IMAGE | WITH_CLASSES | WITH_NAMES
    if version < 1 or kind >= len(KINDS) or flags & ~known or not min(channels, height, width, images, block, n_codes):
        raise DataError(f"{name}: the header holds values that no file has; compress the images again")
    decoder, codes, prior = (key.hex() for key in keys)
    return Header(
        *(bool(flags & PER_IMAGE), bool(flags & WITH_CLASSES), bool(flags & WITH_NAMES), KINDS[kind]),
        *(channels, height, width, images, block, n_codes),
        *(run.hex(), decoder, codes, prior if int(prior, 16) else ""),
        digest,
    )


def names_to_bytes(names: list[str]) -> bytes:
    """Names of files, which hold no zero byte, compressed."""
    packed = zlib.compress("\0".join(names).encode(errors="surrogateescape"), 9)
    return _NAMES.pack(len(packed), zlib.crc32(packed)) + packed


def read_body(data: bytes, header: Header, name: str) -> tuple[list[str] | None, list[Block]]:
    """The names, where there are any, and all blocks.

    Raises:
        DataError: the file is damaged, truncated, or goes on after its last block.
    """
    place, names = Header.n_bytes, None
    if header.with_names:
        if place + _NAMES.size > len(data):
            raise DataError(f"{name}: ends before the images' names; copy it again")
        length, checksum = _NAMES.unpack_from(data, place)
        packed = data[place + _NAMES.size : place + _NAMES.size + length]
        place += _NAMES.size + length
        if len(packed) < length or zlib.crc32(packed) != checksum:
            raise DataError(f"{name}: the images' names are damaged or cut off; copy the file again")
        names = _names(packed, header.n_images, name)
    blocks = []
    for number in range(header.n_blocks):
        where = f"block {number + 1} of {header.n_blocks}"
        if place + _BLOCK.size > len(data):
            raise DataError(f"{name}: ends before {where}; copy it again")
        length, checksum, of_codes = _BLOCK.unpack_from(data, place)
        payload = data[place + _BLOCK.size : place + _BLOCK.size + length]
        place += _BLOCK.size + length
        if len(payload) < length:
            raise DataError(f"{name}: ends within {where}; copy it again")
        if zlib.crc32(payload) != checksum:
            raise DataError(f"{name}: {where} is damaged (its checksum differs); copy the file again")
        blocks.append(Block(payload, of_codes))
    if place < len(data):
        raise DataError(f"{name}: goes on for {len(data) - place} bytes after its last block; copy it again")
    return names, blocks


def _names(packed: bytes, n_images: int, name: str) -> list[str]:
    try:
        unpacked = zlib.decompressobj()
        text = unpacked.decompress(packed, 4096 * n_images)
        names = text.decode(errors="surrogateescape").split("\0")
    except zlib.error as error:
        raise DataError(f"{name}: the images' names cannot be read ({error}); compress the images again") from error
    if len(names) != n_images or unpacked.unconsumed_tail:
        raise DataError(f"{name}: has {n_images} images and {len(names)} names; compress the images again")
    return names


def joined(streams: list[bytes]) -> bytes:
    """The streams of a block's images: first the length of each, 7 bits per byte, low ones first (LEB128)."""
    lengths = bytearray()
    for stream in streams:
        left = len(stream)
        while left > 127:
            lengths.append(left & 127 | 128)
            left >>= 7
        lengths.append(left)
    return bytes(lengths) + b"".join(streams)


def split(payload: bytes, n: int) -> list[bytes]:
    """Undo ``joined`` of n streams; DataError where lengths and streams do not fit."""
    lengths, place = [], 0
    for _ in range(n):
        length, shift = 0, 0
        while True:
            if place >= len(payload) or shift > 28:
                raise DataError("lengths of streams that are none")
            byte = payload[place]
            place += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        lengths.append(length)
    if place + sum(lengths) != len(payload):
        raise DataError("streams of other lengths than told")
    streams = []
    for length in lengths:
        streams.append(payload[place : place + length])
        place += length
    return streams
