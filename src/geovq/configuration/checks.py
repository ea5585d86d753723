"""Whether a configuration and its images fit together: asked before any compute, all faults told at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from geovq.errors import ConfigError, InputError

if TYPE_CHECKING:
    from geovq.configuration.config import Config
    from geovq.data import DataInfo


def check(config: Config, info: DataInfo, location: str = "data", streams: bool = False) -> None:
    """Grid, K, neighbours and images; ``location`` is where the images lie, ``streams`` whether they can be prepared
    without all of them being in memory.

    Raises:
        ConfigError: one line per fault, each with the key, the value and what is allowed.
    """
    from geovq.configuration.settled import settled
    from geovq.data.limits import check_memory, is_beyond_memory
    from geovq.data.split import limited_counts, validation_count
    from geovq.evaluation.evaluators import evaluators_of
    from geovq.evaluation.inception import inception_network
    from geovq.models.classifier import SMALLEST_SIDE
    from geovq.models.lpips import weights_identity
    from geovq.pipeline.memory import slots_of

    if not (streams and is_beyond_memory(info, config.data.memory_gb)):
        check_memory(info, location)
    config = settled(config, info)
    faults: list[str] = []
    n_images, _ = limited_counts(info.n_train, info.n_test, config.data.limit)
    try:
        n_images -= validation_count(config.data.validation, n_images)
    except ConfigError as error:
        faults.append(str(error))
    image = (info.height, info.width)
    faults += config.vae.faults_with(image, config.grids)
    if config.vae.condition != "none" and info.n_classes == 0:
        faults.append(f"vae.condition={config.vae.condition}: the images have no labels; take vae.condition=none")
    if info.n_classes > 1 and min(image) < SMALLEST_SIDE:
        faults.append(
            f"images of {info.height}x{info.width}: the classifier that the report measures with needs "
            f"{SMALLEST_SIDE} pixels a side; take data.image_size={SMALLEST_SIDE} or more"
        )
    n_tokens = n_images * config.n_tokens
    if n_tokens < slots_of(config)[1]:  # levels need no crowd
        faults.append(
            f"quantizer.K={config.quantizer.K}: there are {n_tokens} training tokens ({n_images} images of "
            f"{config.n_tokens}); choose a smaller K"
        )
    if not config.is_joint and config.geo.k >= n_tokens:
        faults.append(f"geo.k={config.geo.k}: needs more than {n_tokens} training tokens; choose a smaller k")
    if config.has_prior and config.samples.guidance != 1 and info.n_classes == 0:
        faults.append(f"samples.guidance={config.samples.guidance:g}: the images have no labels; leave it at 1")
    weights = config.evaluation.lpips_weights
    if weights is not None and not Path(weights).is_file():
        faults.append(f"evaluation.lpips_weights={weights}: no such file; give torchvision's weights of the backbone")
    if config.evaluation.inception_weights is not None:
        try:
            inception_network(config.evaluation.inception_weights)
        except InputError as error:
            faults.append(str(error))
    for key, losses in config.image_losses.items():
        if losses.features == "classifier" and info.n_classes < 2:
            faults.append(
                f"{key}.features=classifier: the images have fewer than two classes to train it on; take lpips, with "
                "evaluation.lpips_weights"
            )
        if losses.features == "lpips" and weights_identity(weights, config.evaluation.lpips_net) is None:
            faults.append(
                f"{key}.features=lpips: evaluation.lpips_weights=null; give torchvision's weights of the backbone"
            )
    faults += uneven_batches(config, n_images, info.n_classes)
    try:
        evaluators_of(config)
    except ConfigError as error:
        faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def uneven_batches(config: Config, n_images: int, n_classes: int) -> list[str]:
    """Batches that the processes cannot share evenly."""
    n, sizes = config.trainer.devices, {"vae.batch_size": getattr(config.vae, "batch_size", n_images)}
    if config.has_prior:
        sizes["transformer.batch_size"] = config.transformer.batch_size
    if config.finetune.name != "none":
        sizes["finetune.batch_size"] = config.finetune.batch_size
    if n_classes > 1:
        sizes["evaluation.classifier.batch_size"] = config.evaluation.classifier.batch_size
    faults = []
    for key, size in sizes.items():
        taken = min(size, n_images)
        if taken % n:
            of = f" with {n_images} training images" if taken < size else ""
            remedy = f"take {taken // n * n}" if taken > n else "take fewer devices"
            faults.append(f"{key}={size}{of}: trainer.devices={n} processes cannot share a batch evenly; {remedy}")
    return faults


def remarks(config: Config, info: DataInfo) -> list[str]:
    """What runs, but perhaps not as it was meant: a line each."""
    from geovq.data.split import limited_counts
    from geovq.evaluation.generation import LEAST_IMAGES

    told = []
    _, n_test = limited_counts(info.n_train, info.n_test, config.data.limit)
    short = [score for score, least in LEAST_IMAGES.items() if n_test < least]
    short += ["fid", "kid", "intervals"] * (n_test < 2)
    if info.n_classes < 2:
        told.append("the images have fewer than two classes: scores that need a classifier are left out of the report")
    elif short and config.has_prior:
        told.append(f"{n_test} test images are too few for {', '.join(short)}, which are left out of the report")
    if config.has_prior and config.transformer.class_conditional and info.n_classes == 0:
        told.append("the images have no labels: the prior is trained without classes")
    target, bits = config.rate_bits_per_token, math.log2(config.quantizer.K)
    if target is not None and not config.is_joint and abs(target / bits - 1) > 0.05:
        told.append(
            f"the VAE spends {target:g} bits per token and quantizer.K={config.quantizer.K} carries {bits:.3g}: "
            "vae.rate_bits_per_token=log2_K matches them, with a VAE for each K"
        )
    return told
