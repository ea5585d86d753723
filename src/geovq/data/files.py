"""A person's own image files, in a folder tree or in a zip of one, behind the same three questions.

Which names are there, what are the bytes of a name, and what is the hash of it all. Names are relative,
with forward slashes, sorted; hidden files and the litter of operating systems and file servers are not seen.
"""

from __future__ import annotations

import os
import posixpath
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from geovq.data.decode import image_suffixes
from geovq.data.fingerprint import hash_parts, printable
from geovq.data.limits import check_size
from geovq.errors import DataError

# Thumbnails, waste bins, snapshots and settings that file servers, operating systems and tools leave among images.
LITTER = frozenset(
    {
        *("__macosx", "icon\r"),
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "recycler"),
        *("@eadir", "@tmp", "@__thumb", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot"),
        *("lost+found", "__pycache__"),
    }
)


class Listing(NamedTuple):
    """Sorted relative names of image files, and remarks on what was left out beside them."""

    names: list[str]
    remarks: tuple[str, ...]


class ImageFiles(Protocol):
    """Named image files."""

    location: str

    @property
    def listing(self) -> Listing:
        """Which files there are."""
        ...

    def read(self, name: str) -> bytes:
        """Content of one of them."""
        ...

    def fingerprint(self) -> str:
        """Hash of the content."""
        ...


def hidden_part(name: str) -> str | None:
    """The part of a path that hides it (``.git``, ``@eaDir``), or None where all is to be seen."""
    return next((part for part in name.split("/") if part.startswith(".") or part.casefold() in LITTER), None)


def list_images(names: Iterable[str], location: str, no_files: Iterable[str] = ()) -> Listing:
    """The visible ``names`` with an image's suffix; raises ``DataError`` where there is none.

    ``no_files`` are names of pipes, devices and other things that are not to be read.
    """
    hidden: Counter[str] = Counter()
    images: list[str] = []
    others: list[str] = []
    for name in names:
        if (part := hidden_part(name)) is not None:
            hidden[part] += 1
        else:
            (images if name.lower().endswith(image_suffixes()) else others).append(name)
    if not images:
        beside = f" among {len(others)} files such as {printable(min(others))}" if others else ""
        raise DataError(f"{location}: no image found{beside}; expected {', '.join(image_suffixes())}")
    remarks = []
    if others:
        suffixes = Counter(posixpath.splitext(name)[1].lower() or "no suffix" for name in others)
        told = ", ".join(f"{count} {printable(suffix)}" for suffix, count in suffixes.most_common(5))
        remarks.append(
            f"left out {len(others)} files that are no images by their names ({told}), such as {printable(min(others))}"
        )
    if hidden:
        told = ", ".join(printable(part) for part, _ in hidden.most_common(5))
        remarks.append(f"left out what is hidden or belongs to the system: {told}")
    if no_files := sorted(no_files):
        remarks.append(f"left out {len(no_files)} pipes or devices, such as {printable(no_files[0])}")
    return Listing(sorted(images), tuple(remarks))


class FolderFiles:
    """Image files in a folder tree; links are followed, each folder once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = printable(str(path))
        self._no_files: list[str] = []

    def _walk(self, folder: str, prefix: str, seen: set[str]) -> Iterator[str]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"{printable(folder)}: cannot be listed ({error.strerror}); allow it, or move the folder away"
            ) from error
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir() and hidden_part(entry.name) is None:
                here = os.path.realpath(entry.path)
                if here not in seen:  # else a link back to a folder already walked
                    seen.add(here)
                    yield from self._walk(entry.path, f"{name}/", seen)
            elif entry.is_dir() or entry.is_file() or not os.path.exists(entry.path):
                yield name  # a hidden folder is only told of; reading a link that leads nowhere tells its name
            else:
                self._no_files.append(name)

    @cached_property
    def listing(self) -> Listing:
        """Sorted relative names."""
        names = list(self._walk(str(self.path), "", {os.path.realpath(self.path)}))
        return list_images(names, self.location, self._no_files)

    def read(self, name: str) -> bytes:
        """Content of the file; raises ``DataError`` where it cannot be read or is too large."""
        try:
            check_size((self.path / name).stat().st_size, printable(str(self.path / name)))
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{printable(str(self.path / name))}: cannot be read ({error.strerror})") from error

    def fingerprint(self) -> str:
        """Hash of relative names and contents."""
        return hash_parts((name, self.read(name)) for name in self.listing.names)


class ZipFiles:
    """Image files in a zip archive, read in memory and never unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.location = printable(str(path))

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.location}: not a readable zip ({error}); fetch or pack it again") from error

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """The archive's files by name; some programs write backslashes, or ``./`` before each name."""
        members = {}
        for member in self._archive.infolist():
            name = member.filename.replace("\\", "/")
            if not name.endswith("/"):
                members[posixpath.normpath(name).lstrip("/")] = member
        return members

    @cached_property
    def listing(self) -> Listing:
        """Sorted names of the archive's members; raises ``DataError`` where one is too large."""
        listing = list_images(self._members, self.location)
        for name in listing.names:
            check_size(self._members[name].file_size, f"{self.location}: {printable(name)}")
        return listing

    def read(self, name: str) -> bytes:
        """Unpacked content of the member; raises ``DataError`` where it is damaged or encrypted."""
        try:
            return self._archive.read(self._members[name])  # never more than the size it is listed with
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = f"{printable(name)} cannot be read ({error})"
            raise DataError(f"{self.location}: {reason}; fetch or pack the zip again") from error

    def fingerprint(self) -> str:
        """Hash of the archive's own bytes, which is far quicker than unpacking them."""
        return hash_parts([("zip", self.path)])
