"""What a decoder and its latents must satisfy before derivatives of single images mean anything.

A pull-back metric belongs to one image. A decoder that is random (active dropout) or ties images together
(statistics over the batch) has no Jacobian of that kind, so it is refused before any long computation: by its
layers' modes, and by what it does to two images alone, together and twice.
"""

from __future__ import annotations

import torch
from torch import nn

from geovq.errors import InputError

# Of the largest pixel: above rounding in any precision used here, far below what dropout or batch statistics do.
_SAME_IMAGE = 1e-3


def device_of(decoder: nn.Module) -> torch.device:
    """Where the decoder's parameters are; the CPU if it has none."""
    parameter = next(decoder.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def check_latents(latents: torch.Tensor, name: str = "latents") -> None:
    """Refuse anything but finite floating-point grids ``(B, d, h, w)``.

    Raises:
        InputError: a wrong shape or dtype, an empty dimension, NaN or infinity.
    """
    if latents.ndim != 4 or latents.numel() == 0:
        raise InputError(f"{name} have shape {tuple(latents.shape)}; give (B, d, h, w) with no empty dimension")
    if not latents.is_floating_point():
        raise InputError(f"{name} have dtype {latents.dtype}; give floating-point numbers")
    finite = torch.isfinite(latents).flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise InputError(f"{name} hold NaN or infinity (first in image {bad}); mend the encoder first")


def check_decoder(decoder: nn.Module, latents: torch.Tensor, device: torch.device | None = None) -> torch.Size:
    """Refuse a decoder without a Jacobian per image; return the shape of one of its images.

    Decodes two images (two copies of one where there is no second).

    Raises:
        InputError: a layer in train mode or with batch statistics; images that change from call to call or with
            the company they are decoded in; another number of images than latents; images that are not finite.
    """
    _check_modes(decoder)
    # Repeated to four, so that even two equal latents have company whose statistics differ from one's own.
    pair = latents[[0, -1, -1, -1]].detach().to(device or device_of(decoder))
    with torch.no_grad():
        try:
            together, again, alone = decoder(pair), decoder(pair), decoder(pair[:1])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the decoder cannot decode latents of shape {tuple(latents.shape[1:])}: {reason}"
            ) from error
    if not isinstance(together, torch.Tensor) or together.ndim < 2 or len(together) != len(pair):
        shape = tuple(together.shape) if isinstance(together, torch.Tensor) else type(together).__name__
        raise InputError(f"the decoder makes {shape} of {len(pair)} latents; it must return one image per latent")
    if not bool(torch.isfinite(together).all()):
        raise InputError("the decoder's images are not finite; check its weights and the latents' scale")
    tolerance = _SAME_IMAGE * float(together.abs().max())
    if float((together - again).abs().max()) > tolerance:
        raise InputError("the decoder gives another image at every call; switch off its dropout or noise")
    if float((together[:1] - alone).abs().max()) > tolerance:
        raise InputError(
            "the decoder's image depends on the other images of the batch; replace statistics of the batch by "
            "GroupNorm or running statistics"
        )
    return together.shape[1:]


def _check_modes(decoder: nn.Module) -> None:
    for name, module in decoder.named_modules():
        where = f"its layer {name} ({type(module).__name__})" if name else "the decoder"
        if module.training:
            raise InputError(f"{where} is in train mode; call decoder.eval() before computing metrics")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InputError(
                f"{where} uses the statistics of the batch even in eval mode (track_running_stats=False), "
                "which ties images together; use GroupNorm or running statistics"
            )
