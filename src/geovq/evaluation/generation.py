"""How close generated images are to test images, as sets, beside the floors that no prior can beat.

Every such score depends on the number of images and on the network whose features it lives on. So all sets that are
held against the test images are cut to ``EvaluatedRun.n_compared``, the name carries the network, and a score of
samples stands beside the same score of training images, of D(μ) and of D(q): the step from the last is the prior's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from geovq.evaluation import needs
from geovq.evaluation.evaluator import (
    HIGHER,
    LOWER,
    NEITHER,
    RECONSTRUCTION,
    SAMPLES,
    UNQUANTIZED,
    Measured,
    Score,
    evaluator,
)
from geovq.evaluation.frechet import frechet, frechet_with_error
from geovq.evaluation.image_sets import drawn
from geovq.evaluation.inception_score import inception_score
from geovq.evaluation.kernel_distance import KernelDistance
from geovq.evaluation.neighbourhoods import DENSITY_K, PRECISION_K, Neighbourhoods

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

LEAST_IMAGES = dict.fromkeys(("precision", "recall"), PRECISION_K + 1) | dict.fromkeys(
    ("density", "coverage"), DENSITY_K + 1
)
"""Images that scores need of both sets, for a neighbour of this number; others two, for a covariance and pairs."""

TRAINING, RECONSTRUCTIONS, ERROR, TEST = "_training", "_reconstructions", "_standard_error", "_test"
"""Ends of the names of floors, of a standard error over draws, and of a score of the test images themselves."""

FLOORS = {
    "training images": TRAINING,
    "D(μ)": RECONSTRUCTIONS + UNQUANTIZED,
    "D(q)": RECONSTRUCTIONS,
}
"""Sets that stand beside the samples, by title: the suffix of their scores."""


def with_floors(score: Score, *, error: bool = False, of_test: bool = False) -> list[Score]:
    """A score of samples, its standard error over draws, and the same score of each floor."""
    found = [score]
    if error:
        spread = Score(score.name + ERROR, f"{score.title}, error", "", NEITHER, ".2g")
        found.append(replace(spread, description="standard error over draws"))
    if of_test:
        found.append(score.of(TEST, "of test images"))
    return [
        *found,
        score.of(TRAINING, "of training images", headline=score.headline),
        score.of(RECONSTRUCTIONS, "of D(q)", headline=score.headline),
        score.of(RECONSTRUCTIONS + UNQUANTIZED, "of D(μ)"),
    ]


_of_samples = partial(Score, group=SAMPLES)
_on_the_page = partial(_of_samples, at_the_end=False)
FID = _of_samples(
    *("fid_<data>_cnn", "FID (our network)", "", LOWER, ".3g", "Fréchet distance, Heusel et al. 2017, eq. 6"),
    headline=True,
)
KID = _on_the_page(
    *("kid_<data>_cnn", "KID (our network)", "", LOWER, ".3g", "squared MMD, cubic kernel, Bińkowski et al. 2018")
)
PRECISION = _of_samples(
    "precision_<data>_cnn", "precision", "", HIGHER, ".3f", "Kynkäänniemi et al. 2019, eq. 1, k = 3"
)
RECALL = _of_samples("recall_<data>_cnn", "recall", "", HIGHER, ".3f", "Kynkäänniemi et al. 2019, eq. 2, k = 3")
DENSITY = _on_the_page(
    "density_<data>_cnn", "density", "", HIGHER, ".3f", "Naeem et al. 2020, eq. 3, k = 5; may exceed 1"
)
COVERAGE = _on_the_page("coverage_<data>_cnn", "coverage", "", HIGHER, ".3f", "Naeem et al. 2020, eq. 4, k = 5")
INCEPTION_SCORE = _on_the_page(
    *("is_<data>_cnn", "Inception score (our network)", "", HIGHER, ".3f"),
    "Salimans et al. 2016, on the classifier's probabilities, all images at once",
)
BY_NEIGHBOURS = (PRECISION, RECALL, DENSITY, COVERAGE)
BESIDE_FLOORS = (FID, KID, *BY_NEIGHBOURS, INCEPTION_SCORE)
"""Scores of samples, each with its floors."""

RFID = Score(
    *("rfid_<data>_cnn", "rFID (our network)", "", LOWER, ".3g"),
    "Fréchet distance of all test images to what their codes decode to",
    group=RECONSTRUCTION,
)
_TOO_FEW = "%d images in the smallest set are too few: at least %d"


def few(name: str, n: int) -> str | None:
    """Why n images are too few for a score; None where they are not."""
    least = 4 if name.endswith(ERROR) else LEAST_IMAGES.get(name.split("_")[0], 2)
    return _TOO_FEW % (n, least) if n < least else None


def _too_few(names: Iterable[str], n: int) -> dict[str, str]:
    return {name: reason for name in names if (reason := few(name, n))}


def _distance(run: EvaluatedRun, name: str, real: Tensor, others: Tensor) -> Measured:
    """The Fréchet distance of two sets of features as one score."""
    reason = few(name, min(len(real), len(others)))
    return Measured(omitted={name: reason}) if reason else Measured({name: frechet(real, others, run.device)})


@evaluator(RFID, needs=[needs.classifier])
def reconstructed_set(run: EvaluatedRun) -> Measured:
    """Test images and what their codes decode to, as sets: on the classifier's embedding"""
    return _distance(run, f"rfid_{run.network}", run.features_of("test"), run.quantized_features)


