"""A VAE of transformer blocks: an image is cut into as many patches as the grid has tokens, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.configuration.fields import Count
from geovq.models.networks import Networks
from geovq.models.vae import GridVAE, single_values_fault


class Blocks(nn.Module):
    """Learned position embeddings and the transformer blocks of ViT (Dosovitskiy et al. 2021), then a norm."""

    def __init__(self, n_tokens: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        from transformers import ViTConfig
        from transformers.models.vit.modeling_vit import ViTLayer

        configuration = ViTConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width)
        configuration._attn_implementation = "eager"  # fused kernels have no forward-mode derivatives
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(n_tokens, width), std=0.02))
        self.layers = nn.ModuleList(ViTLayer(configuration) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=configuration.layer_norm_eps)

    def forward(self, tokens: Tensor, changes: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
        """(B, T, width) to the same shape; ``changes`` has gamma and beta (B, width) for after each block."""
        tokens = tokens + self.positions
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens)
            if changes is not None:
                gamma, beta = (each[:, None] for each in changes[index])
                tokens = (1 + gamma) * tokens + beta
        return self.norm(tokens)


class PatchEncoder(nn.Module):
    """Images to feature maps on the token grid: a patch is a token."""

    def __init__(self, networks: Vit, out_channels: int) -> None:
        super().__init__()
        channels, patch = networks.image_shape[0], networks.patch
        self.embedding = nn.Conv2d(channels, networks.width, patch, stride=patch)
        self.blocks = networks.new_blocks()
        self.output = nn.Linear(networks.width, out_channels)
        self.grid = networks.grid

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, out_channels, h, w)."""
        tokens = self.embedding(2 * x - 1).flatten(2).mT  # (B, T, width)
        return self.output(self.blocks(tokens)).mT.unflatten(2, (self.grid, self.grid))


class PatchDecoder(nn.Module):
    """Latent grids to images in [0, 1]: a token is a patch."""

    def __init__(self, networks: Vit, in_channels: int) -> None:
        super().__init__()
        channels, self.patch = networks.image_shape[0], networks.patch
        self.image = networks.image_shape[1:]
        self.embedding = nn.Linear(in_channels, networks.width)
        self.blocks = networks.new_blocks()
        self.modulated = [networks.width] * networks.layers
        self.output = nn.Linear(networks.width, channels * self.patch[0] * self.patch[1])

    def logits(self, z: Tensor, changes: Sequence[Sequence[Tensor]] | None = None) -> Tensor:
        """(B, d, h, w) to (B, C, H, W) before the sigmoid; ``changes`` as of ``Blocks``."""
        patches = self.output(self.blocks(self.embedding(z.flatten(2).mT), changes))  # (B, T, C * patch pixels)
        return F.fold(patches.mT, self.image, self.patch, stride=self.patch)

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) to images (B, C, H, W) in [0, 1]."""
        return torch.sigmoid(self.logits(z))


@dataclass(frozen=True)
class Vit(Networks):
    """Transformer blocks on patches; settings as those of ``VitVAE``."""

    sized_by: ClassVar[tuple[str, ...]] = ("layers", "width", "heads")

    image_shape: tuple[int, int, int]
    grid: int
    layers: int
    width: int
    heads: int
    blocks: int = 1  # between two grids there are convolutions, as in vae=spatial
    norm: str = "group"

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels of a patch."""
        return self.image_shape[1] // self.grid, self.image_shape[2] // self.grid

    @property
    def features(self) -> int:
        """Dimensions of an embedding."""
        return self.width

    def new_blocks(self) -> Blocks:
        """The blocks of one network, drawn anew."""
        return Blocks(self.grid**2, self.layers, self.width, self.heads)

    def encoder(self, out_channels: int) -> nn.Module:
        """Images to feature maps on the token grid."""
        return PatchEncoder(self, out_channels)

    def decoder(self, in_channels: int) -> nn.Module:
        """Latent grids to images."""
        return PatchDecoder(self, in_channels)

    def counts(self, dim: int) -> tuple[int, int]:
        """Of both networks: matrices; inputs of matrices and attention."""
        n_tokens, twice = self.grid**2, 2  # encoder and decoder
        parameters = twice * (self.layers * 12 * self.width**2 + n_tokens * self.width) + 3 * dim * self.width
        numbers = twice * self.layers * (n_tokens * 7 * self.width + self.heads * n_tokens**2) + dim * n_tokens
        return parameters, numbers


class VitVAE(GridVAE):
    """A VAE of transformer blocks for images (B, C, H, W) whose sides the grid divides.

    Args:
        image_shape: (C, H, W).
        grid: tokens per side.
        dim: dimensions of a token.
        layers: transformer blocks of the encoder, and of the decoder.
        width: dimensions of an embedding; a multiple of ``heads``.
        heads: of attention.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], grid: int, dim: int, layers: Count, width: Count, heads: Count
    ) -> None:
        super().__init__(Vit(image_shape, grid, layers, width, heads), dim)

    @classmethod
    def networks(cls, settings: Any, image_shape: tuple[int, int, int]) -> Networks:
        """What makes its encoder and decoder."""
        return Vit(image_shape, settings.grid, settings.layers, settings.width, settings.heads)

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """Heads share the width."""
        if settings.width % settings.heads:
            raise ValueError(f"vae.width={settings.width} must be a multiple of vae.heads={settings.heads}")

    @staticmethod
    def faults_with(settings: Any, image: tuple[int, int], grids: int) -> list[str]:
        """Why these settings cannot take images (H, W), with one grid of tokens or two; asked before any compute."""
        allowed = [grid for grid in range(1, min(image) + 1) if image[0] % grid == 0 and image[1] % grid == 0]
        if settings.grid not in allowed:
            listed = ", ".join(map(str, allowed))
            return [
                f"vae.grid={settings.grid}: vae={settings.name} cuts images into equal patches, and "
                f"{image[0]}x{image[1]} allow {listed}; take one of these, or vae=spatial"
            ]
        coarse = (settings.grid + 1) // 2
        if grids > 1 and single_values_fault([((coarse, coarse), settings.width)]):
            return [
                f"vae.width={settings.width}: there are at most 8 channels on a coarse grid of one position, where "
                "group normalisation would set each to zero; take a larger one"
            ]
        return []
