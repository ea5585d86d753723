"""LPIPS v0.1 (Zhang et al. 2018): a network for its distance and features, and where its weights are to be had."""

from __future__ import annotations

import hashlib
import re
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geovq.errors import InputError, first_line

SMALLEST_SIDE = 64
"""Smaller images are enlarged, since AlexNet's strides leave nothing of them."""

CONNECT_SECONDS = 5.0
"""How long to wait for the server of the backbone weights before LPIPS is left out."""

_BACKBONES = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}


class Lpips(nn.Module):
    """Torchmetrics' network, with its linear weights and a backbone from a file, always in evaluation mode.

    Grey images are repeated to three channels; values go from [0, 1] to [-1, 1]; images whose shorter side is below 64
    pixels are enlarged bilinearly until it is 64.

    Args:
        path: torchvision's state dict of the backbone.
        network: ``alex``, ``squeeze`` or ``vgg``.

    Raises:
        InputError: the file does not exist or holds something else.
    """

    def __init__(self, path: Path, network: str) -> None:
        super().__init__()
        # the public metric class can only download its backbone, so its network is built one level below
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        self.network = _NoTrainLpips(net=network, pretrained=True, pnet_rand=True)  # type: ignore[arg-type]
        backbone = self.network.net
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise InputError(
                f"lpips weights {path} do not exist: give torchvision's {_BACKBONES[network]} state dict"
            ) from None
        except Exception as error:  # torch raises many kinds for damaged files
            raise InputError(
                f"lpips weights {path} cannot be read as a state dict ({first_line(error)[:80]})"
            ) from None
        # slice1.0.weight and slices.0.0.weight both mean torchvision's features.0.weight
        wanted = {key: re.sub(r"^slices?\.?\d\.", "features.", key) for key in backbone.state_dict()}
        expected = {key: tensor.shape for key, tensor in backbone.state_dict().items()}
        for key, source in wanted.items():
            found = state.get(source) if isinstance(state, dict) else None
            if not isinstance(found, Tensor) or found.shape != expected[key]:
                raise InputError(
                    f"lpips weights {path} lack a fitting {source}: give torchvision's {_BACKBONES[network]}"
                )
        backbone.load_state_dict({key: state[source] for key, source in wanted.items()})

    @classmethod
    def found(cls, weights: Path | str | None, network: str) -> Self:
        """The network with the weights of ``found_weights``; raises InputError where there are none."""
        path, note = found_weights(weights, network)
        if path is None:
            raise InputError(note)
        return cls(path, network)

    @staticmethod
    def size_within(height: int, width: int) -> tuple[int, int]:
        """Height and width at which images are looked at."""
        factor = max(1.0, SMALLEST_SIDE / min(height, width))
        return round(height * factor), round(width * factor)

    def prepared(self, images: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [0, 1] as the network wants them, (B, 3, H', W') in [-1, 1]."""
        size = self.size_within(*images.shape[2:])
        images = 2 * images.clamp(0, 1).expand(-1, 3, -1, -1) - 1
        if size != tuple(images.shape[2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return images

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) in [0, 1] to the backbone's maps."""
        return list(self.network.net(self.network.scaling_layer(self.prepared(images))))

    def distance(self, reference: list[Tensor], output: list[Tensor]) -> Tensor:
        """LPIPS (B,) of the maps of two batches: Zhang et al. 2018, eq. 1, with the network's weights."""
        total = reference[0].new_zeros(len(reference[0]))
        for linear, first, second in zip(self.network.lins, reference, output, strict=True):
            difference = F.normalize(first, dim=1, eps=1e-8) - F.normalize(second, dim=1, eps=1e-8)
            total = total + linear(difference.square()).mean((1, 2, 3))
        return total

    def between(self, reference: Tensor, output: Tensor) -> Tensor:
        """LPIPS (B,) of images (B, C, H, W) in [0, 1]."""
        distances: Tensor = self.network(self.prepared(reference), self.prepared(output))
        return distances.reshape(-1)

    def layout(self, maps: list[Tensor]) -> Tensor:
        """Mean of the backbone's last map over the image: (B, F), its channels being hundreds."""
        return maps[-1].mean((2, 3))


def found_weights(weights: Path | str | None, network: str) -> tuple[Path | None, str]:
    """The backbone's file and where it came from, or None and why there is none.

    Args:
        weights: a local file; without it torch's cache is used, else the file is downloaded into that cache.
        network: ``alex``, ``squeeze`` or ``vgg``.

    Raises:
        InputError: there is no such network.
    """
    if network not in _BACKBONES:
        raise InputError(f"lpips network {network!r} is unknown: use one of {', '.join(_BACKBONES)}")
    if weights is not None:
        return Path(weights).expanduser(), f"weights from {weights}"
    return _cached_weights(network)


def weights_identity(weights: str | None, network: str) -> str | None:
    """Which weights there are, without asking a network: a hash of the given file, else the name of the cached one."""
    if weights is not None:
        with Path(weights).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return next((path.name for path in sorted(cache.glob(f"{_BACKBONES[network]}-*.pth"))), None)


def _cached_weights(network: str) -> tuple[Path | None, str]:
    """File of torchvision's backbone weights in torch's cache, downloaded if the server answers."""
    from torchvision.models import get_model_weights

    url: str = get_model_weights(_BACKBONES[network]).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path, f"weights from {path}"
    problem = _unreachable(url)
    if problem is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), path.stem.rsplit("-", 1)[1], progress=False)
        except (OSError, HTTPException, RuntimeError) as error:
            problem = str(error)
        else:
            return path, f"weights downloaded to {path}"
    return None, (
        f"LPIPS left out: {path.name} is not in {path.parent} and cannot be downloaded ({problem}); "
        f"fetch {url} elsewhere and give it as evaluation.lpips_weights"
    )


def _unreachable(url: str) -> str | None:
    """Why a server does not answer within ``CONNECT_SECONDS``, or ``None`` when it does.

    The request runs in a thread of its own, since looking up a name can take longer than any timeout of a socket.
    """
    problem = [f"no answer within {CONNECT_SECONDS:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=CONNECT_SECONDS):
                problem[0] = ""
        except (OSError, ValueError, HTTPException) as error:
            problem[0] = str(getattr(error, "reason", error)) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return problem[0] or None
