"""Autoencoders that diffusers saved, as the pipeline sees them: images in [0, 1], one grid of latents.

What differs from model to model is read from its ``config.json``: channels, downsampling, whether the encoder gives a
posterior, and by which scale and shift the latents of the model, ``l``, become those of the pipeline, of about unit
variance:

    z = (l - shift) * scale,    log variance of z = log variance of l + 2 log scale

with ``scale = scaling_factor / latents_std`` and ``shift = shift_factor + latents_mean``, ones and zeros where a model
has none of them (Rombach et al. 2022, appendix G, and the pipelines of diffusers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geovq.configuration.model_folder import check_extra, model_folder, read_architecture, weight_files
from geovq.errors import ConfigError, first_line
from geovq.models.vae import Posterior

_LEAST = 1e-6


@dataclass(frozen=True)
class Kind:
    """What is known of a class of diffusers.

    Attributes:
        levels: setting whose length is one more than the halvings of an image.
        latents: settings that hold the channels of the latents, the first that is set.
        has_posterior: whether its encoder gives means and log variances.
    """

    levels: str = "block_out_channels"
    latents: tuple[str, ...] = ("latent_channels",)
    has_posterior: bool = False


KINDS = {
    "AutoencoderKL": Kind(has_posterior=True),
    "AutoencoderTiny": Kind("encoder_block_out_channels"),
    "AutoencoderDC": Kind("encoder_block_out_channels"),
    "VQModel": Kind(latents=("vq_embed_dim", "latent_channels")),
}


class PretrainedEncoder(nn.Module):
    """Images (B, C, H, W) in [0, 1] to what the model encodes them to, (B, d, h, w) or twice as many channels."""

    def __init__(self, model: Any, channels: int) -> None:
        super().__init__()
        self.network, self.last = model.encoder, getattr(model, "quant_conv", None)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Grey images are repeated for a model of colours."""
        found: Tensor = self.network(2 * x.expand(-1, self.channels, -1, -1) - 1)
        return found if self.last is None else self.last(found)


class PretrainedDecoder(nn.Module):
    """Latents of the pipeline (B, d, h, w) to images (B, C, H, W) in [0, 1]; never in training mode.

    Values beyond white and black are cut, as they are where images are stored: pixels there have no derivative.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Any, grey: bool, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.first, self.network, self.grey = getattr(model, "post_quant_conv", None), model.decoder, grey
        self.sees_latents = getattr(model.config, "norm_type", None) == "spatial"  # a VQModel: its norms read them too
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Images; grey ones are the mean over the colours."""
        return self._unbounded(z).clamp(0, 1)

    def logits(self, z: Tensor) -> Tensor:
        """Images before a sigmoid, which then come back to within 10⁻⁶.

        Gradients pass as if nothing was cut, so that training mends pixels beyond white and black too.
        """
        values = self._unbounded(z).float()
        return torch.logit(values + (values.clamp(_LEAST, 1 - _LEAST) - values).detach())

    def _unbounded(self, z: Tensor) -> Tensor:
        latents = z / self.scale + self.shift
        first = latents if self.first is None else self.first(latents)
        values: Tensor = self.network(first, latents) if self.sees_latents else self.network(first)
        return 0.5 + 0.5 * (values.mean(1, keepdim=True) if self.grey else values)

    def train(self, mode: bool = True) -> PretrainedDecoder:
        """It stays in evaluation mode."""
        return super().train(False)


