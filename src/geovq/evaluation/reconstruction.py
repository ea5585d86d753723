"""How far images are from their reconstructions: PSNR and SSIM, per image and pooled.

Two averages of PSNR are in use and differ by decibels on the same tensors, so both are named: ``psnr`` is the
mean over images of each image's PSNR, ``psnr_pooled`` is the PSNR of the mean squared error over all pixels.

A frozen decoder has three such comparisons, told by a suffix: the image with what its codes decode to (no suffix, what
counts), the image with what its unquantized latents decode to (``_continuous``), and these two decodings with each
other (``_quantization``, what quantization alone changes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.evaluator import HIGHER, LOWER, NEITHER, RECONSTRUCTION, UNQUANTIZED, Measured, Score, evaluator
from geovq.evaluation.statistics import bootstrap_mean
from geovq.geometry.computing import full_precision

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

GREATEST_PSNR_DB = 100.0
"""Identical images have infinite PSNR, which no mean survives: every PSNR is cut at this value (MSE 1e-10)."""

_CHUNK_BYTES = 50 * 2**20
_RANGE_TOLERANCE = 1e-3


def ssim_kernel_size(height: int, width: int) -> int:
    """Side of the Gaussian window of SSIM: 11 (Wang et al. 2004), or the largest odd side that fits the image."""
    smallest = min(height, width, 11)
    return smallest if smallest % 2 else smallest - 1


def image_errors(reference: Tensor, output: Tensor, device: torch.device | None = None) -> dict[str, Tensor]:
    """Errors of each image.

    SSIM follows Wang et al. (2004), eq. 13, with a Gaussian window of side ``ssim_kernel_size`` and standard deviation
    1.5 scaled with the window (1.5 at side 11), reflected borders, data range 1, averaged over pixels and channels.

    Args:
        reference: (N, C, H, W) in [0, 1].
        output: the same shape and range.
        device: where to compute; by default where ``reference`` is.

    Returns:
        ``mse`` (squared pixel error, mean over pixels and channels), ``psnr`` (dB, at most ``GREATEST_PSNR_DB``) and
        ``ssim``, each (N,) float32 on the CPU.

    Raises:
        InputError: shapes differ, there is no image, or values are not finite floats in [0, 1].
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    check_images(reference, output)
    height, width = reference.shape[2:]
    kernel_size = ssim_kernel_size(height, width)
    # torchmetrics derives the Gaussian window from sigma, int(3.5 sigma + 0.5) to each side, and ignores
    # kernel_size
    sigma = 1.5 * kernel_size / 11

    def errors(reference: Tensor, output: Tensor) -> Tensor:
        mse = (reference - output).square().flatten(1).mean(1)
        psnr = peak_signal_noise_ratio(output, reference, data_range=1.0, reduction="none", dim=(1, 2, 3))
        # Many images as the channels of one: ten times as fast as convolutions of one channel each, the same bits.
        _, similarity = structural_similarity_index_measure(
            output.reshape(1, -1, height, width),
            reference.reshape(1, -1, height, width),
            sigma=sigma,
            kernel_size=kernel_size,
            data_range=1.0,
            reduction="none",
            return_full_image=True,
        )
        ssim = torch.as_tensor(similarity).reshape(len(reference), -1).mean(1)
        return torch.stack([mse, torch.as_tensor(psnr).clamp(max=GREATEST_PSNR_DB), ssim], dim=1)

    # the window sees five padded moments of both images at once, and as many come out
    padded = reference.shape[1] * (height + kernel_size) * (width + kernel_size)
    with full_precision():
        values = in_chunks(errors, reference, output, bytes_per_image=4 * 20 * padded, device=device)
    return {"mse": values[:, 0], "psnr": values[:, 1], "ssim": values[:, 2]}


