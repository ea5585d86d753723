"""vae | joint, latents, features -> unquantized: what an autoencoder keeps of test images without quantization.

Measured once per autoencoder: its reconstructions, the rate and the spectrum of its latents, and the metric tensors of
test tokens that the distortions of all its codebooks are measured with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from geovq.evaluation.anisotropy import metric_spectrum
from geovq.evaluation.evaluator import measure
from geovq.evaluation.evaluators import OURS
from geovq.geometry.symmetric import mean_metric
from geovq.models.lpips import weights_identity
from geovq.models.vae import NATS_PER_BIT, Posterior
from geovq.pipeline.stage import ArtifactWriter, Config, Context, Inputs, Stage
from geovq.pipeline.stages.evaluated_run import EvaluatedRun
from geovq.pipeline.stages.latents import ACTIVE_BITS
from geovq.pipeline.stages.networks import autoencoder_stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Measure the unquantized reconstructions; write the metric tensors and the labels of test images."""
    run = EvaluatedRun(context, inputs)
    found = measure((each for each in OURS if each.of_autoencoder), run)
    spectrum = _spectrum(run)
    out.json("metrics", found.values)
    out.json("omitted", found.omitted)
    out.tensors("per_image", found.per_image)
    out.json("spectrum", spectrum)
    out.figure("spectrum", _draw(spectrum))
    # Rounding to half the size, at most 2⁻⁸, is far below the error of a sketch.
    out.tensors("metric_tensors", {"packed": run.metric_tensors.to(torch.bfloat16)})
    if run.classifier is not None:
        out.tensors("labels", {"labels": run.labels})
        if context.config.latents_are_points:
            out.tensors("features", {"features": run.unquantized_features})


def _spectrum(run: EvaluatedRun) -> dict[str, Any]:
    """Eigenvalues of the mean metric tensor; KL in bits per token by dimension and by place of the grid, (h, w)."""
    _, eigenvalues = metric_spectrum(mean_metric(run.metric_tensors))
    spectrum: dict[str, Any] = dict.fromkeys(("metric_eigenvalues", "kl_bits_per_dimension", "kl_bits_per_position"))
    spectrum["metric_eigenvalues"] = eigenvalues.tolist()
    if run.rate is not None:
        latents = run.inputs["latents"].tensors("validation")
        divergence = Posterior(latents["mean"], latents["log_variance"]).divergence().double().mean(0)
        spectrum["kl_bits_per_dimension"] = run.rate["kl_bits_per_dimension"]
        spectrum["kl_bits_per_position"] = (divergence / NATS_PER_BIT).tolist()
    return spectrum


def _draw(spectrum: dict[str, Any]) -> Figure:
    from geovq.viz import spectrum_figure

    eigenvalues = torch.tensor(spectrum["metric_eigenvalues"])
    if spectrum["kl_bits_per_dimension"] is None:
        return spectrum_figure(eigenvalues, title="Mean metric tensor of test tokens")
    dimensions, positions = (torch.tensor(spectrum[f"kl_bits_per_{name}"]) for name in ("dimension", "position"))
    title = "Mean metric tensor of test tokens, KL divergence of validation images"
    return spectrum_figure(eigenvalues, dimensions, positions, ACTIVE_BITS, title)


def perception_settings(config: Config) -> dict[str, Any]:
    """Which LPIPS is asked for, and which weights are there for it."""
    evaluation = config.evaluation
    settings = evaluation.model_dump(include={"lpips", "lpips_weights", "lpips_net"})
    if evaluation.lpips == "auto":
        settings["weights"] = weights_identity(evaluation.lpips_weights, evaluation.lpips_net)
    return settings


STAGE = Stage(
    "unquantized",
    lambda config: "measuring the unquantized reconstructions",
    build,
    lambda config: (autoencoder_stage(config), "latents", "classifier", "features"),
    lambda config: perception_settings(config) | {"n_probes": config.geo.n_probes, "probe_seed": config.geo.seed},
    schema=2,
)
