"""Decoders that are told the class of an image, and how labels travel with latents.

The rest of the project asks a decoder for images of latents alone. ``decoder.given(labels)`` is such a decoder, bound
to the classes of the images at hand; whoever takes some of their latents takes ``of_images(decoder, which)`` with them.
A class is a number in [0, n), or -1 for none, which is learnt as a class of its own by withholding some labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from geovq.errors import InputError
from geovq.models.networks import Networks

Condition = Literal["none", "concat", "film"]


class ClassDecoder(nn.Module, ABC):
    """A decoder of latents (B, d, h, w) and labels (B,); it has no answer without labels."""

    @abstractmethod
    def logits(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) before the sigmoid."""

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.logits(z, labels))

    def given(self, labels: Tensor) -> GivenClasses:
        """The decoder of the images that have these labels (N,)."""
        return GivenClasses(self, labels)


class GivenClasses(nn.Module):
    """A decoder bound to the labels (N,) of as many images; one label holds for any number of latents."""

    def __init__(self, decoder: ClassDecoder, labels: Tensor) -> None:
        super().__init__()
        self.decoder, self.labels, self.training = decoder, labels, decoder.training

    def of(self, images: slice | Tensor) -> GivenClasses:
        """The same of some of the images."""
        images = images.to(self.labels.device) if isinstance(images, Tensor) else images
        return GivenClasses(self.decoder, self.labels if len(self.labels) == 1 else self.labels[images])

    def logits(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) before the sigmoid, of latents (B, d, h, w)."""
        return self.decoder.logits(z, self._labels(z))

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1]."""
        images: Tensor = self.decoder(z, self._labels(z))
        return images

    def _labels(self, z: Tensor) -> Tensor:
        if len(self.labels) not in (1, len(z)):
            raise InputError(f"{len(z)} latents for the classes of {len(self.labels)} images: take those of each part")
        return self.labels.to(z.device).expand(len(z))


class Concatenated(ClassDecoder):
    """Reads an embedding of the class, as wide as a token and repeated over the grid, below each token."""

    def __init__(self, networks: Networks, dim: int, n_classes: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(n_classes + 1, dim)  # the last is no class: index -1
        self.decoder: Any = networks.decoder(2 * dim)

    def logits(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B, d, h, w) and labels (B,) to images before the sigmoid."""
        classes = self.classes(labels % self.classes.num_embeddings)[:, :, None, None].expand(*z.shape)
        logits: Tensor = self.decoder.logits(torch.cat([z, classes.to(z.dtype)], dim=1))
        return logits


class Modulated(ClassDecoder):
    """FiLM (Perez et al. 2018): each feature map is scaled and shifted by the class, ``(1 + gamma) x + beta``.

    Gamma and beta start at zero, and so the decoder as one that is told nothing.
    """

    def __init__(self, networks: Networks, dim: int, n_classes: int) -> None:
        super().__init__()
        decoder: Any = networks.decoder(dim)
        self.decoder, self.widths = decoder, list(decoder.modulated)
        self.classes = nn.Embedding(n_classes + 1, 2 * sum(self.widths))
        nn.init.zeros_(self.classes.weight)

    def logits(self, z: Tensor, labels: Tensor) -> Tensor:
        """Latents (B, d, h, w) and labels (B,) to images before the sigmoid."""
        changes = self.classes(labels % self.classes.num_embeddings).split([2 * width for width in self.widths], dim=1)
        logits: Tensor = self.decoder.logits(z, [change.chunk(2, dim=1) for change in changes])
        return logits


_KINDS: dict[str, type[Concatenated | Modulated]] = {"concat": Concatenated, "film": Modulated}


@dataclass(frozen=True)
class ClassNetworks(Networks):
    """Networks whose decoders are told the class, made of others."""

    sized_by: ClassVar[tuple[str, ...]] = ()

    networks: Networks
    condition: Condition
    n_classes: int

    def __post_init__(self) -> None:
        for name in ("image_shape", "grid", "blocks", "norm"):
            object.__setattr__(self, name, getattr(self.networks, name))

    @property
    def features(self) -> int:
        """As of the others."""
        return self.networks.features

    def encoder(self, out_channels: int) -> nn.Module:
        """As of the others."""
        return self.networks.encoder(out_channels)

    def decoder(self, in_channels: int) -> nn.Module:
        """A ``ClassDecoder``."""
        return _KINDS[self.condition](self.networks, in_channels, self.n_classes)

    def counts(self, dim: int) -> tuple[int, int]:
        """At least as of the others."""
        return self.networks.counts(dim)


def given(decoder: nn.Module, labels: Tensor | None) -> Any:
    """The decoder of images with these labels (N,), of no class by default; any other decoder as it is."""
    if not isinstance(decoder, ClassDecoder):
        return decoder
    return decoder.given(torch.tensor([-1]) if labels is None else labels)


def rows(labels: Tensor | None, index: Tensor | slice) -> Tensor | None:
    """Labels of some images, where there are any."""
    return None if labels is None else labels[index]


def withheld(labels: Tensor | None, share: float) -> Tensor | None:
    """Labels (B,), a share of them drawn to be -1, from torch's global generator."""
    if labels is None:
        return None
    return labels.masked_fill(torch.rand(len(labels), device=labels.device) < share, -1)


def slices(n: int, size: int = 500) -> Iterator[slice]:
    """Parts of n images, in their order."""
    return (slice(start, start + size) for start in range(0, n, size))
