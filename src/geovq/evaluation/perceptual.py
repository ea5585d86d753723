"""Perceptual distances: LPIPS where its weights are there, and the same formula on any network's features.

Both are Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", eq. 1:

    d(x, x₀) = Σ_l 1/(H_l W_l) Σ_{h,w} ‖ w_l ⊙ (ŷ^l_hw − ŷ₀^l_hw) ‖²

with ŷ the features of layer l scaled to unit length over the channels. LPIPS takes an ImageNet backbone and
weights w_l fitted to human judgement; ``perceptual_distance`` takes w_l = 1.
"""

from __future__ import annotations

import hashlib
import re
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.evaluator import HIGHER, LOWER, RECONSTRUCTION, UNQUANTIZED, Measured, Score, evaluator
from geovq.evaluation.reconstruction import check_images, in_chunks

if TYPE_CHECKING:
    from geovq.models.classifier import SmallClassifier
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

LPIPS_SMALLEST_SIDE = 64
"""Smaller images are enlarged, since AlexNet's strides leave nothing of them."""

CONNECT_SECONDS = 5.0
"""How long to wait for the server of the backbone weights before LPIPS is left out."""

_BACKBONES = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}
_BYTES_PER_PIXEL = {"alex": 4 * 200, "squeeze": 4 * 400, "vgg": 4 * 1200}


def perceptual_distance(features_reference: list[Tensor], features_output: list[Tensor]) -> Tensor:
    """Zhang et al. 2018, eq. 1, with unit weights.

    Args:
        features_reference: activations per layer, each (N, F_l, H_l, W_l).
        features_output: the same shapes.

    Returns:
        (N,) distances, without unit; each layer adds between 0 and 4.

    Raises:
        InputError: the numbers of layers or the shapes differ.
    """
    shapes = [[tuple(layer.shape) for layer in features] for features in (features_reference, features_output)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise InputError(
            f"features of shapes {shapes[0]} and {shapes[1]}: both images must go through the same network"
        )
    layers = []
    for reference, output in zip(features_reference, features_output, strict=True):
        # a vector of zeros stays zero instead of becoming NaN
        difference = functional.normalize(reference, dim=1, eps=1e-8) - functional.normalize(output, dim=1, eps=1e-8)
        layers.append(difference.square().sum(1).mean((1, 2)))
    return sum(layers[1:], start=layers[0])


def perceptual_distances(
    network: SmallClassifier, reference: Tensor, output: Tensor, device: torch.device | None = None
) -> Tensor:
    """Perceptual distance (N,) of images and reconstructions, (N, C, H, W) in [0, 1], on the features of a network in
    evaluation mode, which is on ``device``, by default where the reference images are.
    """
    check_images(reference, output)
    # six arrays of activations at a time: both images' maps, normalised, subtracted, squared
    return in_chunks(
        lambda first, second: perceptual_distance(network.features(first), network.features(second)),
        reference,
        output,
        bytes_per_image=4 * 6 * 64 * reference.shape[2] * reference.shape[3],
        device=device,
    )


def lpips_per_image(
    reference: Tensor,
    output: Tensor,
    weights: Path | str | None = None,
    network: str = "alex",
    device: torch.device | None = None,
) -> tuple[Tensor | None, str]:
    """LPIPS v0.1 of each image, with torchmetrics' network and linear weights.

    Grey images are repeated to three channels; values go from [0, 1] to [-1, 1]; images whose shorter side is below 64
    pixels are enlarged bilinearly until it is 64.

    Args:
        reference: (N, C, H, W) in [0, 1], C = 1 or 3.
        output: the same shape and range.
        weights: a local file with torchvision's state dict of the backbone, such as ``alexnet-owt-7be5be79.pth``;
            without it torch's cache is used, else the file is downloaded into that cache.
        network: ``alex``, ``squeeze`` or ``vgg``.
        device: where to compute; by default where the reference images are.

    Returns:
        (N,) distances and where the weights came from; or ``None`` and the reason, when there is no local file and the
        server does not answer within seconds.

    Raises:
        InputError: the given file does not exist or holds something else, the network is unknown, or the images are
            not finite floats in [0, 1] with one or three channels.
    """
    check_images(reference, output)
    channels, height, width = reference.shape[1:]
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels: LPIPS is defined for 1 (grey) and 3 (RGB)")
    if network not in _BACKBONES:
        raise InputError(f"lpips network {network!r} is unknown: use one of {', '.join(_BACKBONES)}")
    if weights is not None:
        path, note = Path(weights).expanduser(), f"weights from {weights}"
    else:
        found, note = _cached_weights(network)
        if found is None:
            return None, note
        path = found
    net = _network(network, path).to(device or reference.device)
    factor = max(1.0, LPIPS_SMALLEST_SIDE / min(height, width))
    size = (round(height * factor), round(width * factor))

    def prepare(images: Tensor) -> Tensor:
        images = 2 * images.clamp(0, 1).expand(-1, 3, -1, -1) - 1  # (n, 3, H, W) in [-1, 1]
        if factor > 1:
            images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        return images

    distances = in_chunks(
        lambda first, second: net(prepare(first), prepare(second)).reshape(-1),
        reference,
        output,
        bytes_per_image=_BYTES_PER_PIXEL[network] * size[0] * size[1],
        device=device,
    )
    return distances, note


def weights_identity(weights: str | None, network: str) -> str | None:
    """Which weights there are, without asking a network: a hash of the given file, else the name of the cached one."""
    if weights is not None:
        with Path(weights).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return next((path.name for path in sorted(cache.glob(f"{_BACKBONES[network]}-*.pth"))), None)


def _network(name: str, path: Path) -> nn.Module:
    """LPIPS in evaluation mode: linear weights as packaged with torchmetrics, backbone from a file."""
    # the public metric class can only download its backbone, so its network is built one level below
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    net = _NoTrainLpips(net=name, pretrained=True, pnet_rand=True)  # type: ignore[arg-type]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"lpips weights {path} do not exist: give torchvision's {_BACKBONES[name]} state dict"
        ) from None
    except Exception as error:  # torch raises many kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"lpips weights {path} cannot be read as a state dict ({reason[:80]})") from None
    # slice1.0.weight and slices.0.0.weight both mean torchvision's features.0.weight
    wanted = {key: re.sub(r"^slices?\.?\d\.", "features.", key) for key in net.net.state_dict()}
    expected = {key: tensor.shape for key, tensor in net.net.state_dict().items()}
    for key, source in wanted.items():
        found = state.get(source) if isinstance(state, dict) else None
        if not isinstance(found, Tensor) or found.shape != expected[key]:
            raise InputError(f"lpips weights {path} lack a fitting {source}: give torchvision's {_BACKBONES[name]}")
    net.net.load_state_dict({key: state[source] for key, source in wanted.items()})
    return net


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


