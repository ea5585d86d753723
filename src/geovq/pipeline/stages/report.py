"""everything -> report: what the codes cost and what they keep, on test images that nothing else has seen.

``metrics.json`` holds the same names for every run on a data set (the unit of the graph geodesic is part of its
name); a metric that cannot be had is listed with its reason in
``omitted.json`` and is never a zero. Values per image are kept for paired comparisons between runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.evaluation import codebook as codebook_metrics
from geovq.evaluation import generation, perceptual, reconstruction
from geovq.evaluation.anisotropy import metric_spectrum
from geovq.evaluation.geodesic import geodesic_distortion
from geovq.evaluation.statistics import bootstrap_mean
from geovq.geometry.metric import token_metrics
from geovq.geometry.symmetric import mean_metric
from geovq.models.codec import Codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.classifier import NO_CLASSES, load_classifier, network_name, predict
from geovq.pipeline.stages.codes import load_codec, load_codes
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks, load_decoder, load_final_decoder
from geovq.pipeline.stages.report_figures import draw_report
from geovq.progress import progress

if TYPE_CHECKING:
    from geovq.models.classifier import SmallClassifier
    from geovq.pipeline.artifacts import ArtifactWriter

NO_PRIOR = "transformer=none: there is no prior"
Metrics = dict[str, float]
Omitted = dict[str, str]


def build(context: Context, inputs: Inputs, out: ArtifactWriter) -> None:
    """Measure reconstructions, codebook, rate and samples; draw the figures."""
    config, info, device = context.config, context.info, context.device
    decoder = load_decoder(inputs, config, info, device)
    final_decoder = load_final_decoder(inputs, config, info, device)
    mean = inputs["latents"].tensors("test")["mean"]
    codes, codec = load_codes(final_codes(inputs), "test"), load_codec(final_codes(inputs))
    images = context.data.test.images.float() / 255
    continuous = decode(decoder, mean, device)
    quantized = decode(final_decoder, codec.embed(codes), device)

    omitted: Omitted = {}
    classifier = load_classifier(inputs["classifier"], context)
    with progress("report", total=5) as advance:
        metrics, per_image = measure_reconstruction(context, images, continuous, quantized)
        advance()
        values, values_per_image = measure_perception(context, images, continuous, quantized, classifier, omitted)
        metrics, per_image = metrics | values, per_image | values_per_image
        advance()
        metrics |= measure_rate(inputs, codes, codec, omitted)
        advance()
        independent = independent_metrics(context, decoder, mean)
        metrics |= measure_distortions(context, inputs, independent, mean, codes, codec, omitted)
        spread, spectrum = measure_spectrum(inputs, independent, omitted)
        metrics |= spread
        metrics |= codebook_metrics.decoded_distortion(continuous, quantized)[0]
        advance()
        metrics |= measure_samples(context, inputs, classifier, omitted)
        advance()

    out.json("metrics", dict(sorted(metrics.items())))
    out.json("omitted", omitted)
    out.json("spectrum", spectrum)
    out.tensors("per_image", per_image)
    draw_report(context, inputs, out, images, continuous, quantized, final_decoder)


def measure_reconstruction(
    context: Context, images: Tensor, continuous: Tensor, quantized: Tensor
) -> tuple[Metrics, dict[str, Tensor]]:
    """The three PSNRs and SSIM, with the interval that resampling the images gives the first."""
    evaluation = context.config.evaluation
    metrics, per_image = reconstruction.three_psnrs(images, continuous, quantized)
    interval = bootstrap_mean(per_image["psnr"], evaluation.bootstrap, evaluation.seed)
    metrics |= {"psnr_interval_low": interval.low, "psnr_interval_high": interval.high}
    return metrics | {"n_test_images": float(len(images))}, per_image


def measure_perception(
    context: Context,
    images: Tensor,
    continuous: Tensor,
    quantized: Tensor,
    classifier: SmallClassifier | None,
    omitted: Omitted,
) -> tuple[Metrics, dict[str, Tensor]]:
    """LPIPS, the distance on our classifier's features, and whether labels survive reconstruction."""
    evaluation = context.config.evaluation
    metrics: Metrics = {}
    per_image: dict[str, Tensor] = {}
    pairs = {"": quantized, "_continuous": continuous}
    for suffix, output in pairs.items():
        if evaluation.lpips == "off":
            omitted[f"lpips{suffix}"] = "evaluation.lpips=off"
            continue
        distances, note = perceptual.lpips_per_image(images, output, evaluation.lpips_weights, evaluation.lpips_net)
        if distances is None:
            omitted[f"lpips{suffix}"] = note
        else:
            metrics[f"lpips{suffix}"] = float(distances.double().mean())
            per_image[f"lpips{suffix}"] = distances.cpu()
    name = network_name(context.info)
    if classifier is None:
        for metric in (f"perceptual_{name}", "label_agreement"):
            omitted |= {metric: NO_CLASSES, f"{metric}_continuous": NO_CLASSES}
        return metrics, per_image
    referee = classifier.to("cpu")
    original_labels = predict(referee, images, torch.device("cpu")).argmax(1)
    for suffix, output in pairs.items():
        values, distances = perceptual.perceptual_metrics(referee, name, images, output)
        metrics[f"perceptual_{name}{suffix}"] = values[f"perceptual_{name}"]
        per_image[f"perceptual_{name}{suffix}"] = distances
        agreement = (predict(referee, output, torch.device("cpu")).argmax(1) == original_labels).float()
        metrics[f"label_agreement{suffix}"] = float(agreement.mean())
        per_image[f"label_agreement{suffix}"] = agreement
    return metrics, per_image


