"""The features that networks are trained to please: other ones than those that judge their images.

A perceptual loss on the evaluation classifier's own features would train for the judge. These networks differ from it
in architecture and seed. ``PerceptualNetwork`` (strided convolutions, residual blocks, a mean over the image before the
logits) says little of what is where. Where images are compared as sets, ``FlattenedNetwork`` stands beside it, whose
hidden layer sees the places of a map, as the judge's does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.errors import InputError
from geovq.models.classifier import SMALLEST_SIDE
from geovq.models.layers import ResidualBlock, normalisation

_MOST_PLACES = 8
"""A side: weights of the hidden layer do not grow with the image beyond."""
_EMBEDDING_SIZE = 192


class Perception(Protocol):
    """What a perceptual loss asks of a network."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) in [0, 1] to maps (B, F_l, H_l, W_l), from fine to coarse; differentiable."""

    def distance(self, reference: list[Tensor], output: list[Tensor]) -> Tensor:
        """Perceptual distance (B,) of the maps of two batches."""

    def layout(self, maps: list[Tensor]) -> Tensor:
        """The maps of a batch to vectors (B, D), whose distributions are compared: what is where, where D allows."""


class ThreeResolutions(nn.Module, ABC):
    """A classifier of maps of F, 2F and 4F channels, each at half the resolution before.

    Args:
        channels: colour channels of the images.
        height: in pixels, at least 4.
        width: in pixels, at least 4.
        n_classes: number of labels, at least 2.
        hidden_channels: at the full resolution, a multiple of 8; twice and four times as many at the halved ones.

    Raises:
        InputError: the images are too small, or have fewer than two classes.
    """

    fine: nn.Module
    middle: nn.Module
    coarse: nn.Module
    output: nn.Module

    def __init__(self, channels: int, height: int, width: int, n_classes: int, hidden_channels: int = 24) -> None:
        super().__init__()
        if min(height, width) < SMALLEST_SIDE or n_classes < 2:
            raise InputError(
                f"images of {height}x{width} with {n_classes} classes: a feature network needs {SMALLEST_SIDE} pixels "
                "a side and two classes"
            )
        self._build(channels, (height, width), n_classes, (hidden_channels, 2 * hidden_channels, 4 * hidden_channels))

    @abstractmethod
    def _build(self, channels: int, size: tuple[int, int], n_classes: int, widths: tuple[int, int, int]) -> None:
        """Make the layers, in an order that their initial weights depend on."""

    @abstractmethod
    def embedding(self, maps: list[Tensor]) -> Tensor:
        """What the logits are made of, (B, D), from the maps."""

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) in [0, 1] to maps of F, 2F and 4F channels, each at half the resolution before."""
        fine = self.fine(2 * images - 1)
        middle = self.middle(fine)
        return [fine, middle, self.coarse(middle)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, n_classes)."""
        logits: Tensor = self.output(self.embedding(self.features(images)))
        return logits


class PerceptualNetwork(ThreeResolutions):
    """Strided convolutions and residual blocks; the logits are made of a mean over the image."""

    def _build(self, channels: int, size: tuple[int, int], n_classes: int, widths: tuple[int, int, int]) -> None:
        self.fine = nn.Sequential(*_entry(channels, widths[0]), nn.Conv2d(widths[0], widths[0], 3, padding=1))
        self.middle, self.coarse = (
            nn.Sequential(nn.SiLU(), *_entry(before, after, stride=2), ResidualBlock(after, "group"))
            for before, after in pairwise(widths)
        )
        self.output = nn.Linear(widths[2], n_classes)

    def embedding(self, maps: list[Tensor]) -> Tensor:
        """Mean of the coarsest map over the image: (B, 4F)."""
        return F.silu(maps[-1]).mean((2, 3))

    def layout(self, maps: list[Tensor]) -> Tensor:
        """Means of the two coarsest maps over each quarter of the image: (B, 24F)."""
        return torch.cat([F.adaptive_avg_pool2d(F.silu(each), 2).flatten(1) for each in maps[1:]], dim=1)

    def distance(self, reference: list[Tensor], output: list[Tensor]) -> Tensor:
        """Zhang et al. 2018, eq. 1, with unit weights: (B,), each map adding between 0 and 4."""
        return perceptual_distance(reference, output)


class FlattenedNetwork(ThreeResolutions):
    """A hidden layer of 192 on the flattened coarsest map, which is averaged to at most 8 × 8 places."""

    def _build(self, channels: int, size: tuple[int, int], n_classes: int, widths: tuple[int, int, int]) -> None:
        self.fine = nn.Sequential(*_entry(channels, widths[0]), *_entry(widths[0], widths[0]))
        self.middle, self.coarse = (
            nn.Sequential(nn.AvgPool2d(2), *_entry(before, after)) for before, after in pairwise(widths)
        )
        self.places = (min(size[0] // 4, _MOST_PLACES), min(size[1] // 4, _MOST_PLACES))
        self.hidden = nn.Linear(widths[2] * self.places[0] * self.places[1], _EMBEDDING_SIZE)
        self.output = nn.Linear(_EMBEDDING_SIZE, n_classes)

    def embedding(self, maps: list[Tensor]) -> Tensor:
        """Hidden layer on the coarsest map, averaged to at most 8 × 8 places: (B, D)."""
        return F.silu(self.hidden(F.adaptive_avg_pool2d(maps[-1], self.places).flatten(1)))


class PairedPerception(nn.Module):
    """Both networks as one: maps side by side, the mean of their distances, vectors end to end."""

    def __init__(self, first: PerceptualNetwork, second: FlattenedNetwork) -> None:
        super().__init__()
        self.first, self.second = first, second

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps of the first network, then those of the second."""
        return self.first.features(images) + self.second.features(images)

    def distance(self, reference: list[Tensor], output: list[Tensor]) -> Tensor:
        """Mean of the perceptual distances (B,) of both."""
        half = len(reference) // 2
        parts = (slice(None, half), slice(half, None))
        return torch.stack([perceptual_distance(reference[part], output[part]) for part in parts]).mean(0)

    def layout(self, maps: list[Tensor]) -> Tensor:
        """The layout of the first and the hidden layer of the second: (B, 24F + D)."""
        half = len(maps) // 2
        return torch.cat([self.first.layout(maps[:half]), self.second.embedding(maps[half:])], dim=1)


def _entry(channels_in: int, channels_out: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
    return [convolution, normalisation("group", channels_out), nn.SiLU()]


def perceptual_distance(features_reference: list[Tensor], features_output: list[Tensor]) -> Tensor:
    """Zhang et al. 2018, eq. 1, with unit weights.

    Args:
        features_reference: activations per layer, each (N, F_l, H_l, W_l).
        features_output: the same shapes.

    Returns:
        (N,) distances, without unit; each layer adds between 0 and 4.

    Raises:
        InputError: the numbers of layers or the shapes differ.
    """
    shapes = [[tuple(layer.shape) for layer in features] for features in (features_reference, features_output)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise InputError(
            f"features of shapes {shapes[0]} and {shapes[1]}: both images must go through the same network"
        )
    layers = []
    for reference, output in zip(features_reference, features_output, strict=True):
        # a vector of zeros stays zero instead of becoming NaN
        difference = F.normalize(reference, dim=1, eps=1e-8) - F.normalize(output, dim=1, eps=1e-8)
        layers.append(difference.square().sum(1).mean((1, 2)))
    return sum(layers[1:], start=layers[0])