LPIPS = Score(
    "lpips", "LPIPS", "", LOWER, ".4f", "Zhang et al. 2018, eq. 1; `evaluation.lpips_net`", True, RECONSTRUCTION
)
DISTANCE = Score(
    *("perceptual_<data>_cnn", "perceptual", "", LOWER, ".4f"),
    "LPIPS' formula on the features of our classifier, unit weights",
    headline=True,
    group=RECONSTRUCTION,
)
AGREEMENT = Score(
    *("label_agreement", "labels kept", "share", HIGHER, ".3f"),
    "images that the classifier labels as it labels the original (not: correctly)",
    group=RECONSTRUCTION,
)


@evaluator(LPIPS)
def lpips(run: EvaluatedRun) -> Measured:
    """LPIPS of reconstructions"""
    return _lpips(run, run.quantized)


@evaluator(LPIPS.of(UNQUANTIZED, "without quantization"), needs=[needs.points], of_autoencoder=True)
def unquantized_lpips(run: EvaluatedRun) -> Measured:
    """LPIPS of reconstructions without quantization"""
    return _lpips(run, run.unquantized, UNQUANTIZED)


def _lpips(run: EvaluatedRun, output: Tensor, suffix: str = "") -> Measured:
    settings = run.config.evaluation
    if settings.lpips == "off":
        return Measured(omitted={f"lpips{suffix}": "evaluation.lpips=off"})
    distances, note = lpips_per_image(run.images, output, settings.lpips_weights, settings.lpips_net, run.device)
    if distances is None:
        return Measured(omitted={f"lpips{suffix}": note})
    return Measured.of_images({f"lpips{suffix}": distances})


@evaluator(DISTANCE, AGREEMENT, needs=[needs.classifier])
def perception(run: EvaluatedRun) -> Measured:
    """What reconstructions look like to the classifier"""
    return _perception(run, run.quantized)


@evaluator(
    *(each.of(UNQUANTIZED, "without quantization") for each in (DISTANCE, AGREEMENT)),
    needs=[needs.points, needs.classifier],
    of_autoencoder=True,
)
def unquantized_perception(run: EvaluatedRun) -> Measured:
    """What reconstructions without quantization look like to the classifier"""
    return _perception(run, run.unquantized, UNQUANTIZED)


def _perception(run: EvaluatedRun, output: Tensor, suffix: str = "") -> Measured:
    assert run.classifier is not None
    distances = perceptual_distances(run.classifier, run.images, output, run.device)
    agreement = (run.classify(output).argmax(1) == run.labels).float()
    return Measured.of_images({f"perceptual_{run.network}{suffix}": distances, f"label_agreement{suffix}": agreement})