def measure_rate(inputs: Inputs, codes: Tensor, codec: Codec, omitted: Omitted) -> Metrics:
    """Bits per image: nominal, unigram, per position, by the prior; usage of the codebook."""
    streams = codec.streams(codes)
    metrics, _ = codebook_metrics.usage_of_streams(streams)
    metrics |= codebook_metrics.rate_of_streams(codec.streams(load_codes(final_codes(inputs), "train")), streams)[0]
    prior = inputs["prior"].json("summary") if "prior" in inputs else None
    for name, reason in (
        ("test_bits_per_image", "transformer.class_dropout=0: the prior never saw codes without their class"),
        ("test_bits_per_image_given_class", "the prior is not class-conditional"),
    ):
        metric = name.replace("test_bits_per_image", "rate_prior_bits_per_image")
        if prior is None:
            omitted[metric] = NO_PRIOR
        elif prior[name] is None:
            omitted[metric] = reason
        else:
            metrics[metric] = prior[name]
    if inputs["latents"].has("rate.json"):
        rate = inputs["latents"].json("rate")
        metrics["kl_bits_per_token"] = rate["kl_bits_per_token"]
        metrics["active_dimensions"] = float(rate["active_dimensions"])
    else:
        no_posterior = "the autoencoder was trained with its quantizer and has no posterior"
        omitted |= {"kl_bits_per_token": no_posterior, "active_dimensions": no_posterior}
    metrics["encoding_milliseconds_per_image"] = final_codes(inputs).json("summary")["milliseconds_per_image"]
    return metrics


def independent_metrics(context: Context, decoder: nn.Module, mean: Tensor) -> Tensor:
    """Packed metrics of test tokens, sketched with probes of their own: those that helped to choose codes flatter."""
    geo = context.config.geo
    return token_metrics(
        decoder, mean, method="sketch", n_probes=geo.n_probes, seed=geo.seed + 9000, device=context.device
    )


def measure_spectrum(
    inputs: Inputs, independent: Tensor, omitted: Omitted
) -> tuple[Metrics, dict[str, list[float] | None]]:
    """How unequal the directions are to the decoder; eigenvalues, and the KL divergence per dimension."""
    metrics, eigenvalues = metric_spectrum(mean_metric(independent))
    for name in ("metric_mean_ratio", "metric_mean_ratio_db"):
        if name not in metrics:
            omitted[name] = "a direction of the latents has no effect on images"
    rate = inputs["latents"].json("rate") if inputs["latents"].has("rate.json") else {}
    return metrics, {
        "metric_eigenvalues": eigenvalues.tolist(),
        "kl_bits_per_dimension": rate.get("kl_bits_per_dimension"),
    }


