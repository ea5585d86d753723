"""Tensors of any size: in memory, or where they are too large for it, in a file that goes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from geovq.geometry.computing import in_a_file
from geovq.pipeline.disk import disk_errors

Room = Callable[[tuple[int, ...]], Tensor]
"""Makes an empty float32 tensor of a shape."""


def room_within(n_bytes: float, folder: Path) -> Room:
    """Room in memory for tensors of at most so many bytes, for larger ones in files without a name in ``folder``.

    Raises ArtifactError, when it is asked: the disk has too little.
    """

    def room(shape: tuple[int, ...]) -> Tensor:
        size = 4 * prod(shape)
        if size <= n_bytes:
            return torch.empty(shape)
        with disk_errors(folder):
            return torch.from_numpy(in_a_file(shape, folder))

    return room


def filled(parts: Iterable[Tensor], n: int, room: Room = torch.empty) -> Tensor:
    """The (n, …) tensor of parts one after the other, copied as they come."""
    whole, start = None, 0
    for part in parts:
        if whole is None:
            whole = room((n, *part.shape[1:]))
        whole[start : start + len(part)] = part
        start += len(part)
    assert whole is not None
    assert start == n
    return whole
