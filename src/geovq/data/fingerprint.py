"""Content hashes that do not depend on where files lie or when they were written; names of any bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

READING = b"2"
"""Raised when the same files of a person come to be read as other images, parts or classes than before."""


def hash_parts(parts: Iterable[tuple[str, bytes | Path]]) -> str:
    """Hex sha256 over named parts, each the bytes of a buffer or of a file.

    Names and lengths are hashed with the bytes, so moving a byte from one part to the next, or renaming
    a part, changes the result. Raises ``OSError`` where a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, content in parts:
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        # File names that are not UTF-8 reach Python as surrogates, each of which stands for a byte.
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if isinstance(content, Path):
            with content.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)
        else:
            digest.update(content)
    return digest.hexdigest()


def printable(name: str) -> str:
    """``name`` on one line of a terminal or a picture: bytes that are not UTF-8 and control characters escaped."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