@evaluator(RFID.of(UNQUANTIZED, "without quantization"), needs=[needs.points, needs.classifier], of_autoencoder=True)
def unquantized_set(run: EvaluatedRun) -> Measured:
    """Test images and what their latents decode to without quantization, as sets"""
    return _distance(run, f"rfid_{run.network}{UNQUANTIZED}", run.features_of("test"), run.unquantized_features)


@evaluator(
    replace(RFID.of(TRAINING, "of training images"), description="the floor"),
    needs=[needs.classifier],
    of_autoencoder=True,
)
def training_set(run: EvaluatedRun) -> Measured:
    """Test images and training images, as sets: what chance alone leaves between sets of this size"""
    test, train = run.features_of("test"), run.features_of("train")
    return _distance(run, f"rfid_{run.network}{TRAINING}", test, run.cut(train, min(len(test), len(train))))


@evaluator(
    Score("n_compared_images", "images in each set", form=".0f", description="held against all test images"),
    *with_floors(FID, error=True),
    Score("fid_<data>_cnn_without_prior", "FID of random codes", "", NEITHER, ".3g", "what the prior must beat"),
    *with_floors(KID, error=True),
    *(each for score in BY_NEIGHBOURS for each in with_floors(score)),
    *with_floors(INCEPTION_SCORE, error=True, of_test=True),
    needs=[needs.classifier, needs.prior],
)
def samples(run: EvaluatedRun) -> Measured:
    """Samples at temperature 1 beside their floors, against all test images: equal sets, on the embedding"""
    n, of = run.n_compared, run.network
    real, sets = run.features_of("test"), _sets(run)
    values = {"n_compared_images": float(n)}
    values |= distances(real, sets, of, drawn(n, len(real)), run.device)
    if n >= 2:
        random = run.features(run.inputs["samples"].tensors("without_prior")["images"][:n])
        values[f"fid_{of}_without_prior"] = frechet(real, random, run.device)
    if n > DENSITY_K:
        among = Neighbourhoods(real, device=run.device)
    elif n > PRECISION_K:
        among = Neighbourhoods(real, k_density=PRECISION_K, device=run.device)
    for suffix, features in sets.items():
        if n > PRECISION_K:
            found = among.scores(features)
            values |= {f"{name}_{of}{suffix}": value for name, value in found.items() if not few(name, n)}
    values |= inception_scores({suffix: run.probabilities(each) for suffix, each in (sets | {TEST: real}).items()}, of)
    names = samples.names(run)
    return Measured(values, omitted=_too_few(names, n) | without_unquantized(run, names))


