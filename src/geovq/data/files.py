"""A person's own image files: a folder tree, or a zip of one.

Names are relative, with forward slashes, sorted; hidden files and the litter of operating systems and file servers
are not seen.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import zipfile
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geovq.data.decode import FirstFile, decode_images, image_suffixes, remarks_on
from geovq.data.fingerprint import READING, hash_parts, printable
from geovq.data.layout import read_layout
from geovq.data.limits import check_size
from geovq.data.parts import PartedSource, Parts
from geovq.data.types import DamagedFile, PixelSettings, ValueRange
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


class FilesSource(PartedSource):
    """Image files by their names, with the classes and the test part that their folders tell.

    Where the folders tell no test part, ``test_fraction`` of each class is drawn by ``seed``. The number
    of channels and the size are those of the first image unless given. With ``skip`` files that cannot be read are left
    out. Subclasses list and read the files.
    """

    def __init__(
        self, name: str, path: Path, test_fraction: float, seed: int, pixels: PixelSettings, skip: bool = False
    ) -> None:
        super().__init__(name, path, test_fraction, seed)
        self.pixels, self.skip = pixels, skip

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """What another process needs to read files: not the names that were found here."""
        return type(self), (self.name, self.path, self.test_fraction, self.seed, self.pixels, self.skip)

    @cached_property
    @abstractmethod
    def _listing(self) -> Listing:
        """Sorted relative names; raises ``DataError`` where there is no image."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of one file; raises ``DataError`` where it cannot be read or is too large."""

    @abstractmethod
    def _content_hash(self) -> str:
        """Hash of names and contents."""

    def everything(self) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
        """Names of all files, their images (N, C, H, W) uint8 in the same order, and remarks; no part is drawn."""
        names = self._listing.names
        images, told = decode_images(names, self.read, self.location, self.pixels)
        return names, images, (*self._listing.remarks, *remarks_on(told, names.__getitem__, len(names)))

    def _told_parts(self) -> Parts:
        return read_layout(self._listing.names, self.location)

    def _image_shape(self) -> tuple[int, int, int]:
        return self.first.shape(self.pixels)

    @cached_property
    def first(self) -> FirstFile:
        """The file that the others are compared with."""
        names = itertools.chain(self.parts.train, self.parts.test)
        return FirstFile.among(names, self.read, self.location, self.pixels.full_scale, self.skip)

    def _remarks(self) -> tuple[str, ...]:
        return (*filter(None, [self.parts.remark]), *self._listing.remarks)

    def _fingerprint(self) -> str:
        content = self._content_hash()
        if self.name != "folder":  # public sets are read as ever
            return content
        return hash_parts([("reading", READING), ("files", content.encode())])

    def _images(
        self,
    ) -> tuple[np.ndarray, np.ndarray, ValueRange | None, tuple[str, ...], tuple[DamagedFile, ...]]:
        names, n_train = [*self.parts.train, *self.parts.test], len(self.parts.train)
        images, told = decode_images(names, self.read, self.location, self.pixels, self.skip)
        damaged = tuple(
            DamagedFile(row >= n_train, row - n_train * (row >= n_train), fault) for row, fault in told.damaged.items()
        )
        remarks = remarks_on(told, names.__getitem__, len(names))
        return images[:n_train], images[n_train:], told.values, remarks, damaged


class FolderSource(FilesSource):
    """Image files in a folder tree; links are followed, each folder once."""

    @cached_property
    def _listing(self) -> Listing:
        no_files: list[str] = []
        names = list(_walk(str(self.path), "", {os.path.realpath(self.path)}, no_files))
        return list_images(names, self.location, no_files)

    def read(self, name: str) -> bytes:
        """Content of one file of the folder."""
        file = self.path / name
        try:
            check_size(file.stat().st_size, printable(str(file)))
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"{printable(str(file))}: cannot be read ({error.strerror})") from error

    def _content_hash(self) -> str:
        return hash_parts((name, self._content(name)) for name in self._listing.names)

    def _content(self, name: str) -> bytes:
        try:
            return self.read(name)
        except DataError:
            if not self.skip:
                raise
            return b""  # it is left out


def _walk(folder: str, prefix: str, seen: set[str], no_files: list[str]) -> Iterator[str]:
    """Names of the files below a folder, not yet ``seen``; pipes and devices go to ``no_files``."""
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
                yield from _walk(entry.path, f"{name}/", seen, no_files)
        elif entry.is_dir() or entry.is_file() or not os.path.exists(entry.path):
            yield name  # a hidden folder is only told of; reading a link that leads nowhere tells its name
        else:
            no_files.append(name)


class ZipSource(FilesSource):
    """Image files in a zip archive, read in memory and never unpacked to disk."""

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{self.location}: not a readable zip ({error}); fetch or pack it again") from error

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """The archive's files by name; some programs write backslashes, or ``./`` before each name."""
        members = {member.filename.replace("\\", "/"): member for member in self._archive.infolist()}
        return {posixpath.normpath(name).lstrip("/"): m for name, m in members.items() if not name.endswith("/")}

    @cached_property
    def _listing(self) -> Listing:
        listing = list_images(self._members, self.location)
        for name in listing.names:
            check_size(self._members[name].file_size, f"{self.location}: {printable(name)}")
        return listing

    def read(self, name: str) -> bytes:
        """Content of one file of the archive."""
        try:
            return self._archive.read(self._members[name])  # never more than the size it is listed with
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            reason = f"{printable(name)} cannot be read ({error})"
            raise DataError(f"{self.location}: {reason}; fetch or pack the zip again") from error

    def _content_hash(self) -> str:
        return hash_parts([("zip", self.path)])  # far quicker than unpacking it
