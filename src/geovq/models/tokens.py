"""Between latent grids and rows of tokens: image-major, then row by row."""

from __future__ import annotations

from torch import Tensor


def tokens_of(latents: Tensor) -> Tensor:
    """Grids (N, d, h, w) to tokens (N*h*w, d): token ``n*h*w + row*w + col``."""
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).contiguous()


def grids_of(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo ``tokens_of``."""
    return tokens.reshape(-1, *grid, tokens.shape[1]).permute(0, 3, 1, 2).contiguous()