def reconstruction_metrics(
    reference: Tensor, output: Tensor, suffix: str = "", device: torch.device | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Means of ``image_errors`` over images, and the PSNR of the pooled error.

    Identical images count as ``GREATEST_PSNR_DB`` = 100 dB, in the mean and in the pooled value.

    Args:
        reference: (N, C, H, W) in [0, 1].
        output: the same shape and range.
        suffix: put behind each name, such as ``_continuous``.
        device: as in ``image_errors``.

    Returns:
        ``psnr`` (dB, mean over images), ``psnr_pooled`` (dB), ``ssim`` and ``mse`` with the suffix; and ``psnr``,
        ``ssim`` and ``mse`` per image, each (N,).
    """
    per_image = image_errors(reference, output, device)
    metrics = {f"{name}{suffix}": float(values.double().mean()) for name, values in per_image.items()}
    metrics[f"psnr_pooled{suffix}"] = float(psnr_of(per_image["mse"].double().mean()))
    return metrics, {f"{name}{suffix}": values for name, values in per_image.items()}


def psnr_of(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors, at most ``GREATEST_PSNR_DB``; of any shape."""
    return -10 * mse.clamp(min=10 ** (-GREATEST_PSNR_DB / 10)).log10()


def check_images(reference: Tensor, output: Tensor) -> None:
    """Refuse what is no pair of image batches (N, C, H, W) of finite floats in [0, 1].

    Raises:
        InputError: saying which and why.
    """
    if reference.shape != output.shape or reference.ndim != 4 or len(reference) == 0:
        raise InputError(
            f"images of shape {tuple(reference.shape)} and {tuple(output.shape)}: both must be (N, C, H, W)"
        )
    for name, images in (("reference", reference), ("output", output)):
        if not images.is_floating_point():
            raise InputError(f"{name} images are {images.dtype}: give floats in [0, 1], so divide bytes by 255")
        low, high = float(images.min()), float(images.max())
        # written so that NaN fails too
        if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
            raise InputError(f"{name} images reach from {low:.4g} to {high:.4g}: clamp them to [0, 1]")


def in_chunks(
    function: Callable[[Tensor, Tensor], Tensor],
    reference: Tensor,
    output: Tensor,
    bytes_per_image: int,
    device: torch.device | None = None,
) -> Tensor:
    """Apply a function of two float32 image batches chunk by chunk, without gradients, in bounded memory.

    Args:
        function: maps two (n, C, H, W) to (n, …).
        reference: (N, C, H, W).
        output: (N, C, H, W).
        bytes_per_image: working memory of ``function`` per image; chunks keep below about 100 MB.
        device: where the chunks are computed; by default where ``reference`` is.

    Returns:
        The results joined, (N, …), on the CPU.
    """
    chunk = max(1, _CHUNK_BYTES // bytes_per_image)
    results = []
    with torch.no_grad():
        for start in range(0, len(reference), chunk):
            part = reference[start : start + chunk].to(device or reference.device).float()
            results.append(function(part, output[start : start + chunk].to(part)).cpu())
    return torch.cat(results)


PSNR = Score(
    *("psnr", "PSNR", "dB", HIGHER, ".2f", "mean over images of −10 log₁₀ MSE, each at most 100 dB"),
    headline=True,
    group=RECONSTRUCTION,
)
POOLED = Score("psnr_pooled", "pooled PSNR", "dB", HIGHER, ".2f", "−10 log₁₀ of the MSE over all images")
SSIM = Score("ssim", "SSIM", "", HIGHER, ".4f", "Wang et al. 2004, eq. 13; Gaussian window", True, RECONSTRUCTION)
MSE = Score("mse", "MSE", "pixel²", LOWER, ".5f", "squared error, mean over pixels, channels and images")
ERRORS = (PSNR, POOLED, SSIM, MSE)
LOW = Score("psnr_interval_low", "PSNR from", "dB", NEITHER, ".2f", "95 % percentile bootstrap over images, low end")
HIGH = Score("psnr_interval_high", "PSNR to", "dB", NEITHER, ".2f", "95 % percentile bootstrap over images, high end")


@evaluator(*ERRORS, LOW, HIGH)
def reconstruction(run: EvaluatedRun) -> Measured:
    """Test images and what their codes decode to: x ↔ D(q)"""
    values, per_image = reconstruction_metrics(run.images, run.quantized, device=run.device)
    if len(run.images) > 1:
        interval = bootstrap_mean(per_image["psnr"], run.config.evaluation.bootstrap, run.config.evaluation.seed)
        values |= {LOW.name: interval.low, HIGH.name: interval.high}
    return Measured(values, per_image, dict.fromkeys((LOW.name, HIGH.name), "one test image has no spread"))


@evaluator(
    *(each.of(UNQUANTIZED, "without quantization", each is PSNR) for each in ERRORS),
    needs=[needs.points],
    of_autoencoder=True,
)
def unquantized_reconstruction(run: EvaluatedRun) -> Measured:
    """Test images and what their latents decode to without quantization: x ↔ D(μ)"""
    return Measured(*reconstruction_metrics(run.images, run.unquantized, UNQUANTIZED, run.device))


@evaluator(*(each.of("_quantization", "to D(μ)", each is PSNR) for each in ERRORS), needs=[needs.points])
def quantization(run: EvaluatedRun) -> Measured:
    """What quantization alone changes: D(μ) ↔ D(q)"""
    return Measured(*reconstruction_metrics(run.unquantized, run.quantized, "_quantization", run.device))


@evaluator(*(each.of("_validation", "of validation images") for each in (PSNR, POOLED)))
def validation(run: EvaluatedRun) -> Measured:
    """Validation images and what their codes decode to: what runs are to be chosen by"""
    output = run.decoded(run.codec.embed(run.codes_of("validation")), run.classes_of("validation"))
    values, _ = reconstruction_metrics(run.images_of("validation"), output, "_validation", run.device)
    return Measured({name: values[name] for name in ("psnr_validation", "psnr_pooled_validation")})


@evaluator(
    Score("n_test_images", "test images", form=".0f"),
    Score("ssim_kernel_size", "SSIM's window", "pixel, borders reflected", form=".0f", description="its side"),
    of_autoencoder=True,
)
def images(run: EvaluatedRun) -> Measured:
    """What is measured on"""
    size = ssim_kernel_size(*run.images.shape[2:])
    return Measured({"n_test_images": float(len(run.images)), "ssim_kernel_size": float(size)})
