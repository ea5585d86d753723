"""Any autoencoder as the pipeline sees it: an encoder to Gaussians or points, and a decoder with logits.

An autoencoder is a module with

    encode(x):  images (B, C, H, W) in [0, 1] -> latent grids (B, d, h, w), or mean and log variance of them
    decode(z):  latent grids (B, d, h, w) -> images (B, C, H, W) in [0, 1]

and ``has_posterior = True`` where ``encode`` gives mean and log variance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geovq.configuration.section import name_of
from geovq.errors import InputError
from geovq.models.pretrained import PretrainedAutoencoder
from geovq.models.vae import GridVAE, Posterior

_LEAST = 1e-6


class Decoding(nn.Module):
    """``decode`` of someone else's autoencoder, as the module that metric tensors and searches differentiate."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.training = autoencoder.training

    def forward(self, z: Tensor) -> Tensor:
        """Latent grids (B, d, h, w) to images (B, C, H, W) in [0, 1]."""
        images: Tensor = self.autoencoder.decode(z)  # type: ignore[operator]
        return images

    def logits(self, z: Tensor) -> Tensor:
        """Images before a sigmoid, which then come back to within 10⁻⁶: what the losses are written for."""
        return torch.logit(self(z).float(), eps=_LEAST)


def decoder_of(autoencoder: nn.Module) -> nn.Module:
    """The decoder, with ``logits``."""
    return autoencoder.decoder if isinstance(autoencoder, GridVAE | PretrainedAutoencoder) else Decoding(autoencoder)


def encoded(autoencoder: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and log variance (B, d, h, w) of images; None in place of the latter where there is no posterior."""
    found = autoencoder.encode(x)  # type: ignore[operator]
    if isinstance(found, Posterior):
        return found.mean, found.log_variance
    if isinstance(found, Tensor):
        return found, None
    mean, log_variance = found
    return mean, log_variance


@torch.no_grad()
def check_autoencoder(autoencoder: nn.Module, image_shape: tuple[int, int, int], latent_shape: tuple[int, ...]) -> None:
    """Ask someone else's autoencoder for one grey image.

    Raises:
        InputError: shapes or values are not those that the configuration describes.
    """
    named = name_of(autoencoder)
    was_training = autoencoder.training
    autoencoder.eval()
    x = torch.full((1, *image_shape), 0.5, device=next(autoencoder.parameters(), torch.empty(0)).device)
    mean, log_variance = encoded(autoencoder, x)
    promised = bool(getattr(autoencoder, "has_posterior", False))
    if promised != (log_variance is not None):
        gives = "mean and log variance" if log_variance is not None else "latents alone"
        raise InputError(f"{named}: has_posterior={promised}, but encode gives {gives}; make the two agree")
    if tuple(mean.shape[1:]) != latent_shape:
        raise InputError(
            f"{named}: encode gives latents of shape {tuple(mean.shape[1:])} per image; vae.dim and vae.grid say "
            f"{latent_shape}"
        )
    images = autoencoder.decode(mean)  # type: ignore[operator]
    if tuple(images.shape) != tuple(x.shape):
        raise InputError(f"{named}: decode gives images of shape {tuple(images.shape[1:])}; the data are {image_shape}")
    if not (images.isfinite().all() and 0 <= float(images.min()) <= float(images.max()) <= 1):
        raise InputError(f"{named}: decode gives values outside [0, 1]; end it with a sigmoid")
    autoencoder.train(was_training)