def measure_distortions(
    context: Context,
    inputs: Inputs,
    independent: Tensor,
    mean: Tensor,
    codes: Tensor,
    codec: Codec,
    omitted: Omitted,
) -> Metrics:
    """The distortions that every codebook is scored in, beside the decoded one.

    The graph between training tokens is the one that codebooks are fitted on.
    """
    geo, evaluation = context.config.geo, context.config.evaluation
    tokens, quantized = tokens_of(mean), tokens_of(codec.embed(codes))
    metrics, _ = codebook_metrics.latent_distortion(tokens, quantized)
    metrics |= codebook_metrics.metric_distortion(tokens, quantized, independent)[0]
    codewords = codec.whole_codewords()
    if evaluation.geodesic_codewords == 0:
        omitted["distortion_geodesic_pixel2"] = "evaluation.geodesic_codewords=0"
        return metrics
    if context.config.is_joint:
        omitted["distortion_geodesic_pixel2"] = "there is no graph beside a joint quantizer"
        return metrics
    if codewords is None:
        omitted["distortion_geodesic_pixel2"] = "tokens take too many values to measure paths to each"
        return metrics
    graph = load_graph(inputs["graph"])
    metrics |= geodesic_distortion(
        graph,
        codewords,
        codec.streams(codes)[0][0].reshape(-1),
        tokens,
        independent if graph.unit == "pixel" and geo.context == "own" else None,
        n_codewords_sampled=evaluation.geodesic_codewords,
        seed=evaluation.seed,
    )
    return metrics


def measure_samples(context: Context, inputs: Inputs, classifier: SmallClassifier | None, omitted: Omitted) -> Metrics:
    """Distances between feature distributions of test images and of samples; accuracy of their classes."""
    name = network_name(context.info)
    if classifier is None or "samples" not in inputs:
        missing = (
            f"fid_{name}",
            f"fid_{name}_without_prior",
            f"kid_{name}",
            f"kid_{name}_standard_deviation",
            f"precision_{name}",
            f"recall_{name}",
        )
        reason = NO_CLASSES if classifier is None else NO_PRIOR
        omitted |= dict.fromkeys((*missing, "sample_class_accuracy"), reason)
        return {}
    measured = inputs["samples"].tensors("measured")
    unguided = inputs["samples"].tensors("without_prior")
    device = torch.device("cpu")
    real = _embedding(classifier, context.data.test.images)
    drawn = _embedding(classifier, measured["images"])
    metrics = generation.frechet(real, drawn, name)
    metrics |= generation.kernel_distance(
        real, drawn, name, subset_size=min(1000, len(real), len(drawn)), seed=context.config.evaluation.seed
    )
    metrics |= generation.precision_recall(real, drawn, network_name=name)
    without = generation.frechet(real, _embedding(classifier, unguided["images"]), name)
    metrics[f"fid_{name}_without_prior"] = without[f"fid_{name}"]
    if int(measured["labels"].min()) >= 0:
        logits = predict(classifier, measured["images"], device)
        accuracy, _ = generation.class_accuracy(logits, measured["labels"], "sample_class_accuracy")
        metrics |= accuracy
    else:
        omitted["sample_class_accuracy"] = "the prior is not class-conditional"
    return metrics


@torch.no_grad()
def _embedding(classifier: SmallClassifier, images: Tensor) -> Tensor:
    return torch.cat([classifier.embedding(batch.float() / 255) for batch in images.split(500)])


STAGE = Stage(
    name="report",
    inputs=lambda config: (
        *final_networks(config),
        "latents",
        *(() if config.is_joint or config.evaluation.geodesic_codewords == 0 else ("graph",)),
        codes_stage(config),
        "classifier",
        *(("prior", "samples") if config.prior is not None else ()),
    ),
    settings=lambda config: {
        **config.evaluation.model_dump(exclude={"classifier"}),
        "lpips_weights": perceptual.weights_identity(config.evaluation.lpips_weights, config.evaluation.lpips_net)
        if config.evaluation.lpips == "auto"
        else None,
    },
    build=build,
    schema=3,
)
