"""The convolutional blocks that encoders and decoders are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.errors import InputError

Size = tuple[int, int]


def level_sizes(image: Size, grid: Size) -> list[Size]:
    """Sizes from the image down to the token grid, each axis halved (rounded up) while it can be.

    >>> level_sizes((28, 28), (4, 4))
    [(28, 28), (14, 14), (7, 7), (4, 4)]

    An axis that cannot be halved again without passing under the grid is resized to it in the last step,
    so that every grid that divides the image is possible (96 -> 48 -> 24 -> 12 -> 8).
    """
    if grid[0] > image[0] or grid[1] > image[1] or min(grid) < 1:
        raise InputError(f"a token grid of {grid} does not fit images of {image}: choose 1 to {min(image)} per side")
    sizes = [image]
    while sizes[-1] != grid:
        height, width = sizes[-1]
        halved = (max((height + 1) // 2, grid[0]), max((width + 1) // 2, grid[1]))
        sizes.append(halved)
    return sizes


def allowed_grids(image: Size) -> list[int]:
    """Square grids that halving reaches or that divide both sides of the image."""
    side = min(image)
    halvings, size = {side}, side
    while size > 1:
        size = (size + 1) // 2
        halvings.add(size)
    divisors = {g for g in range(1, side + 1) if image[0] % g == 0 and image[1] % g == 0}
    return sorted((halvings | divisors) - {side} if side > 1 else {1})


def normalisation(kind: str, channels: int) -> nn.Module:
    """GroupNorm with at most eight groups, or nothing: never statistics over the batch."""
    if kind == "none":
        return nn.Identity()
    groups = max(g for g in range(1, 9) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is carried."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            normalisation(norm, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            normalisation(norm, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, change: Sequence[Tensor] | None = None) -> Tensor:
        """(B, C, h, w) to the same shape; ``change`` is for after the second normalisation, which would undo others."""
        if change is None:
            return x + self.layers(x)
        return x + self.layers[4:](modulated(self.layers[:4](x), change))


class Resize(nn.Module):
    """A 3x3 convolution and a change of size: strided when halving, else to the nearest or by pooling."""

    def __init__(self, channels_in: int, channels_out: int, size_in: Size, size_out: Size) -> None:
        super().__init__()
        self.size_out = size_out
        halves = (1 + (size_in[0] != size_out[0]), 1 + (size_in[1] != size_out[1]))
        reached = (-(-size_in[0] // halves[0]), -(-size_in[1] // halves[1]))
        self.up = size_out[0] > size_in[0] or size_out[1] > size_in[1]
        self.strided = not self.up and reached == size_out
        stride = halves if self.strided else (1, 1)
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *size_in) to (B, C_out, *size_out)."""
        if self.up:
            return self.convolution(F.interpolate(x, size=self.size_out, mode="nearest"))
        x = self.convolution(x)
        return x if self.strided else F.adaptive_avg_pool2d(x, self.size_out)


class SubPixelHead(nn.Module):
    """Features at half the resolution to images: a 3x3 convolution whose channels become 2x2 pixels.

    Sub-pixel convolution (Shi et al. 2016): no layer runs at full resolution, which would cost as much as
    all the others together. Odd sizes are cut from the next even ones.
    """

    def __init__(self, width: int, channels: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(width, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, ceil(H / 2), ceil(W / 2)) to (B, C, H, W)."""
        return F.pixel_shuffle(self.convolution(x), 2)[..., : self.size[0], : self.size[1]]


def _halved(sizes: list[Size]) -> bool:
    """Whether both axes of the image are halved in the first step."""
    return len(sizes) > 1 and sizes[1] == tuple((side + 1) // 2 for side in sizes[0])


class Encoder(nn.Module):
    """Images to feature maps on the token grid."""

    def __init__(
        self, channels: int, out_channels: int, sizes: list[Size], width: int, max_width: int, blocks: int, norm: str
    ) -> None:
        super().__init__()
        halved = _halved(sizes)
        sizes = sizes[1:] if halved else sizes
        widths = level_widths(sizes, width, max_width)
        stem = nn.Conv2d(channels, widths[0], 4 if halved else 3, stride=2 if halved else 1, padding=1)
        layers: list[nn.Module] = [_EvenPadding() if halved else nn.Identity(), stem]
        layers += [ResidualBlock(widths[0], norm) for _ in range(blocks)]
        for level in range(1, len(sizes)):
            layers.append(Resize(widths[level - 1], widths[level], sizes[level - 1], sizes[level]))
            layers += [ResidualBlock(widths[level], norm) for _ in range(blocks)]
        layers += [normalisation(norm, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out_channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, out_channels, h, w)."""
        return self.layers(2 * x - 1)


class _EvenPadding(nn.Module):
    """Repeats the last row or column of odd images, so that halving by a 4x4 kernel rounds up."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")


class Decoder(nn.Module):
    """Latent grids to images in [0, 1]: the map whose Jacobian defines the geometry."""

    def __init__(
        self, channels: int, dim: int, sizes: list[Size], width: int, max_width: int, blocks: int, norm: str
    ) -> None:
        super().__init__()
        image = sizes[0]
        halved = _halved(sizes)
        sizes = sizes[1:] if halved else sizes
        widths = level_widths(sizes, width, max_width)
        layers: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1)]
        for level in range(len(sizes) - 1, 0, -1):
            layers += [ResidualBlock(widths[level], norm) for _ in range(blocks)]
            layers.append(Resize(widths[level], widths[level - 1], sizes[level], sizes[level - 1]))
        layers += [ResidualBlock(widths[0], norm) for _ in range(blocks)]
        head = SubPixelHead(widths[0], channels, image) if halved else nn.Conv2d(widths[0], channels, 3, padding=1)
        layers += [normalisation(norm, widths[0]), nn.SiLU(), head]
        self.layers = nn.Sequential(*layers)
        self.modulated = [widths[level] for level in range(len(sizes) - 1, -1, -1) for _ in range(blocks)] + [widths[0]]

    def logits(self, z: Tensor, changes: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
        """(B, d, h, w) to (B, C, H, W) before the sigmoid.

        ``changes`` has gamma and beta (B, C') for the C' channels of each of ``modulated``: in residual blocks, and
        after the last normalisation.
        """
        if changes is None:
            return self.layers(z)
        left = iter(changes)
        *body, last, activation, head = self.layers
        for layer in body:
            z = layer(z, next(left)) if isinstance(layer, ResidualBlock) else layer(z)
        return head(activation(modulated(last(z), next(left))))

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) to images (B, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.logits(z))


def modulated(x: Tensor, change: Sequence[Tensor]) -> Tensor:
    """Feature maps (B, C, h, w) scaled and shifted by gamma and beta (B, C): (1 + gamma) x + beta."""
    gamma, beta = (each[:, :, None, None] for each in change)
    return (1 + gamma) * x + beta


def level_widths(sizes: list[Size], width: int, max_width: int) -> list[int]:
    """Channels per level: ``width``, doubled at each halving up to ``max_width``."""
    return [min(width * 2**level, max_width) for level in range(len(sizes))]
