"""An autoencoder: two small perceptrons, with a Gaussian posterior."""

from __future__ import annotations

import math

from torch import Tensor, nn

from geovq.configuration.fields import Count


class Perceptrons(nn.Module):
    """Fully connected encoder and decoder.

    Args:
        image_shape: (C, H, W).
        grid: tokens per side.
        dim: dimensions of a token.
        hidden: units of the one hidden layer of either.
    """

    has_posterior = True  # encode gives mean and log variance; without it, latents alone

    def __init__(self, image_shape: tuple[int, int, int], grid: int, dim: int, hidden: Count) -> None:
        super().__init__()
        latent = (dim, grid, grid)
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * math.prod(latent)),
            nn.Unflatten(1, (2 * dim, grid, grid)),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(latent), hidden),
            nn.SiLU(),
            nn.Linear(hidden, math.prod(image_shape)),
            nn.Unflatten(1, image_shape),
            nn.Sigmoid(),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] to mean and log variance (B, dim, grid, grid)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, dim, grid, grid) to images (B, C, H, W) in [0, 1]."""
        return self.decoder(z)
