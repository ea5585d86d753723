"""What is too large to be read: one file of an image, or all decoded images beside the memory there is."""

from __future__ import annotations

import os
from contextlib import suppress
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


def decoded_bytes(info: DataInfo) -> int:
    """Of all images, one for each value."""
    return (info.n_train + info.n_test) * info.channels * info.height * info.width


def memory_limit(memory_gb: float | None) -> float:
    """Bytes that ``data.memory_gb`` stands for; None is a quarter of the memory."""
    return machine_memory() / 4 if memory_gb is None else memory_gb * 1e9


def is_beyond_memory(info: DataInfo, memory_gb: float | None) -> bool:
    """Whether images are to be prepared on the disk."""
    return decoded_bytes(info) > memory_limit(memory_gb)


def check_memory(info: DataInfo, location: str) -> None:
    """Raise ``DataError`` where the decoded images alone need more memory than there is."""
    n_images = info.n_train + info.n_test
    needed, memory = decoded_bytes(info) / 2**30, machine_memory() / 2**30
    if needed > memory:
        raise DataError(
            f"{location}: {n_images:,} images of {info.height}x{info.width}x{info.channels} need {needed:,.1f} GiB of "
            f"memory and there are {memory:,.1f} GiB; set a smaller data.image_size or give fewer images"
        )


def machine_memory() -> float:
    """Bytes of main memory that a program may use: those of the machine, or of its container.

    Not what is free at the moment, which also counts files that the system would drop from its cache.
    """
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not there, or "max"
            memory = min(memory, float(Path(limit).read_text()))
    return memory
