"""Files that are there whole or not at all: locks, syncing, moving aside, and what a disk refuses in one line."""

from __future__ import annotations

import errno
import itertools
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geovq.errors import ArtifactError
from geovq.locks import lock_at


def set_aside(path: Path, word: str) -> Path:
    """Move a file or folder out of the way, keeping it for inspection; where it is now."""
    aside = _place_aside(path, word)
    path.rename(aside)
    return aside


def _place_aside(path: Path, word: str) -> Path:
    """A path beside ``path`` that nothing has yet."""
    name = f"{path.name}.{word}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    return next(aside for ending in endings if not os.path.lexists(aside := path.with_name(name + ending)))


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """The folder ``path``; a file that lies in its place is set aside."""
    if os.path.lexists(path) and not path.is_dir():
        print(f"warning: {path} is no folder; set aside as {set_aside(path, 'damaged').name}", file=sys.stderr)
    path.mkdir(exist_ok=True)


@contextmanager
def file_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a file lock; tell the person when another process holds it. A folder in its place is set aside."""
    from filelock import Timeout

    if path.is_dir():
        aside = _place_aside(path, "damaged")
        with suppress(FileNotFoundError, NotADirectoryError):
            os.rename(f"{path}/", aside)  # the slash refuses a lock file that another process has just put there
            print(f"warning: {path} is no lock file; set aside as {aside.name}", file=sys.stderr)
    lock = lock_at(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        print(f"waiting for another process that builds {what}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn what the disk refuses into one clear line. Safetensors reports it as an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        text = str(error)
        of_safetensors = re.search(r"os error (\d+)", text)
        number = int(of_safetensors[1]) if of_safetensors else getattr(error, "errno", None)
        if number == errno.ENOSPC or "No space left" in text:
            remedy = "free some space and run the same command again; finished stages and checkpoints are kept"
            raise ArtifactError(f"the disk is full while writing {directory}: {remedy}") from error
        # What a stage cannot read elsewhere is no fault of this folder.
        named = Path(str(getattr(error, "filename", None) or "/"))
        is_near = named.is_relative_to(directory.parent) or (named in directory.parents and named != Path("/"))
        if of_safetensors or number in (errno.EROFS, errno.EDQUOT, errno.EIO, errno.EFBIG) or is_near:
            reason = os.strerror(number) if number else text
            reason += f" ({named})" if named != Path("/") else ""
            raise ArtifactError(f"cannot use {directory}: {reason}; mend that or choose another paths.root") from error
        raise


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
