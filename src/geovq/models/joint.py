"""Autoencoders trained together with their quantizer: VQ-VAE and its kin.

The loss of an image is, in the unit of the reconstruction term summed over the pixels,

    L = reconstruction(x, D(q)) + P * weight * penalty,        P = number of pixel values of an image (C H W)

Published losses divide the squared error by the variance of the data and average all terms over their elements:
mean squared error / s^2 + penalty. Times P s^2 that is the loss above with ``weight`` = s^2, so the balance between
reconstruction and commitment is the published one, whatever the image size and the number of tokens. ``penalty`` is
the mean over tokens and dimensions of the codebook and commitment terms (``joint_codebook``), and for two grids the
sum of both means. For ``gumbel`` the penalty is a KL divergence in nats per token and enters as
``kl_weight * n_tokens * penalty``: loss units per nat, as the beta of the VAE. Finite scalars have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from geovq import ranks
from geovq.models.codec import Codec
from geovq.models.condition import given
from geovq.models.joint_grids import OneGrid, TwoGrids
from geovq.models.joint_quantizer import TokenQuantizer, code_counts, perplexity, usage
from geovq.models.networks import Networks
from geovq.models.vae import reconstruction_loss


class JointAutoencoder(nn.Module):
    """Encoder, quantizer and decoder with their training objective.

    Args:
        quantizers: one, or two for a coarse and a fine grid, coarse first.
        networks: make encoder and decoder, for the (fine) token grid; those of the VAE.
        loss: mse | l1 | bce, summed over pixels.

    Attributes:
        decoder: latent grids (B, *latent_shape) to images in [0, 1].
        latent_shape: (d, h, w) of what the decoder reads; two grids have the channels of both.
    """

    def __init__(self, quantizers: Sequence[TokenQuantizer], networks: Networks, loss: str) -> None:
        super().__init__()
        self.loss = loss
        grid = (networks.grid, networks.grid)
        self.grids: OneGrid | TwoGrids
        if len(quantizers) == 1:
            self.grids = OneGrid(networks.encoder(quantizers[0].dim), quantizers[0], grid)
        else:
            features = networks.features
            layers = (grid, features, networks.blocks, networks.norm)
            self.grids = TwoGrids(networks.encoder(features), quantizers[0], quantizers[1], *layers)
        self.latent_shape = self.grids.latent_shape
        self.decoder: Any = networks.decoder(self.latent_shape[0])
        per_unit = prod(grid) if quantizers[0].penalty_in_nats else prod(networks.image_shape)
        self.penalty_scale = quantizers[0].penalty_weight * per_unit

    def forward(self, x: Tensor, progress: float, labels: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of images (B, C, H, W) in [0, 1], and scalars worth logging.

        In training mode this also moves what is not moved by gradients: exponential means, temperature.

        Args:
            x: images.
            progress: share of the training that is done, in [0, 1].
            labels: (B,) classes, for a decoder that is told them.

        Returns:
            The loss, and ``loss``, ``reconstruction`` and ``penalty`` (scaled; both summands of the loss),
            ``perplexity`` and ``usage`` of the batch's codes (over K; with ``_top`` for the coarse of two grids).
        """
        quantized = self.grids(x, progress)
        logits = given(self.decoder, labels).logits(quantized.latents)
        reconstruction = reconstruction_loss(logits, x, self.loss).mean()
        penalty = self.penalty_scale * quantized.penalty
        loss = reconstruction + penalty
        scalars = {"loss": loss, "reconstruction": reconstruction, "penalty": penalty}
        for level, (tokens, sizes) in enumerate(quantized.levels):
            counts = [ranks.total_(each) for each in code_counts(tokens.codes, sizes)]
            suffix = "" if level == len(quantized.levels) - 1 else "_top"
            scalars |= {f"perplexity{suffix}": perplexity(counts), f"usage{suffix}": usage(counts)}
        return loss, {name: value.detach() for name, value in (scalars | self.grids.scalars()).items()}

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to latents (B, *latent_shape) before quantization, without randomness.

        With two grids the coarse latents are repeated over the fine grid, and the fine ones are those given the
        coarse codes.
        """
        return self.grids.encode(x)

    def codes(self, latents: Tensor) -> Tensor:
        """Latents of ``encode`` to codes (B, *codec().shape), int64."""
        return self.grids.codes(latents)

    def codec(self) -> Codec:
        """From codes to what the decoder reads in evaluation mode; a copy of the tables as they are now."""
        return self.grids.codec()


def level_counts(codes: Tensor, codec: Codec) -> list[list[Tensor]]:
    """``code_counts`` of each level: codes (N, *codec.shape)."""
    return [
        code_counts(part.reshape(-1, len(level.sizes)), level.sizes)
        for part, level in zip(codec.by_level(codes), codec.levels, strict=True)
    ]


def reconstruct(model: JointAutoencoder, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Decoder logits (B, C, H, W) and codes of images by the way that later use takes: encode, codes, embed."""
    codes = model.codes(model.encode(x))
    return given(model.decoder, labels).logits(model.codec().embed(codes)), codes


@torch.no_grad()
def held_out_sums(
    model: JointAutoencoder, x: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, list[list[Tensor]]]:
    """Over a batch: the sum of the reconstruction terms, and the counts of the codes of each level."""
    logits, codes = reconstruct(model, x, labels)
    return reconstruction_loss(logits, x, model.loss).sum(), level_counts(codes, model.codec())
