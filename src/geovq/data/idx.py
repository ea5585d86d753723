"""The IDX format of MNIST and its kin, plain or gzipped.

Big-endian: two zero bytes, a type code (8 = unsigned byte), the number of dimensions, one 32-bit size
per dimension, then the values (Y. LeCun, C. Cortes, C. Burges, "The MNIST database", 1998).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from geovq.data.limits import LARGEST_FILE
from geovq.errors import DataError

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
