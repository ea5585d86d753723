"""vae | joint, latents, classifier -> ceiling: what an autoencoder keeps of test images before any quantization.

The same for every codebook on one autoencoder, so it is measured once: its reconstructions of the test images, the rate
and the spectrum of its latents, and the yardstick that the distortions of all its codebooks are taken with: metrics of
the test tokens, sketched with probes of their own, since those that helped to choose codes flatter these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from geovq.evaluation.anisotropy import metric_spectrum
from geovq.evaluation.perceptual import weights_identity
from geovq.evaluation.reconstruction import reconstruction_metrics, ssim_kernel_size
from geovq.geometry.metric import token_metrics
from geovq.geometry.symmetric import mean_metric
from geovq.models.vae import NATS_PER_BIT, Posterior
from geovq.pipeline.device import measuring_precision
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.classifier import load_classifier
from geovq.pipeline.stages.latents import ACTIVE_BITS, decode
from geovq.pipeline.stages.networks import autoencoder_stage, load_decoder
from geovq.pipeline.stages.perception import labels_of, measure_perception

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from geovq.configuration.config import Config
    from geovq.pipeline.artifacts import Artifact, ArtifactWriter

KL_SPREAD = "kl_bits_per_token_standard_deviation"
ONE_TOKEN = "the test images hold a single token, which has no spread"
_SUFFIX = "_continuous"


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Measure the unquantized reconstructions; write the yardsticks."""
    config, geo = context.config, context.config.geo
    decoder = load_decoder(inputs, config, context.info, context.device)
    latents = inputs["latents"].tensors("test")
    mean = latents["mean"]
    images = context.data.test.images.float() / 255
    continuous = decode(decoder, mean, context.device)
    classifier = load_classifier(inputs["classifier"], context)
    labels = labels_of(classifier, images, context.device) if classifier is not None else None

    metrics, per_image = reconstruction_metrics(images, continuous, _SUFFIX)
    seen, seen_per_image, omitted = measure_perception(context, images, continuous, classifier, labels, _SUFFIX)
    packed = token_metrics(
        decoder,
        mean,
        method="sketch",
        n_probes=geo.n_probes,
        seed=geo.seed + 9000,
        precision=measuring_precision(context.config.trainer),
        device=context.device,
    )
    spread, eigenvalues = metric_spectrum(mean_metric(packed))
    for name in ("metric_mean_ratio", "metric_mean_ratio_db"):
        if name not in spread:
            omitted[name] = "a direction of the latents has no effect on images"
    rate = inputs["latents"].json("rate") if inputs["latents"].has("rate.json") else {}
    spectrum: dict[str, Any] = {
        "metric_eigenvalues": eigenvalues.tolist(),
        "kl_bits_per_dimension": rate.get("kl_bits_per_dimension"),
        "kl_bits_per_position": _divergence_by_position(inputs["latents"].tensors("validation")) if rate else None,
    }
    names = ("kl_bits_per_token", "active_dimensions")
    if rate:
        metrics |= {name: float(rate[name]) for name in names}
        divergence = Posterior(mean, latents["log_variance"]).divergence() / NATS_PER_BIT
        if divergence.numel() > 1:
            metrics[KL_SPREAD] = float(divergence.std())
        else:
            omitted[KL_SPREAD] = ONE_TOKEN
    else:
        omitted |= dict.fromkeys(
            (*names, KL_SPREAD), "the autoencoder was trained with its quantizer and has no posterior"
        )

    counts = {"n_test_images": float(len(images)), "ssim_kernel_size": float(ssim_kernel_size(*images.shape[2:]))}
    out.json("metrics", metrics | seen | spread | counts)
    out.json("omitted", omitted)
    out.json("spectrum", spectrum)
    out.figure("spectrum", _spectrum_figure(spectrum))
    out.tensors("per_image", per_image | seen_per_image)
    # Rounding to half the size, at most 2⁻⁸, is far below the error of a sketch.
    out.tensors("yardstick", {"packed": packed.to(torch.bfloat16)} | ({} if labels is None else {"labels": labels}))


def _divergence_by_position(latents: dict[str, Tensor]) -> list[list[float]]:
    """KL in bits per token at each place of the grid (h rows of w), mean over images."""
    divergence = Posterior(latents["mean"], latents["log_variance"]).divergence().double().mean(0)
    rows: list[list[float]] = (divergence / NATS_PER_BIT).tolist()
    return rows


def _spectrum_figure(spectrum: dict[str, Any]) -> Figure:
    from geovq import viz

    eigenvalues = torch.tensor(spectrum["metric_eigenvalues"])
    if spectrum["kl_bits_per_dimension"] is None:
        return viz.spectrum_figure(eigenvalues, title="Mean metric of test tokens")
    return viz.spectrum_figure(
        eigenvalues,
        torch.tensor(spectrum["kl_bits_per_dimension"]),
        torch.tensor(spectrum["kl_bits_per_position"]),
        active_above=ACTIVE_BITS,
        title="Mean metric of test tokens, KL divergence of validation images",
    )


def load_yardstick(artifact: Artifact) -> tuple[Tensor, Tensor | None]:
    """Packed metrics (N*h*w, d(d+1)/2) of the test tokens, and the classifier's labels (N,) of the test images."""
    tensors = artifact.tensors("yardstick")
    return tensors["packed"].float(), tensors.get("labels")


def perception_settings(config: Config) -> dict[str, Any]:
    """Which LPIPS is asked for, and which weights are there for it."""
    evaluation = config.evaluation
    settings = evaluation.model_dump(include={"lpips", "lpips_weights", "lpips_net"})
    if evaluation.lpips == "auto":
        settings["weights"] = weights_identity(evaluation.lpips_weights, evaluation.lpips_net)
    return settings


STAGE = Stage(
    name="ceiling",
    inputs=lambda config: (autoencoder_stage(config), "latents", "classifier"),
    settings=lambda config: {
        **perception_settings(config),
        "n_probes": config.geo.n_probes,
        "probe_seed": config.geo.seed,
    },
    build=build,
    schema=3,
)
