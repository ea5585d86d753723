"""The settings of an autoencoder that comes with its weights, as the images settle them: grid, dimensions, hash."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geovq.configuration.model_folder import weights_digest
from geovq.configuration.section import blamed, name_of
from geovq.errors import ConfigError

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.configuration.options import Vae
    from geovq.data import DataInfo


def settled(config: Config, info: DataInfo) -> Config:
    """The configuration with numbers for ``auto`` and the hash of the weights; the same where it has them.

    Raises:
        ConfigError: the model cannot take such images, its latents are no square grid, or others than were given.
    """
    from geovq.configuration.config import validate

    vae = config.vae
    if not vae.takes_weights or (vae.grid and vae.dim and vae.weights_sha256):
        return config
    try:
        shape = _latent_shape(vae, info.image_shape)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ConfigError(
            f"vae={vae.name}: the latents of an image have shape {shape}; a square grid (d, h, h) is needed"
        )
    values: dict[str, Any] = config.model_dump()
    for key, found in (("dim", shape[0]), ("grid", shape[1])):
        if values["vae"][key] not in (0, found):
            raise ConfigError(
                f"vae.{key}={values['vae'][key]}: the model has {found} for these images; leave it at auto"
            )
        values["vae"][key] = found
    values["vae"]["weights_sha256"] = vae.weights_sha256 or weights_digest(weights_of(vae))
    return validate(values)


def weights_of(vae: Vae) -> list[Path]:
    """The files of the weights that are given.

    Raises:
        ConfigError: they are not there.
    """
    if vae.checkpoint is not None:
        return [Path(vae.checkpoint)]
    try:
        files: list[Path] = type(vae).owner.files_of(vae)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return files


def _latent_shape(vae: Vae, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """(d, h, w) of the latents of an image; a class that does not say is shown a grey one."""
    owner = type(vae).owner
    if hasattr(owner, "latents_of"):
        shape: tuple[int, ...] = owner.latents_of(vae, image_shape)
        return shape
    if vae.grid and vae.dim:
        return vae.dim, vae.grid, vae.grid
    asked = [key for key in ("grid", "dim") if key in inspect.signature(owner).parameters and not getattr(vae, key)]
    if asked:
        told = ", ".join(f"vae.{key}=auto" for key in asked)
        raise ValueError(f"{told}: the constructor of {name_of(owner)} asks for numbers; give them")
    import torch

    from geovq.models.autoencoder import encoded

    network = vae.make(image_shape=image_shape).eval()
    with blamed(network, "encode"), torch.no_grad():
        mean, _ = encoded(network, torch.full((1, *image_shape), 0.5))
        return tuple(mean.shape[1:])
