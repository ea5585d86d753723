"""vae | joint -> latents: what the encoder makes of every image, in data set order, in evaluation mode.

Of a VAE posterior mean and log variance; of a joint autoencoder the latents before quantization, as ``mean``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from geovq.configuration.section import blamed
from geovq.geometry.checks import of_images
from geovq.geometry.computing import images_per_pass
from geovq.models.autoencoder import encoded
from geovq.models.condition import slices
from geovq.models.vae import NATS_PER_BIT, Posterior
from geovq.pipeline.contracts import check_latents
from geovq.pipeline.large_tensors import Room, filled
from geovq.pipeline.stage import ArtifactWriter, Context, Inputs, Stage
from geovq.pipeline.stages.joint import load_joint
from geovq.pipeline.stages.vae import load_vae
from geovq.progress import progress

SPLITS = ("train", "validation", "test")
ACTIVE_BITS = 0.01
"""A dimension with no more bits per token is dead."""


def encode(autoencoder: nn.Module, images: Tensor, device: torch.device, batch_size: int = 500) -> dict[str, Tensor]:
    """``mean`` and, where there is a posterior, ``log_variance`` (N, d, h, w) in fp32 of byte images (N, C, H, W)."""
    batches = list(_encoded(autoencoder, images, device, batch_size))
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@torch.no_grad()
def _encoded(
    autoencoder: nn.Module, images: Tensor, device: torch.device, batch_size: int = 500
) -> Iterator[dict[str, Tensor]]:
    """The parts of ``encode``, batch after batch."""
    with progress("encoding images", len(images)) as advance, blamed(autoencoder, "encode"):
        first = images[:1].to(device).float() / 255
        most = images_per_pass(autoencoder.encode, first, batch_size, backward=False)  # type: ignore[arg-type]
        for batch in images.split(most):
            found = encoded(autoencoder, batch.to(device).float() / 255)
            yield {
                name: part.float().cpu()
                for name, part in zip(("mean", "log_variance"), found, strict=True)
                if part is not None
            }
            advance(len(batch))


@torch.no_grad()
def decode(
    decoder: nn.Module, latents: Tensor, device: torch.device, batch_size: int = 500, room: Room = torch.empty
) -> Tensor:
    """Images (N, C, H, W) in [0, 1] of latent grids (N, d, h, w); ``room`` makes the tensor that takes them."""
    most = images_per_pass(decoder, latents[:1].to(device), batch_size, backward=False)
    parts = (of_images(decoder, part)(latents[part].to(device)).float().cpu() for part in slices(len(latents), most))
    return filled(parts, len(latents), room)


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Encode the three splits; summarise the rate per dimension of a VAE on the validation split."""
    joint = context.config.is_joint
    autoencoder = load_joint(context, inputs) if joint else load_vae(context, inputs).vae
    for split in SPLITS:
        images = getattr(context.data, split).images
        batches = _encoded(autoencoder, images, context.device)
        first = next(batches)
        shapes = {name: (len(images), *part.shape[1:]) for name, part in first.items()}
        with out.written(split, shapes, torch.float32) as latents:
            start = 0
            for batch in chain([first], batches):
                for name, part in batch.items():
                    latents[name][start : start + len(part)] = part
                start += len(batch["mean"])
            for latent in latents.values():
                check_latents(autoencoder, latent, split)
            if split == "validation" and "log_variance" in latents:
                out.json("rate", rate_summary(latents["mean"], latents["log_variance"]))


def rate_summary(mean: Tensor, log_variance: Tensor) -> dict[str, object]:
    """KL in bits per token and per dimension, and how many dimensions are active."""
    posterior = Posterior(mean, log_variance)
    terms = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance) / NATS_PER_BIT
    per_dimension = terms.mean(dim=(0, 2, 3))
    return {
        "kl_bits_per_token": float(posterior.divergence().mean()) / NATS_PER_BIT,
        "kl_bits_per_dimension": per_dimension.tolist(),
        "active_dimensions": int((per_dimension > ACTIVE_BITS).sum()),
    }


STAGE = Stage(
    "latents",
    lambda config: "encoding all images",
    build,
    lambda config: ("joint" if config.is_joint else "vae",),
    classes=lambda config: () if config.is_joint else ("vae",),
)
