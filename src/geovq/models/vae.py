"""Variational autoencoders with a grid of latent tokens, or a single one.

The posterior of token t is N(mu_t, diag sigma_t^2), the prior N(0, I), and the loss of an image is

    L = reconstruction(x, D(z)) + beta * KL,       KL in nats, summed over tokens and dimensions

(Kingma & Welling 2014, eq. 10; beta as in Higgins et al. 2017, eq. 4, here in reconstruction units per
nat). Reconstruction terms are sums over the pixels of an image, so with ``mse`` the loss is in squared
pixel error and beta says how many units of it a nat is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from geovq import ranks
from geovq.configuration.fields import Count
from geovq.models.layers import Size, allowed_grids, level_sizes, level_widths, normalisation
from geovq.models.networks import Convolutions, Networks

NATS_PER_BIT = math.log(2.0)


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian posteriors of a batch: mean and log variance, both (B, d, h, w)."""

    mean: Tensor
    log_variance: Tensor

    def sample(self) -> Tensor:
        """One draw per token by the reparametrisation z = mu + sigma * epsilon."""
        return self.mean + torch.randn_like(self.mean) * torch.exp(0.5 * self.log_variance)

    def divergence(self) -> Tensor:
        """KL(posterior || N(0, I)) in nats per token: (B, h, w)."""
        terms = self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        return 0.5 * terms.sum(dim=1)