def without_unquantized(run: EvaluatedRun, names: Iterable[str]) -> dict[str, str]:
    """Why scores of D(μ) are omitted; none where it is there."""
    reason = needs.points(run)
    return {name: reason for name in names if reason and name.endswith(UNQUANTIZED)}


def _sets(run: EvaluatedRun) -> dict[str, Tensor]:
    """Features of the samples and of their floors, ``run.n_compared`` each, by the suffix of their scores."""
    n = run.n_compared
    sets = {"": run.sample_features[:n], TRAINING: run.cut(run.features_of("train"), n)}
    sets[RECONSTRUCTIONS] = run.cut(run.quantized_features, n)
    if needs.points(run) is None:
        sets[RECONSTRUCTIONS + UNQUANTIZED] = run.cut(run.unquantized_features, n)
    return sets


def distances(
    real: Tensor, sets: Mapping[str, Tensor], of: str, made_of: Tensor, device: torch.device | None = None
) -> dict[str, float]:
    """``fid_<of>`` and ``kid_<of>`` of feature sets by suffix, with the standard errors of the set without one;
    ``made_of`` are the rows of ``real`` that those of reconstructions were made of. Computed on ``device``.
    """
    if min(len(each) for each in sets.values()) < 2:
        return {}
    values, kernel = dict[str, float](), KernelDistance(real, device)
    for suffix, features in sets.items():
        if suffix:
            values[f"fid_{of}{suffix}"] = frechet(real, features, device)
            values[f"kid_{of}{suffix}"] = kernel(features, made_of if RECONSTRUCTIONS in suffix else None)
            continue
        for name, (value, error) in (
            (f"fid_{of}", frechet_with_error(real, features, device=device)),
            (f"kid_{of}", kernel.with_error(features)),
        ):
            values |= {name: value} if error is None else {name: value, name + ERROR: error}
    return values


def inception_scores(probabilities: Mapping[str, Tensor], of: str) -> dict[str, float]:
    """``is_<of>`` of class probabilities by suffix, with the standard error of the set without one."""
    values = dict[str, float]()
    for suffix, each in probabilities.items():
        value, error = inception_score(each)
        values[f"is_{of}{suffix}"] = value
        if error is not None and not suffix:
            values[f"is_{of}{ERROR}"] = error
    return values


PRIOR_FID = _on_the_page(
    *("prior_fid_<data>_cnn", "FID to reconstructions", "", LOWER, ".3g"),
    "samples against what the codes of test images decode to: the prior's own part",
)


@evaluator(PRIOR_FID, needs=[needs.classifier, needs.prior])
def prior_alone(run: EvaluatedRun) -> Measured:
    """Samples against reconstructions from the codes of test images, sets of equal size"""
    sampled = run.sample_features[: run.n_compared]
    return _distance(run, f"prior_fid_{run.network}", run.quantized_features, sampled)


@evaluator(
    replace(PRIOR_FID.of(TRAINING, "of training images"), description="its floor: D(q) of as many training images"),
    needs=[needs.classifier, needs.prior, needs.training_codes],
)
def prior_floor(run: EvaluatedRun) -> Measured:
    """Reconstructions from the codes of training images against those of test images, sets of equal size"""
    codes, classes = run.cut(run.codes_of("train"), run.n_compared), run.classes_of("train")
    decoded = run.decoded(run.codec.embed(codes), None if classes is None else run.cut(classes, run.n_compared))
    return _distance(run, f"prior_fid_{run.network}{TRAINING}", run.quantized_features, run.features(decoded))


def _classes(run: EvaluatedRun) -> str | None:
    """a prior with classes"""
    return None if int(run.samples["labels"].min()) >= 0 else "the prior is not class-conditional"


@evaluator(
    _of_samples("sample_class_accuracy", "sample accuracy", "share", HIGHER, ".3f", "of the class that was asked for"),
    needs=[needs.classifier, needs.prior, _classes],
)
def sample_classes(run: EvaluatedRun) -> Measured:
    """Whether the classifier takes samples for the class they were asked for"""
    right = run.probabilities(run.sample_features).argmax(1) == run.samples["labels"]
    return Measured({"sample_class_accuracy": float(right.double().mean())})
