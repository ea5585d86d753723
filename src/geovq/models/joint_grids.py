"""Where the codes of a jointly trained autoencoder lie: on one grid, or on a coarse and a fine one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.models.codec import Codec, stacked_codec
from geovq.models.joint_quantizer import Quantized, TokenQuantizer
from geovq.models.layers import ResidualBlock, Resize, Size, normalisation
from geovq.models.tokens import grids_of, tokens_of


@dataclass(frozen=True)
class QuantizedGrid:
    """A batch of latent grids after quantization.

    Attributes:
        latents: (B, d, h, w), what the decoder reads.
        levels: the quantized tokens of each level, coarse first, with the number of its slots' codes.
    """

    latents: Tensor
    levels: tuple[tuple[Quantized, tuple[int, ...]], ...]

    @property
    def penalty(self) -> Tensor:
        """Sum of the levels' penalties, each a mean over its own tokens."""
        return torch.stack([quantized.penalty for quantized, _ in self.levels]).sum()


class OneGrid(nn.Module):
    """Encoder and quantizer of one code (or tuple of slot codes) per position."""

    def __init__(self, encoder: nn.Module, quantizer: TokenQuantizer, grid: Size) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.grid = encoder, quantizer, grid
        self.latent_shape = (quantizer.dim, *grid)

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to latents (B, d, h, w) before quantization."""
        return self.quantizer.activation(self.encoder(x).float())

    def forward(self, x: Tensor, progress: float) -> QuantizedGrid:
        """Images to quantized latents."""
        quantized = self.quantizer(tokens_of(self.encode(x)), progress)
        return QuantizedGrid(grids_of(quantized.vectors, self.grid), ((quantized, self.quantizer.sizes),))

    def codes(self, latents: Tensor) -> Tensor:
        """Latents (B, d, h, w) to codes (B, *codec.shape)."""
        return self.quantizer.codes(tokens_of(latents.float())).reshape(len(latents), *self.codec().shape)

    def codec(self) -> Codec:
        """From codes back to what the decoder reads."""
        return stacked_codec(self.quantizer.tables(), self.grid)

    def scalars(self) -> dict[str, Tensor]:
        """State of the quantizer worth logging."""
        return self.quantizer.scalars()


class TwoGrids(nn.Module):
    """A coarse grid of half the side (rounded up) and a fine one, encoded given the coarse codes (Razavi et al. 2019).

    From the features of the encoder: a strided convolution and residual blocks give the coarse latents; these are
    quantized, brought to the fine grid by an upsampling convolution, and read together with the features to give the
    fine latents. The decoder reads the coarse vectors, repeated over the positions that they cover, above the fine
    ones. Latents have that layout too, so that the same array serves before and after quantization.
    """

    def __init__(
        self,
        encoder: nn.Module,
        top: TokenQuantizer,
        bottom: TokenQuantizer,
        grid: Size,
        width: int,
        blocks: int,
        norm: str,
    ) -> None:
        super().__init__()
        self.encoder, self.top, self.bottom, self.grid = encoder, top, bottom, grid
        self.top_grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        self.latent_shape = (top.dim + bottom.dim, *grid)
        self.to_top = nn.Sequential(
            Resize(width, width, grid, self.top_grid),
            *(ResidualBlock(width, norm) for _ in range(blocks)),
            normalisation(norm, width),
            nn.SiLU(),
            nn.Conv2d(width, top.dim, 1),
        )
        self.from_top = Resize(top.dim, width, self.top_grid, grid)
        self.to_bottom = nn.Sequential(nn.SiLU(), nn.Conv2d(2 * width, bottom.dim, 3, padding=1))

    def _repeat(self, top: Tensor) -> Tensor:
        """Coarse grids (B, d, h', w') to the fine grid, as ``Codec.embed`` repeats them."""
        return F.interpolate(top, size=self.grid, mode="nearest")

    def _pick(self, repeated: Tensor) -> Tensor:
        """Undo ``_repeat``: the first fine position of each coarse one."""
        for axis, (coarse, fine) in enumerate(zip(self.top_grid, self.grid, strict=True)):
            places = torch.arange(coarse, dtype=torch.float32, device=repeated.device)
            covering = F.interpolate(places[None, None], size=fine, mode="nearest")[0, 0]
            repeated = repeated.index_select(2 + axis, torch.searchsorted(covering, places))
        return repeated

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to latents (B, d_top + d_bottom, h, w), the fine ones given the coarse *codes*."""
        features = self.encoder(x)
        top = self.to_top(features).float()
        quantized = grids_of(self.top.embed(self.top.codes(tokens_of(top))), self.top_grid)
        bottom = self.to_bottom(torch.cat([self.from_top(quantized), features], dim=1)).float()
        return torch.cat([self._repeat(top), bottom], dim=1)

    def forward(self, x: Tensor, progress: float) -> QuantizedGrid:
        """Images to quantized latents."""
        features = self.encoder(x)
        top = self.top(tokens_of(self.to_top(features)), progress)
        vectors = grids_of(top.vectors, self.top_grid)
        given_top = torch.cat([self.from_top(vectors), features], dim=1)
        bottom = self.bottom(tokens_of(self.to_bottom(given_top)), progress)
        latents = torch.cat([self._repeat(vectors), grids_of(bottom.vectors, self.grid)], dim=1)
        return QuantizedGrid(latents, ((top, self.top.sizes), (bottom, self.bottom.sizes)))

    def codes(self, latents: Tensor) -> Tensor:
        """Latents (B, d_top + d_bottom, h, w) to codes (B, L), all coarse ones first."""
        top, bottom = latents.float().split([self.top.dim, self.bottom.dim], dim=1)
        parts = [self.top.codes(tokens_of(self._pick(top))), self.bottom.codes(tokens_of(bottom))]
        return torch.cat([part.reshape(len(latents), -1) for part in parts], dim=1)

    def codec(self) -> Codec:
        """From codes back to what the decoder reads."""
        grids = ((self.top, self.top_grid), (self.bottom, self.grid))
        return Codec(tuple(stacked_codec(level.tables(), grid).levels[0] for level, grid in grids))

    def scalars(self) -> dict[str, Tensor]:
        """State of the quantizers worth logging."""
        return {f"{name}_top": value for name, value in self.top.scalars().items()} | self.bottom.scalars()