class GridVAE(nn.Module):
    """Encoder, posterior and decoder for images (B, C, H, W) and a grid of tokens (dim, grid, grid).

    Args:
        networks: make encoder and decoder.
        dim: dimensions of a token.
    """

    has_posterior: ClassVar[bool] = True

    def __init__(self, networks: Networks, dim: int) -> None:
        super().__init__()
        self.latent_shape = (dim, networks.grid, networks.grid)
        self.encoder = networks.encoder(2 * dim)
        self.decoder: Any = networks.decoder(dim)

    def encode(self, x: Tensor) -> Posterior:
        """Images (B, C, H, W) in [0, 1] to their posteriors."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-20.0, 10.0))

    def decode(self, z: Tensor) -> Tensor:
        """Latent grids (B, d, h, w) to images (B, C, H, W) in [0, 1]."""
        images: Tensor = self.decoder(z)
        return images


class VAE(GridVAE):
    """A VAE of convolutions.

    Args:
        image_shape: (C, H, W).
        grid: tokens per side.
        dim: dimensions of a token.
        width: channels at the finest level, doubled at each halving up to ``max_width``.
        max_width: channels at most.
        blocks: residual blocks per level.
        norm: group normalisation, or none.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        grid: int,
        dim: int,
        width: Count,
        max_width: Count,
        blocks: Annotated[int, Field(ge=0)],
        norm: Literal["group", "none"],
    ) -> None:
        super().__init__(Convolutions(image_shape, grid, width, max_width, blocks, norm), dim)

    @classmethod
    def networks(cls, settings: Any, image_shape: tuple[int, int, int]) -> Networks:
        """What makes its encoder and decoder: joint quantizers train the same."""
        sizes = (settings.width, settings.max_width, settings.blocks, settings.norm)
        return Convolutions(image_shape, settings.grid, *sizes)

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """The width grows from level to level."""
        if settings.width > settings.max_width:
            raise ValueError(
                f"vae.width={settings.width} must be at most vae.max_width={settings.max_width}, or raise that"
            )

    @staticmethod
    def faults_with(settings: Any, image: tuple[int, int], grids: int) -> list[str]:
        """Why these settings cannot take images (H, W), with one grid of tokens or two; asked before any compute."""
        allowed = allowed_grids(image)
        if settings.grid not in allowed:
            listed = ", ".join(map(str, allowed))
            return [f"vae.grid={settings.grid}: images of {image[0]}x{image[1]} allow {listed}"]
        if settings.norm != "group":
            return []
        sizes = level_sizes(image, (settings.grid, settings.grid))
        sizes = sizes[1:] or sizes  # as the encoder has them
        widths = level_widths(sizes, settings.width, settings.max_width)
        levels = list(zip(sizes, widths, strict=True))
        if grids > 1:
            levels.append((((settings.grid + 1) // 2, (settings.grid + 1) // 2), widths[-1]))
        if not single_values_fault(levels):
            return []
        return [
            f"vae.width={settings.width}, vae.max_width={settings.max_width}: there are at most 8 channels on a map of "
            "one position, where vae.norm=group would normalise each value by itself, to zero; take widths that give "
            "more channels there, or vae.norm=none"
        ]


class FlatVAE(VAE):
    """A VAE whose grid is one token per image."""

    @classmethod
    def check_settings(cls, settings: Any) -> None:
        """One token, and what holds for every VAE."""
        super().check_settings(settings)
        if settings.grid != 1:
            raise ValueError(
                f"vae={settings.name} has one token per image: vae.grid={settings.grid} must be 1, or take vae=spatial"
            )


def single_values_fault(levels: Sequence[tuple[Size, int]]) -> bool:
    """Whether group normalisation of maps of these sizes and channels would have a group of one value, always zero."""
    return any(math.prod(size) * width == normalisation("group", width).num_groups for size, width in levels)


def reconstruction_loss(logits: Tensor, x: Tensor, kind: str) -> Tensor:
    """Reconstruction term of each image (B,), summed over its pixels: mse | l1 | bce (nats)."""
    logits = logits.float()
    if kind == "bce":
        loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    elif kind == "l1":
        loss = (torch.sigmoid(logits) - x).abs()
    else:
        loss = (torch.sigmoid(logits) - x).square()
    return loss.flatten(1).sum(1)


def divergence_cost(divergence: Tensor, free_bits: float, each_token: bool = False) -> Tensor:
    """KL that is charged per image (B,), in nats, of that of each token, ``divergence`` (B, h, w) in nats.

    ``free_bits`` bits per token are free, on the batch mean of each position rather than on each image
    (Kingma et al. 2016, appendix C.8), so that the gradient does not vanish for single easy tokens; or, with
    ``each_token``, on each token of each image, so that the divergence spreads evenly over tokens.
    """
    per_image = divergence.flatten(1).sum(1)
    if free_bits <= 0:
        return per_image
    floor = free_bits * NATS_PER_BIT
    if each_token:
        return divergence.clamp(min=floor).flatten(1).sum(1)
    of_batch = ranks.mean(divergence.mean(0))
    charged = of_batch.clamp(min=floor).sum() - of_batch.sum()
    return per_image + charged


class RateController(nn.Module):
    """Holds the KL divergence of a VAE at a target by moving log beta: an integral controller.

    Each step ``log beta += gain * (log KL - log target)`` on an exponential mean of the measured KL, in
    the spirit of Shao et al. 2020 (ControlVAE), with the ratio in place of the difference so that the
    gain has no unit. The state lives in buffers and so in every checkpoint.
    """

    log_beta: Tensor
    mean_bits: Tensor

    def __init__(self, beta: float, target_bits: float | None, gain: float = 0.02) -> None:
        super().__init__()
        self.target_bits = target_bits
        self.gain = gain
        self.register_buffer("log_beta", torch.tensor(math.log(beta)))
        self.register_buffer("mean_bits", torch.tensor(float("nan")))

    @property
    def beta(self) -> Tensor:
        """Current weight of the KL divergence, in reconstruction units per nat."""
        return self.log_beta.exp()

    @torch.no_grad()
    def update(self, bits_per_token: Tensor) -> None:
        """Take one measurement (bits per token, batch mean) and move beta towards the target."""
        if self.target_bits is None:
            return
        previous = torch.where(self.mean_bits.isnan(), bits_per_token, self.mean_bits)
        self.mean_bits.copy_(0.9 * previous + 0.1 * bits_per_token)
        error = (self.mean_bits / self.target_bits).clamp(0.2, 5.0).log()
        self.log_beta.add_(self.gain * error).clamp_(-14.0, 7.0)
