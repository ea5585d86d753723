"""Weights of an autoencoder that someone else trained, and whether it does what the stages after it ask of it."""

from __future__ import annotations

import torch
from torch import nn

from geovq.configuration.model_folder import weights_digest
from geovq.configuration.options import Vae
from geovq.configuration.section import blamed, name_of
from geovq.configuration.settled import weights_of
from geovq.errors import ConfigError, InputError
from geovq.geometry.checks import check_decoder
from geovq.models.autoencoder import check_autoencoder, decoder_of, encoded


def take_weights(autoencoder: nn.Module, settings: Vae, image_shape: tuple[int, int, int]) -> None:
    """Load the given weights, in fp32, and ask the autoencoder for grey images.

    Raises:
        ConfigError: the weights are gone, not those that the key stands for, or not of this class.
        InputError: shapes or values are not those that the configuration describes, or the decoder has no derivatives
            of one image: it is in training mode, random, or ties images together.
    """
    where = f"vae.path={settings.path}" if settings.checkpoint is None else f"vae.checkpoint={settings.checkpoint}"
    try:
        found = weights_digest(weights_of(settings))
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}; the artifact with these weights is gone too") from None
    if found != settings.weights_sha256:
        raise ConfigError(
            f"{where}: the weights have the hash {found[:12]}, and {str(settings.weights_sha256)[:12]} is asked for; "
            "give those weights, or vae.weights_sha256=null"
        )
    if settings.checkpoint is None:
        weights = type(settings).owner.weights_of(settings)
    else:
        from safetensors.torch import load_file

        weights = load_file(settings.checkpoint)
    try:
        autoencoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip() or str(error)
        shown = reason if len(reason) <= 200 else f"{reason[:200]}…"
        raise ConfigError(f"{where}: not weights of {name_of(autoencoder)}: {shown}") from None
    if bad := [name for name, value in autoencoder.state_dict().items() if not value.isfinite().all()]:
        raise ConfigError(f"{where}: {bad[0]} holds NaN or infinity; give weights that are whole")
    autoencoder.eval().requires_grad_(False)
    with blamed(autoencoder, "encode and decode"):
        check_autoencoder(autoencoder, image_shape, (settings.dim, settings.grid, settings.grid))
        with torch.no_grad():
            grey = torch.full((1, *image_shape), 0.5, device=next(autoencoder.parameters()).device)
            mean, _ = encoded(autoencoder, grey)
        try:
            check_decoder(decoder_of(autoencoder), torch.cat([mean, mean + 1]))
        except InputError as error:
            raise InputError(f"{name_of(autoencoder)}: {error}") from None
