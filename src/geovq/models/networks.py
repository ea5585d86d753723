"""What makes encoders and decoders of one kind, with as many channels as whoever trains them needs.

A VAE asks for an encoder of means and log variances, a joint quantizer for one of latents, or of features that two
grids are made of; both then train the same networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import ClassVar

from torch import nn

from geovq.models.layers import Decoder, Encoder, level_sizes, level_widths


class Networks(ABC):
    """Encoders and decoders of one kind, between images and a grid of tokens.

    Attributes:
        image_shape: (C, H, W).
        grid: tokens per side.
        blocks: residual blocks of the layers between two grids.
        norm: normalisation of the same.
    """

    sized_by: ClassVar[tuple[str, ...]]
    """Settings that memory grows with."""

    image_shape: tuple[int, int, int]
    grid: int
    blocks: int
    norm: str

    @property
    @abstractmethod
    def features(self) -> int:
        """Channels of the encoder before its last layer: as many as two grids are made of."""

    @abstractmethod
    def encoder(self, out_channels: int) -> nn.Module:
        """Images (B, C, H, W) in [0, 1] to (B, out_channels, grid, grid)."""

    @abstractmethod
    def decoder(self, in_channels: int) -> nn.Module:
        """(B, in_channels, grid, grid) to images (B, C, H, W) in [0, 1]; with ``logits``, those before the sigmoid."""

    @abstractmethod
    def counts(self, dim: int) -> tuple[int, int]:
        """Parameters, and numbers per image that the backward pass reads, both at least, of latents of ``dim``."""


@dataclass(frozen=True)
class Convolutions(Networks):
    """The convolutional networks of ``vae=spatial``; settings as those of ``geovq.models.vae.VAE``."""

    sized_by: ClassVar[tuple[str, ...]] = ("width", "max_width", "blocks")

    image_shape: tuple[int, int, int]
    grid: int
    width: int
    max_width: int
    blocks: int
    norm: str

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        return level_sizes(self.image_shape[1:], (self.grid, self.grid))

    @property
    def features(self) -> int:
        """Channels at the coarsest level."""
        return level_widths(self._sizes, self.width, self.max_width)[-1]

    def encoder(self, out_channels: int) -> nn.Module:
        """Images to feature maps on the token grid."""
        layers = (self._sizes, self.width, self.max_width, self.blocks, self.norm)
        return Encoder(self.image_shape[0], out_channels, *layers)

    def decoder(self, in_channels: int) -> nn.Module:
        """Latent grids to images."""
        layers = (self._sizes, self.width, self.max_width, self.blocks, self.norm)
        return Decoder(self.image_shape[0], in_channels, *layers)

    def counts(self, dim: int) -> tuple[int, int]:
        """Of both networks: kernels, and the inputs of all convolutions."""
        inner = self._sizes[1:] or self._sizes  # the finest level may have no layers of its own
        widths = level_widths(inner, self.width, self.max_width)
        twice = 2  # encoder and decoder
        parameters = twice * sum(self.blocks * 2 * 9 * w * w for w in widths)
        parameters += twice * sum(9 * a * b for a, b in pairwise(widths)) + (2 + 9) * dim * widths[-1]
        numbers = twice * sum((2 * self.blocks + 1) * w * prod(size) for w, size in zip(widths, inner, strict=True))
        return parameters, numbers + dim * prod(inner[-1])
