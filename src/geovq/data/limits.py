"""What is too large to be read: one file of an image, or all decoded images beside the memory there is."""

from __future__ import annotations

import os
from pathlib import Path

from geovq.data.types import DataInfo
from geovq.errors import DataError

LARGEST_FILE = 2**28
"""Bytes that one image file may have, unpacked; archives of a few kilobytes can claim gigabytes."""


def check_size(size: int, name: str) -> None:
    """Raise ``DataError`` where one image file has more bytes than any should."""
    if size > LARGEST_FILE:
        raise DataError(
            f"{name}: has {size:,} bytes, and one image file may have {LARGEST_FILE:,}; make it smaller or remove it"
        )


def check_memory(info: DataInfo, location: str) -> None:
    """Raise ``DataError`` where the decoded images alone need more memory than there is."""
    n_images = info.n_train + info.n_test
    needed, free = n_images * info.channels * info.height * info.width, free_memory()
    if needed > free:
        size = f"{n_images:,} images of {info.height}x{info.width}x{info.channels}"
        raise DataError(
            f"{location}: {size} need {needed / 2**30:,.1f} GiB of memory and {free / 2**30:,.1f} GiB are free; set a "
            "smaller data.image_size or give fewer images"
        )


def free_memory() -> int:
    """Bytes that a program can still take: of the machine, and of the container where one is set a limit."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, KeyError):
        pass  # another system than Linux, or no limit ("max")
    return free
