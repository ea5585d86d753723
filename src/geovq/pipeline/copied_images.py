"""Images that do not fit on a GPU: kept in main memory or on the disk, and copied there batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_SHARE = 0.5
"""Of the device's free memory that whole sets of images may take; networks need the rest."""


class CopiedImages:
    """Byte images (N, C, H, W) elsewhere, whose batches come on ``device``; what stages use of a tensor is here."""

    dtype = torch.uint8

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self.images, self.device = images, device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.images[index.to(self.images.device) if isinstance(index, Tensor) else index].to(self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches in their order."""
        return (self[start : start + size] for start in range(0, len(self), size))


Images = Tensor | CopiedImages


def fit_on(device: torch.device, *images: Tensor) -> bool:
    """Whether some images may live on a device whole: on the CPU they do anyway."""
    if device.type == "cpu":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(each.nbytes for each in images) <= _SHARE * free
