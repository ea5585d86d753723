"""Scores on the Inception-v3 of published FID, KID and Inception score, where its package and weights are there.

The network is torch-fidelity's, a conversion of the original TensorFlow graph with its bilinear resize, so that numbers
can be set beside published ones at equal numbers of images.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.errors import InputError, first_line
from geovq.evaluation import needs
from geovq.evaluation.evaluator import HIGHER, LOWER, SAMPLES, UNQUANTIZED, Measured, Score, evaluator
from geovq.evaluation.generation import (
    RECONSTRUCTIONS,
    TEST,
    TRAINING,
    distances,
    few,
    inception_scores,
    with_floors,
    without_unquantized,
)
from geovq.evaluation.image_sets import drawn

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
_OUTPUTS = ("2048", "logits_unbiased")
"""Features of the two distances, and logits of the Inception score, which leave out the bias as published."""
_BATCH = 50


def inception_network(weights: Path | str) -> nn.Module:
    """The network in evaluation mode: byte images (N, 3, H, W) to features (N, 2048) and logits (N, 1008).

    Args:
        weights: torch-fidelity's state dict, ``FILE``; nothing but tensors is read from it.

    Raises:
        InputError: torch-fidelity is not installed, or the file is not there, is no state dict or another network's.
    """
    key = f"evaluation.inception_weights={weights}"
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"{key}: no such file; give torch-fidelity's {FILE}")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError as error:
        raise InputError(f"{key}: needs the package {error.name}: pip install 'geovq[fidelity]'") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise InputError(f"{key}: cannot be read as a state dict ({first_line(error)[:80]})") from None
    # The class would unpickle the file without restriction, so it is given a copy of what was read with it.
    copy = io.BytesIO()
    torch.save(state, copy)
    copy.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", list(_OUTPUTS), feature_extractor_weights_path=copy)
    except (RuntimeError, TypeError, AttributeError):
        raise InputError(f"{key}: another network's weights; give torch-fidelity's {FILE}, {URL}") from None


def inception_identity(weights: str | None) -> str | None:
    """Which weights there are: a hash of the given file."""
    if weights is None:
        return None
    with Path(weights).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inception_outputs(network: nn.Module, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (N, 2048) and probabilities (N, 1008) of images (N, C, H, W), bytes or floats in [0, 1], C = 1 or 3."""
    parts = []
    with torch.no_grad():
        for batch in images.split(_BATCH):
            if batch.dtype != torch.uint8:
                batch = (batch * 255).round().clamp(0, 255).to(torch.uint8)
            parts.append([each.cpu() for each in network(batch.expand(-1, 3, -1, -1).to(device))])
    features, logits = (torch.cat(each) for each in zip(*parts, strict=True))
    return features, logits.softmax(1)


def _weights(run: EvaluatedRun) -> str | None:
    """weights, given as `evaluation.inception_weights`"""
    if run.config.evaluation.inception_weights is not None:
        return None
    return f"evaluation.inception_weights=null: give torch-fidelity's {FILE}"


def _colours(run: EvaluatedRun) -> str | None:
    """images with one or three channels"""
    channels = run.images.shape[1]
    return None if channels in (1, 3) else f"images have {channels} channels, not 1 or 3"


_on_the_page = partial(Score, group=SAMPLES, at_the_end=False)
FID = _on_the_page("fid_inception", "FID", "", LOWER, ".4g", "Heusel et al. 2017, eq. 6", headline=True)
KID = _on_the_page("kid_inception", "KID", "", LOWER, ".3g", "squared MMD, Bińkowski et al. 2018")
INCEPTION_SCORE = _on_the_page(
    "is_inception", "Inception score", "", HIGHER, ".4g", "Salimans et al. 2016, all images at once"
)


@evaluator(
    *with_floors(FID, error=True),
    *with_floors(KID, error=True),
    *with_floors(INCEPTION_SCORE, error=True, of_test=True),
    needs=[needs.prior, _weights, _colours],
)
def inception(run: EvaluatedRun) -> Measured:
    """Samples at temperature 1 beside their floors, against all test images, sets of equal size, Inception-v3"""
    n, names = run.n_compared, inception.names(run)
    if reason := few("fid", n):
        return Measured(omitted=dict.fromkeys(names, reason))
    network = inception_network(run.config.evaluation.inception_weights or "").to(run.device)
    images = {
        "": run.samples["images"][:n],
        TRAINING: run.images_of("train", n),
        RECONSTRUCTIONS: run.cut(run.quantized, n),
    }
    if needs.points(run) is None:
        images[RECONSTRUCTIONS + UNQUANTIZED] = run.cut(run.unquantized, n)
    outputs = {suffix: inception_outputs(network, each, run.device) for suffix, each in images.items()}
    real, probabilities = inception_outputs(network, run.images, run.device)
    features = {suffix: each for suffix, (each, _) in outputs.items()}
    values = distances(real, features, "inception", drawn(n, len(real)), run.device)
    by_class = {suffix: each for suffix, (_, each) in outputs.items()}
    values |= inception_scores(by_class | {TEST: probabilities}, "inception")
    left_out = dict.fromkeys(names, f"{n} images are too few for a standard error")
    return Measured(values, omitted=left_out | without_unquantized(run, names))
