"""A person's image files, in a folder tree or in a zip of one, behind the same three questions.

Which names are there, what are the bytes of a name, and what is the hash of it all. Names are relative,
with forward slashes, sorted; hidden files and operating-system litter are not seen.
"""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from geovq.data.decode import IMAGE_SUFFIXES
from geovq.data.fingerprint import hash_parts
from geovq.errors import DataError

log = logging.getLogger(__name__)


class ImageFiles(Protocol):
    """Named image files."""

    location: str

    @property
    def names(self) -> list[str]:
        """Sorted relative names of the image files."""
        ...

    def read(self, name: str) -> bytes:
        """Content of one of them."""
        ...

    def fingerprint(self) -> str:
        """Hash of the content."""
        ...


def is_hidden(name: str) -> bool:
    """Whether a part of the path is hidden (``.DS_Store``, ``.git``) or a Mac archive's shadow tree."""
    return name.startswith((".", "__MACOSX/")) or "/." in name or "/__MACOSX/" in name


def image_names(names: list[str], location: str) -> list[str]:
    """The visible names with an image's suffix, sorted; raises ``DataError`` where there is none."""
    visible = sorted(name for name in names if not is_hidden(name))
    images = [name for name in visible if name.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        beside = f" among {len(visible)} files such as {visible[0]}" if visible else ""
        raise DataError(f"{location}: no image found{beside}; expected {', '.join(IMAGE_SUFFIXES)}")
    if len(images) < len(visible):
        other = next(name for name in visible if not name.lower().endswith(IMAGE_SUFFIXES))
        log.warning(
            "%s: left out %d files that are no images, such as %s",
            location,
            len(visible) - len(images),
            other,
        )
    return images


class FolderFiles:
    """Image files in a folder tree; links are followed, each folder once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    def _walk(self) -> Iterator[str]:
        seen = set()
        for folder, subfolders, files in os.walk(self.path, followlinks=True):
            here = os.path.realpath(folder)
            if here in seen:  # a link back to a folder already walked
                subfolders.clear()
                continue
            seen.add(here)
            relative = Path(folder).relative_to(self.path)
            yield from ((relative / file).as_posix() for file in files)

    @cached_property
    def names(self) -> list[str]:
        """Sorted relative names."""
        return image_names(list(self._walk()), self.location)

    def read(self, name: str) -> bytes:
        """Content of the file; raises ``DataError`` where it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name}: cannot be read ({error.strerror})") from error

    def fingerprint(self) -> str:
        """Hash of relative names and contents."""
        return hash_parts((name, self.read(name)) for name in self.names)


class ZipFiles:
    """Image files in a zip archive, read in memory and never unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = str(path)

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.path}: not a readable zip ({error}); fetch or pack it again") from error

    @cached_property
    def names(self) -> list[str]:
        """Sorted names of the archive's members."""
        members = {member.filename for member in self._archive.infolist() if not member.is_dir()}
        return image_names(list(members), self.location)

    def read(self, name: str) -> bytes:
        """Unpacked content of the member; raises ``DataError`` where it is damaged or encrypted."""
        try:
            return self._archive.read(name)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path}: {name} cannot be read ({error}); fetch or pack the zip again") from error

    def fingerprint(self) -> str:
        """Hash of the archive's own bytes, which is far quicker than unpacking them."""
        return hash_parts([("zip", self.path)])
