"""everything -> report: what the codes cost and what they keep, on test images that no fit has seen.

``metrics.json`` holds the same names for every run on a data set (the unit of the graph geodesic is part of its
name); a metric that cannot be had is listed with its reason in ``omitted.json`` and is never a zero. Values per image
are kept for paired comparisons between runs. What no codebook changes comes from ``ceiling``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.evaluation import codebook as codebook_metrics
from geovq.evaluation import generation
from geovq.evaluation.anisotropy import predicted_whitening_gain
from geovq.evaluation.geodesic import geodesic_distortion
from geovq.evaluation.reconstruction import reconstruction_metrics
from geovq.evaluation.statistics import bootstrap_mean
from geovq.geometry.symmetric import mean_metric
from geovq.models.codec import Codec
from geovq.models.tokens import tokens_of
from geovq.pipeline.stage import Context, Inputs, Stage
from geovq.pipeline.stages.ceiling import ONE_TOKEN, load_yardstick, perception_settings
from geovq.pipeline.stages.classifier import NO_CLASSES, load_classifier, network_name, predict
from geovq.pipeline.stages.codes import has_training_codes, load_codec, load_codes
from geovq.pipeline.stages.graph import load_graph
from geovq.pipeline.stages.latents import decode
from geovq.pipeline.stages.networks import codes_stage, final_codes, final_networks, load_decoder, load_final_decoder
from geovq.pipeline.stages.perception import measure_perception
from geovq.pipeline.stages.report_figures import draw_report
from geovq.progress import progress

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.models.classifier import SmallClassifier
    from geovq.pipeline.artifacts import ArtifactWriter

NO_PRIOR = "transformer=none: there is no prior"
NO_TRAINING_CODES = "assign.training_images=needed: without a prior, training images have no codes to count"
SCORES = "the quantizer's latents are scores of codewords, not points of the space that is decoded"
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
    classifier = load_classifier(inputs["classifier"], context)
    packed, labels = load_yardstick(inputs["ceiling"])

    metrics: Metrics = inputs["ceiling"].json("metrics")
    omitted: Omitted = inputs["ceiling"].json("omitted")
    per_image = inputs["ceiling"].tensors("per_image")
    with progress("report", total=5) as advance:
        values, values_per_image = measure_reconstruction(context, images, continuous, quantized, omitted)
        metrics, per_image = metrics | values, per_image | values_per_image
        advance()
        metrics |= measure_validation(context, inputs, codec, final_decoder)
        values, values_per_image, missing = measure_perception(context, images, quantized, classifier, labels)
        metrics, per_image, omitted = metrics | values, per_image | values_per_image, omitted | missing
        advance()
        metrics |= measure_rate(inputs, codes, codec, omitted)
        advance()
        metrics |= measure_distortions(context, inputs, packed, mean, codes, codec, omitted)
        metrics |= codebook_metrics.decoded_distortion(continuous, quantized)[0]
        metrics |= predict_whitening(packed, mean, codec, omitted)
        advance()
        metrics |= measure_samples(context, inputs, classifier, omitted)
        advance()

    if not config.latents_are_points:
        leave_out_latents(metrics, per_image, omitted)
    out.json("metrics", dict(sorted(metrics.items())))
    out.json("omitted", omitted)
    out.json("spectrum", inputs["ceiling"].json("spectrum"))
    out.tensors("per_image", per_image)
    beside = continuous if config.latents_are_points else None
    draw_report(context, inputs, out, images, beside, quantized, final_decoder)


def leave_out_latents(metrics: Metrics, per_image: dict[str, Tensor], omitted: Omitted) -> None:
    """Take out, in place, what compares latents with codewords or decodes them: here they are scores of codewords."""
    for name in [*metrics, *omitted, *per_image]:
        stem = name.removesuffix("_continuous").removesuffix("_quantization")
        if stem != name or stem.startswith(("distortion_", "metric_", "whitening_")):
            metrics.pop(name, None)
            per_image.pop(name, None)
            omitted[name] = SCORES


def measure_reconstruction(
    context: Context, images: Tensor, continuous: Tensor, quantized: Tensor, omitted: Omitted
) -> tuple[Metrics, dict[str, Tensor]]:
    """PSNR and SSIM of the codes, with the interval that resampling the images gives the first."""
    evaluation = context.config.evaluation
    metrics, per_image = reconstruction_metrics(images, quantized)
    between, between_per_image = reconstruction_metrics(continuous, quantized, "_quantization")
    if len(images) > 1:
        interval = bootstrap_mean(per_image["psnr"], evaluation.bootstrap, evaluation.seed)
        metrics |= {"psnr_interval_low": interval.low, "psnr_interval_high": interval.high}
    else:
        omitted |= dict.fromkeys(("psnr_interval_low", "psnr_interval_high"), "one test image has no spread")
    return metrics | between, per_image | between_per_image


def measure_validation(context: Context, inputs: Inputs, codec: Codec, decoder: nn.Module) -> Metrics:
    """PSNR of the codes of validation images: what choices between runs are to be made by, never by test images."""
    images = context.data.validation.images.float() / 255
    quantized = decode(decoder, codec.embed(load_codes(final_codes(inputs), "validation")), context.device)
    metrics, _ = reconstruction_metrics(images, quantized, "_validation")
    return {name: metrics[name] for name in ("psnr_validation", "psnr_pooled_validation")}


def measure_rate(inputs: Inputs, codes: Tensor, codec: Codec, omitted: Omitted) -> Metrics:
    """Bits per image: nominal, unigram, per position, by the prior; usage of the codebook."""
    streams = codec.streams(codes)
    metrics, _ = codebook_metrics.usage_of_streams(streams)
    metrics["rate_nominal_bits_per_image"] = codec.nominal_bits
    if has_training_codes(final_codes(inputs)):
        training = codec.streams(load_codes(final_codes(inputs), "train"))
        metrics |= codebook_metrics.rate_of_streams(training, streams)[0]
    else:
        omitted |= dict.fromkeys(codebook_metrics.COUNTED_RATES, NO_TRAINING_CODES)
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
    encoding = final_codes(inputs).json("summary")
    metrics["encoding_milliseconds_per_image"] = encoding.pop("milliseconds_per_image")
    for name in ("search_gain_db", "search_decodings_per_image"):
        if name not in encoding:
            omitted[name] = "assign is not search"
    return metrics | encoding


def measure_distortions(
    context: Context,
    inputs: Inputs,
    packed: Tensor,
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
    metrics |= codebook_metrics.metric_distortion(tokens, quantized, packed)[0]
    codewords, reason = codec.whole_codewords(), no_geodesics(context.config)
    if codewords is None or reason is not None:
        reason = reason or "tokens take too many values to measure paths to each"
        names = (f"distortion_geodesic_{geodesic_unit(context.config)}2", "distortion_geodesic_codewords")
        omitted |= dict.fromkeys(names, reason)
        return metrics
    graph = load_graph(inputs["graph"])
    metrics |= geodesic_distortion(
        graph,
        codewords,
        codec.streams(codes)[0][0].reshape(-1),
        tokens,
        packed if graph.unit == "pixel" and geo.context == "own" else None,
        n_codewords=evaluation.geodesic_codewords,
        seed=evaluation.seed,
    )
    return metrics


def predict_whitening(packed: Tensor, mean: Tensor, codec: Codec, omitted: Omitted) -> Metrics:
    """What whitening gains Gaussian codes of as many bits as these: of the latents and the rate, not of the codes.

    It stands here and not with the ceiling since runs of different K share one autoencoder.
    """
    tokens = tokens_of(mean).double()
    bits = codec.nominal_bits / (len(tokens) / len(mean))
    if len(tokens) < 2:
        omitted["whitening_gain_predicted_db"] = ONE_TOKEN
        return {}
    covariance = torch.atleast_2d(torch.cov(tokens.T))  # of one dimension torch gives a scalar
    gain = predicted_whitening_gain(covariance, mean_metric(packed), bits)
    if gain is None:
        omitted["whitening_gain_predicted_db"] = "what varies in the latents has no effect on images"
        return {}
    return {"whitening_gain_predicted_db": gain}


def measure_samples(context: Context, inputs: Inputs, classifier: SmallClassifier | None, omitted: Omitted) -> Metrics:
    """Distances between feature distributions of test images and of samples; accuracy of their classes."""
    name = network_name(context.info)
    missing = (
        f"fid_{name}",
        f"fid_{name}_without_prior",
        f"kid_{name}",
        f"kid_{name}_standard_deviation",
        f"precision_{name}",
        f"recall_{name}",
    )
    if classifier is None or "samples" not in inputs:
        reason = NO_CLASSES if classifier is None else NO_PRIOR
        omitted |= dict.fromkeys((*missing, "sample_class_accuracy"), reason)
        return {}
    measured = inputs["samples"].tensors("measured")
    unguided = inputs["samples"].tensors("without_prior")
    device = context.device
    real = predict(classifier.embedding, context.data.test.images, device)
    drawn = predict(classifier.embedding, measured["images"], device)
    too_few = {score for score, least in generation.LEAST_IMAGES.items() if len(real) < least}
    for metric in missing:
        if (score := metric.split("_")[0]) in too_few:
            omitted[metric] = f"{len(real)} test images are too few: at least {generation.LEAST_IMAGES[score]}"
    metrics: Metrics = {}
    if "fid" not in too_few:
        metrics |= generation.frechet(real, drawn, name)
        without = generation.frechet(real, predict(classifier.embedding, unguided["images"], device), name)
        metrics[f"fid_{name}_without_prior"] = without[f"fid_{name}"]
    if "kid" not in too_few:
        metrics |= generation.kernel_distance(
            real, drawn, name, subset_size=min(1000, len(real), len(drawn)), seed=context.config.evaluation.seed
        )
    if "precision" not in too_few:
        metrics |= generation.precision_recall(real, drawn, network_name=name)
    if int(measured["labels"].min()) >= 0:
        logits = predict(classifier, measured["images"], device)
        accuracy, _ = generation.class_accuracy(logits, measured["labels"], "sample_class_accuracy")
        metrics |= accuracy
    else:
        omitted["sample_class_accuracy"] = "the prior is not class-conditional"
    return metrics


def no_geodesics(config: Config) -> str | None:
    """Why a run measures no geodesic distortion, as far as its configuration tells; None where it does."""
    if config.evaluation.geodesic_codewords == 0:
        return "evaluation.geodesic_codewords=0"
    if config.is_joint:
        return "there is no graph beside a joint quantizer"
    if config.evaluation.geodesic_codewords == "auto" and not config.reads_graph:
        return (
            f"evaluation.geodesic_codewords=auto: quantizer={config.quantizer.name} needs no graph, and for this score "
            "alone none is built; take evaluation.geodesic_codewords=all or a number"
        )
    return None


def geodesic_unit(config: Config) -> str:
    """Unit of the lengths of a run's graph, which stands in the name of the score."""
    return "latent" if config.geo.metric == "none" else "pixel"


STAGE = Stage(
    name="report",
    inputs=lambda config: (
        *final_networks(config),
        "latents",
        *(("graph",) if no_geodesics(config) is None else ()),
        codes_stage(config),
        "classifier",
        "ceiling",
        *(("prior", "samples") if config.prior is not None else ()),
    ),
    settings=lambda config: {
        **config.evaluation.model_dump(exclude={"classifier"}),
        **perception_settings(config),
        "geodesic_unit": geodesic_unit(config),
    },
    build=build,
    schema=8,
)
