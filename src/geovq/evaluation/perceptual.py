"""Perceptual distances: LPIPS where its weights are there, and the same formula on any network's features.

Both are Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", eq. 1:

    d(x, x₀) = Σ_l 1/(H_l W_l) Σ_{h,w} ‖ w_l ⊙ (ŷ^l_hw − ŷ₀^l_hw) ‖²

with ŷ the features of layer l scaled to unit length over the channels. LPIPS takes an ImageNet backbone and
weights w_l fitted to human judgement; ``perceptual_distance`` takes w_l = 1.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.evaluator import HIGHER, LOWER, RECONSTRUCTION, UNQUANTIZED, Measured, Score, evaluator
from geovq.evaluation.reconstruction import check_images, in_chunks
from geovq.models.lpips import Lpips, found_weights
from geovq.models.perceptual_network import perceptual_distance

if TYPE_CHECKING:
    from geovq.models.classifier import SmallClassifier
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

_BYTES_PER_PIXEL = {"alex": 4 * 200, "squeeze": 4 * 400, "vgg": 4 * 1200}


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
    path, note = found_weights(weights, network)
    if path is None:
        return None, note
    net = Lpips(path, network).to(device or reference.device)
    enlarged = prod(net.size_within(height, width))
    distances = in_chunks(
        net.between,
        reference,
        output,
        bytes_per_image=_BYTES_PER_PIXEL[network] * enlarged,
        device=device,
    )
    return distances, note


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