class PretrainedAutoencoder(nn.Module):
    """An autoencoder of diffusers: AutoencoderKL, AutoencoderTiny, AutoencoderDC or VQModel.

    Of a VQModel the latents before its own quantization are encoded and decoded; its codebook is left out.

    Args:
        image_shape: (C, H, W).
        architecture: What the model's config.json says; null: read from vae.path.
    """

    def __init__(self, image_shape: tuple[int, int, int], architecture: dict[str, Any] | None = None) -> None:
        super().__init__()
        assert architecture is not None  # ``filled`` sees to it
        self.has_posterior = KINDS[architecture["_class_name"]].has_posterior
        self._assemble(_built(architecture), image_shape[0] < architecture["in_channels"])

    def _assemble(self, model: Any, grey: bool) -> None:
        for module in model.modules():
            if hasattr(module, "set_processor") and hasattr(module, "to_q"):
                _without_fused_kernels(module)
        scale, shift = _scaling(model.config)
        self.encoder = PretrainedEncoder(model, model.config.in_channels)
        self.decoder = PretrainedDecoder(model, grey, scale, shift)

    def encode(self, x: Tensor) -> Posterior | Tensor:
        """Images (B, C, H, W) in [0, 1] to latents (B, d, h, w), or to their posteriors."""
        found, scale, shift = self.encoder(x), self.decoder.scale, self.decoder.shift
        if not self.has_posterior:
            latents: Tensor = (found - shift) * scale
            return latents
        mean, log_variance = found.chunk(2, dim=1)
        return Posterior((mean - shift) * scale, log_variance.clamp(-30.0, 20.0) + 2 * scale.abs().log())

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, d, h, w) to images (B, C, H, W) in [0, 1]."""
        images: Tensor = self.decoder(z)
        return images

    def train(self, mode: bool = True) -> PretrainedAutoencoder:
        """It stays in evaluation mode."""
        return super().train(False)

    @staticmethod
    def filled(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The settings with what the folder of the model says; a recorded run has it already.

        Raises:
            ValueError: there is no model, or its weights cannot be read.
        """
        path = values.get("path")
        if values.get("architecture") is not None or not isinstance(path, str):
            return values
        folder = model_folder(path, values.get("download") is True)
        architecture = read_architecture(folder)
        _known(architecture, path)
        weight_files(folder)
        return {**values, "architecture": architecture, "path": str(folder) if Path(path).is_dir() else path}

    @staticmethod
    def check_settings(settings: Any) -> None:
        """The model is there, of a class that is known here, and so is the library that has it."""
        if settings.path is None:
            raise ValueError(
                f"vae.path=null: vae={settings.name} needs a folder that save_pretrained of diffusers wrote, or "
                "vae._target_ of a class of your own and vae.checkpoint"
            )
        if settings.checkpoint is not None:
            raise ValueError(f"vae.checkpoint={settings.checkpoint}: the weights are those of vae.path; leave it out")
        _known(settings.architecture, settings.path)
        check_extra(f"vae={settings.name}")

    @staticmethod
    def gives_posterior(settings: Any) -> bool:
        """Whether the encoder gives means and log variances."""
        return settings.architecture is not None and KINDS[settings.architecture["_class_name"]].has_posterior

    @staticmethod
    def latents_of(settings: Any, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Shape (d, h, w) of the latents of images (C, H, W), as config.json has it.

        Raises:
            ValueError: the model cannot take such images.
        """
        architecture, (channels, height, width) = settings.architecture, image_shape
        kind, takes = KINDS[architecture["_class_name"]], architecture["in_channels"]
        if channels not in (1, takes):
            raise ValueError(
                f"vae.path={settings.path}: takes images of {takes} channels, and these have {channels}; take "
                f"data.channels={1 if takes == 1 else 3}"
            )
        step = 2 ** (len(architecture[kind.levels]) - 1)
        if height % step or width % step or height != width:
            sides = sorted({max(step, min(height, width) // step * step), -(-max(height, width) // step) * step})
            raise ValueError(
                f"images of {height}x{width}: vae.path={settings.path} takes squares whose sides {step} divides; take "
                f"data.image_size={' or '.join(map(str, sides))}"
            )
        dim = next(architecture[key] for key in kind.latents if architecture.get(key) is not None)
        return dim, height // step, width // step

    @staticmethod
    def files_of(settings: Any) -> list[Path]:
        """The files of the weights; ValueError where there are none."""
        return weight_files(model_folder(settings.path, settings.download))[1]

    @classmethod
    def weights_of(cls, settings: Any) -> dict[str, Tensor]:
        """The weights in fp32, by the names that they have here; ConfigError unless they fit the architecture."""
        folder = model_folder(settings.path, settings.download)
        variant, _ = weight_files(folder)
        owner = _owner(settings.architecture)
        how = {"variant": variant, "torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        try:
            model, told = owner.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True, **how
            )
        except Exception as error:  # of a file that is damaged, or of weights of other sizes
            raise ConfigError(
                f"vae.path={settings.path}: the weights cannot be read ({first_line(error)}); save the model again"
            ) from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(map(str, told.get(what) or ())):
                raise ConfigError(
                    f"vae.path={settings.path}: the weights are not those of config.json ({len(names)} "
                    f"{what.replace('_', ' ')}, first {names[0]}); save the model again"
                )
        found = cls.__new__(cls)
        nn.Module.__init__(found)
        found._assemble(model, grey=False)
        return found.state_dict()


def _known(architecture: Mapping[str, Any], path: str) -> None:
    """Raise ValueError unless the class of a model is one of ours and its config.json has what is read of it."""
    name = architecture["_class_name"]
    if name not in KINDS:
        raise ValueError(
            f"vae.path={path}: a model of class {name}, which is not known here; take {', '.join(KINDS)}, or "
            "vae._target_ of a class of your own"
        )
    kind = KINDS[name]
    lacking = [key for key in ("in_channels", kind.levels, kind.latents[-1]) if architecture.get(key) is None]
    if lacking:
        raise ValueError(f"vae.path={path}: config.json says nothing of {', '.join(lacking)}; save the model again")
    if architecture.get("out_channels", architecture["in_channels"]) != architecture["in_channels"]:
        raise ValueError(
            f"vae.path={path}: encodes images of {architecture['in_channels']} channels and decodes "
            f"{architecture['out_channels']}; take a model whose images have as many"
        )


def _owner(architecture: Mapping[str, Any]) -> Any:
    diffusers = import_module("diffusers")  # optional; not followed by the type checker, which would take minutes
    diffusers.utils.logging.set_verbosity_error()
    return getattr(diffusers, architecture["_class_name"])


def _built(architecture: Mapping[str, Any]) -> Any:
    """The model with untrained weights."""
    try:
        return _owner(architecture).from_config(dict(architecture))
    except Exception as error:  # of a constructor that has no use for some value
        raise ConfigError(
            f"vae.architecture: diffusers cannot make an {architecture['_class_name']} of it ({first_line(error)}); "
            "save the model again"
        ) from error


def _scaling(config: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift (d or 1, 1, 1) of a model's latents."""

    def read(name: str, otherwise: float) -> Tensor:
        value = getattr(config, name, None)
        return torch.tensor(otherwise if value is None else value).reshape(-1, 1, 1)

    scale = read("scaling_factor", 1.0) / read("latents_std", 1.0)
    return scale, read("shift_factor", 0.0) + read("latents_mean", 0.0)


def _without_fused_kernels(attention: Any) -> None:
    """Attention by plain products: fused kernels have no forward-mode derivatives."""
    attention.set_processor(import_module("diffusers.models.attention_processor").AttnProcessor())
