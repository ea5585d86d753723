"""How close generated images are to real ones, as sets: per-image errors say nothing about samples.

All distances live on the features (N, D) of a network, whose name their scores carry: a Fréchet distance on another
network than Inception-v3 cannot be set beside published FID. Every one of them depends on the number of images: compare
only at equal numbers.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from geovq.errors import InputError
from geovq.evaluation import needs
from geovq.evaluation.evaluator import HIGHER, LOWER, NEITHER, SAMPLES, Measured, Score, evaluator

if TYPE_CHECKING:
    from geovq.pipeline.stages.evaluated_run import EvaluatedRun

LEAST_IMAGES = {"fid": 2, "kid": 2, "precision": 4, "recall": 4}
"""Images that each score needs of both sets: a covariance, pairs, and a third neighbour."""

_CHUNK_BYTES = 100 * 2**20


class _AlreadyFeatures(nn.Module):
    """Stands where torchmetrics expects a feature network; what comes in are features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(real_features: Tensor, generated_features: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to both feature sets (Heusel et al. 2017, eq. 6), in float64.

    Args:
        real_features: (N, D).
        generated_features: (M, D).

    Returns:
        In squared feature units; biased upwards by about 1/N.

    Raises:
        InputError: fewer than two images in a set, other shapes, or features that are not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_features(real_features, generated_features)
    metric = FrechetInceptionDistance(feature=_AlreadyFeatures(real_features.shape[1]), normalize=True)
    for features, is_real in ((real_features, True), (generated_features, False)):
        for part in features.split(max(1, _CHUNK_BYTES // (8 * features.shape[1]))):
            metric.update(part.detach().double().cpu(), real=is_real)
    # eigenvalues of a product of semidefinite matrices lose digits: equal sets can end at -1e-9
    return max(0.0, float(metric.compute()))


def kernel_distance(
    real_features: Tensor, generated_features: Tensor, subsets: int = 50, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with a cubic kernel (Bińkowski et al. 2018), over random subsets.

    Args:
        real_features: (N, D).
        generated_features: (M, D).
        subsets: how many subsets are drawn.
        subset_size: images in each; cut to the smaller set.
        seed: of the draws; the global generator is left as it was.

    Returns:
        Mean and standard deviation over subsets; the estimate is unbiased and may fall below 0.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    _check_features(real_features, generated_features)
    size = min(subset_size, len(real_features), len(generated_features))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance` will save all extracted")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_AlreadyFeatures(real_features.shape[1]),
            subsets=subsets,
            subset_size=size,
            normalize=True,
        )
        metric.update(real_features.detach().double().cpu(), real=True)
        metric.update(generated_features.detach().double().cpu(), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def precision_recall(real_features: Tensor, generated_features: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Each set's manifold is the union of balls around its points that reach to the point's k-th nearest neighbour within
    the set. Precision is the share of generated points inside the real manifold, recall the reverse; both in [0, 1].

    Args:
        real_features: (N, D) with N > k.
        generated_features: (M, D) with M > k.
        k: the neighbour that sets a ball's radius.
    """
    _check_features(real_features, generated_features, at_least=k + 1)
    if k < 1:
        raise InputError(f"k={k}: the radius needs at least the first neighbour")
    real, generated = real_features.detach().float(), generated_features.detach().float()
    precision = _share_inside(generated, real, _neighbour_distance(real, k))
    return precision, _share_inside(real, generated, _neighbour_distance(generated, k))


def _neighbour_distance(points: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, (N,)."""
    radii = []
    for part in points.split(_rows(points)):
        # the point itself is at distance 0 and takes the first place
        radii.append(_distances(part, points).kthvalue(k + 1, dim=1).values)
    return torch.cat(radii)


def _share_inside(queries: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of queries within the radius of any centre."""
    inside = 0
    for part in queries.split(_rows(centres)):
        inside += int((_distances(part, centres) <= radii).any(1).sum())
    return inside / len(queries)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # through products, equal points would come out apart by the square root of the rounding error
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def _rows(points: Tensor) -> int:
    return max(1, _CHUNK_BYTES // (2 * 4 * len(points)))


def _check_features(real: Tensor, generated: Tensor, at_least: int = 2) -> None:
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise InputError(
            f"features of shape {tuple(real.shape)} and {tuple(generated.shape)} must be (N, D) and (M, D)"
        )
    if min(len(real), len(generated)) < at_least:
        raise InputError(f"{len(real)} real and {len(generated)} generated images: give at least {at_least} of each")
    for name, features in (("real", real), ("generated", generated)):
        if not bool(features.isfinite().all()):
            raise InputError(f"{name} features hold NaN or infinity: look at the images and at the classifier")


@evaluator(
    Score(
        "fid_<data>_cnn",
        "FID (our network)",
        "",
        LOWER,
        ".3g",
        "Fréchet distance, Heusel et al. 2017, eq. 6",
        group=SAMPLES,
    ),
    Score("fid_<data>_cnn_without_prior", "FID of random codes", "", NEITHER, ".3g", "what the prior must beat"),
    Score("kid_<data>_cnn", "KID (our network)", "", LOWER, ".3g", "squared MMD, cubic kernel, Bińkowski et al. 2018"),
    Score("kid_<data>_cnn_standard_deviation", "KID, spread", "", NEITHER, ".3g", "over subsets"),
    Score(
        "precision_<data>_cnn", "precision", "", HIGHER, ".3f", "Kynkäänniemi et al. 2019, eq. 1, k = 3", group=SAMPLES
    ),
    Score("recall_<data>_cnn", "recall", "", HIGHER, ".3f", "Kynkäänniemi et al. 2019, eq. 2, k = 3", group=SAMPLES),
    needs=[needs.classifier, needs.prior],
)
def samples(run: EvaluatedRun) -> Measured:
    """`evaluation.n_samples` samples at temperature 1 against all test images, on the classifier's embedding"""
    random = run.inputs["samples"].tensors("without_prior")["images"]
    real, drawn, random = (run.features(images) for images in (run.images, run.samples["images"], random))
    of, values = run.network, dict[str, float]()
    if len(real) >= LEAST_IMAGES["fid"]:
        values |= {f"fid_{of}": frechet(real, drawn), f"fid_{of}_without_prior": frechet(real, random)}
    if len(real) >= LEAST_IMAGES["kid"]:
        distance = kernel_distance(real, drawn, seed=run.config.evaluation.seed)
        values |= dict(zip((f"kid_{of}", f"kid_{of}_standard_deviation"), distance, strict=True))
    if len(real) >= LEAST_IMAGES["precision"]:
        values |= dict(zip((f"precision_{of}", f"recall_{of}"), precision_recall(real, drawn), strict=True))
    least = {name: LEAST_IMAGES[name.split("_")[0]] for name in samples.names(run)}
    reason = f"{len(real)} test images are too few: at least"
    return Measured(values, omitted={name: f"{reason} {n}" for name, n in least.items()})


def _classes(run: EvaluatedRun) -> str | None:
    """a prior with classes"""
    return None if int(run.samples["labels"].min()) >= 0 else "the prior is not class-conditional"


@evaluator(
    Score(
        "sample_class_accuracy",
        "sample accuracy",
        "share",
        HIGHER,
        ".3f",
        "of the class that was asked for",
        group=SAMPLES,
    ),
    needs=[needs.classifier, needs.prior, _classes],
)
def sample_classes(run: EvaluatedRun) -> Measured:
    """Whether the classifier takes samples for the class they were asked for"""
    right = run.classify(run.samples["images"]).argmax(1) == run.samples["labels"]
    return Measured({"sample_class_accuracy": float(right.double().mean())})
